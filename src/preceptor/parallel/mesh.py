"""The mesh: which process this is, which stand beside it along each axis, and what they tell each other."""

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from preceptor.core.errors import ConfigError
from preceptor.parallel.mesh_config import AXES, MeshConfig, MeshSizes, sizes_of, world_size
from preceptor.parallel.team import Team

Thing = TypeVar("Thing")
_ALONE = MeshSizes()
_LARGE_BYTES = 1 << 19
"""From which a tensor is not worth copying to travel with others."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The processes of a run as one of them sees them. One process is a mesh too, which tells nobody anything."""

    sizes: MeshSizes = _ALONE
    rank: int = 0
    config: MeshConfig = field(default_factory=MeshConfig)
    devices: DeviceMesh | None = None
    """PyTorch's view of it; None with one process."""
    timeout_seconds: float = 300.0
    everyone: dist.ProcessGroup | None = None
    """All processes, where they are not to be spoken to by the group that all of them have anyway."""
    team: Team = field(default_factory=Team)
    """The same processes as they speak where one waits for another for long."""

    @classmethod
    def join(cls, config: MeshConfig, device_type: str = "cpu", team: Team | None = None) -> "Mesh":
        """The mesh of all processes that were started together; waits until all are there.

        Under torchrun, or what else sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Without them, one process.

        Raises:
            ConfigError: the axes do not multiply to the number of processes, or there are fewer GPUs than those here.
        """
        world, rank = world_size(), int(os.environ.get("RANK", "0"))
        sizes = sizes_of(config, world)
        if world == 1:
            return cls(sizes, 0, config, timeout_seconds=config.timeout_seconds)
        timeout = timedelta(seconds=config.timeout_seconds)
        if device_type == "cuda":
            torch.cuda.set_device(_own_gpu())
        if not dist.is_initialized():
            # A team has a store of its own start; what a restart finds in that of the environment may be of the dead.
            store = None if team is None or team.is_alone else PrefixStore("mesh", team.store)
            backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=world)
        devices = init_device_mesh(device_type, tuple(getattr(sizes, axis) for axis in AXES), mesh_dim_names=AXES)
        for axis in AXES:
            # A group made for an axis would wait as long as PyTorch's default says.
            _set_pg_timeout(timeout, devices.get_group(axis))
        return cls(sizes, rank, config, devices, config.timeout_seconds, team=team or Team())

    @staticmethod
    def leave() -> None:
        """Say goodbye to the others, where there are any."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def apart(self, timeout_seconds: float = 1800.0) -> "Mesh":
        """The same processes with a group of their own, by which a thread can speak while another trains.

        All processes must ask for it at the same place. It knows no axes, and waits long: disks may be slow.
        """
        if self.is_alone:
            return self
        longest = timedelta(seconds=max(timeout_seconds, self.timeout_seconds))
        return replace(self, devices=None, everyone=dist.new_group(backend="gloo", timeout=longest))

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return self.sizes.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    @property
    def place(self) -> MeshSizes:
        """Where this process stands along each axis."""
        return self.sizes.coordinates(self.rank)

    @property
    def coordinates(self) -> dict[str, int]:
        """The same by axis."""
        return asdict(self.place)

    @property
    def share(self) -> tuple[int, int]:
        """Which part of the rows of a step is this process's, of how many."""
        return self.place.replicate * self.sizes.shard + self.place.shard, self.sizes.data

    def dealt(self, things: Sequence[Thing]) -> list[tuple[Thing, bool]]:
        """This process's share of some things, as many as every other has; and whether each counts or only fills up."""
        number, shares = self.share
        mine = [(thing, True) for thing in things[number::shares]]
        most = -(-len(things) // shares)
        return mine + [(things[0], False)] * (most - len(mine))

    def group(self, axis: str) -> dist.ProcessGroup | None:
        """The processes beside this one along an axis; None where it is alone there."""
        if self.devices is None or getattr(self.sizes, axis) == 1:
            return None
        return self.devices.get_group(axis)

    def group_among(self, axis: str, places: Collection[int]) -> dist.ProcessGroup | None:
        """Those of the processes along an axis that stand at some places, where this is one of them.

        Every process of the mesh must ask for it, and for all such groups in the same order.
        """
        lines: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.sizes.world):
            coordinates = asdict(self.sizes.coordinates(rank))
            if coordinates.pop(axis) in places:
                lines.setdefault(tuple(coordinates.values()), []).append(rank)
        timeout = timedelta(seconds=self.timeout_seconds)
        groups = [(ranks, dist.new_group(ranks, timeout=timeout)) for ranks in lines.values()]
        return next((group for ranks, group in groups if self.rank in ranks), None)

    def submesh(self, *axes: str) -> DeviceMesh:
        """The processes beside this one along some axes, as PyTorch sees them."""
        assert self.devices is not None
        return self.devices[axes]

    def summed(self, numbers: Sequence[float], axis: str | None = None) -> list[float]:
        """The sums of some numbers over all processes, or over those along an axis; the same bits everywhere."""
        return self._reduced(numbers, dist.ReduceOp.SUM, axis)

    def highest(self, numbers: Sequence[float], axis: str | dist.ProcessGroup | None = None) -> list[float]:
        """The highest of each number over all processes, or over those along an axis or of a group."""
        return self._reduced(numbers, dist.ReduceOp.MAX, axis)

    def of_first(self, number: float) -> float:
        """The number that the first process has."""
        return self.summed([number if self.is_first else 0.0])[0]

    def said_by_first(self, text: str) -> str:
        """What the first process says."""
        return self.gathered(text if self.is_first else "")[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if not self.is_alone:
            dist.barrier(self.everyone)

    def gathered(self, text: str) -> list[str]:
        """What each process says, by rank."""
        if self.is_alone:
            return [text]
        said = (
            torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        )
        lengths = [int(n) for n in self.summed([len(said) * (rank == self.rank) for rank in range(self.sizes.world)])]
        if not max(lengths):
            return [""] * len(lengths)
        heard = [torch.zeros(max(lengths), dtype=torch.uint8) for _ in lengths]
        padded = torch.nn.functional.pad(said, (0, max(lengths) - len(said)))
        dist.all_gather(heard, padded, group=self.everyone)
        return [bytes(each[:length].tolist()).decode() for each, length in zip(heard, lengths, strict=True)]

    def _reduced(
        self, numbers: Sequence[float], how: dist.ReduceOp.RedOpType, axis: str | dist.ProcessGroup | None
    ) -> list[float]:
        group = self.everyone if axis is None else self.group(axis) if isinstance(axis, str) else axis
        if self.is_alone or (axis is not None and group is None):
            return list(numbers)
        # Sums stay exact to the last bits in float64, and all processes get the same of them.
        told = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(told, how, group=group)
        return [float(number) for number in told.tolist()]


def _own_gpu() -> int:
    """The GPU of this process among those of its host."""
    place, here, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count(), _processes_here()
    if there > here:
        raise ConfigError(
            f"{there} processes on a host with {here} GPUs",
            path="mesh.processes",
            remedy=f'start {here} on each host, or set device = "cpu"',
        )
    return place


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


ALONE = Mesh()


def all_reduce(tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum each tensor over a group in place: large ones from where they lie, small ones of a type together."""
    if group is None:
        return
    small: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.nbytes >= _LARGE_BYTES and tensor.is_contiguous():
            dist.all_reduce(tensor, group=group)
        else:
            small.setdefault(tensor.dtype, []).append(tensor)
    for alike in small.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.all_reduce(flat, group=group)
        for tensor, summed in zip(alike, torch.split(flat, [tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(summed.view_as(tensor))
