"""What a recipe says of the processes that train together."""

import math
import os
from dataclasses import dataclass
from typing import Literal

from preceptor.core.errors import ConfigError

AXES = ("pipeline", "replicate", "shard", "tensor")
"""From the outermost to the innermost: neighbours in the last talk most, so they are neighbouring ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """How many processes train one model together, and what each axis of their mesh does.

    The product of the four axes is the number of processes.
    """

    processes: int = 1
    """How many processes are started on this host; under torchrun, Slurm or Kubernetes as many as these start."""
    replicate: int = 0
    """Over how many groups of processes the rows of a step are dealt, each with a whole model; 0 takes all others."""
    shard: int = 1
    """Over how many processes rows are dealt and weights, gradients and optimizer states are cut up (FSDP)."""
    tensor: int = 1
    """Over how many processes each layer is cut up."""
    pipeline: int = 1
    """Over how many processes, one after another, the layers are dealt."""
    sequence_parallel: bool = False
    """Whether what stands between the layers that tensor cuts up is cut up too, along the row of tokens."""
    reshard_after_forward: bool = True
    """Whether the gathered weights of a layer are let go after its forward pass and gathered anew for its backward."""
    gather_precision: Literal["float32", "bfloat16"] = "float32"
    """In which numbers sharded weights are gathered; bfloat16 takes half the traffic and rounds them."""
    reduce_every_microbatch: bool = False
    """Whether sharded gradients are summed after every micro-batch, which takes less memory and more traffic."""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble"] = "1f1b"
    """In which order a pipeline runs the micro-batches of a step."""
    stages_per_process: int = 1
    """How many stages of the pipeline each process has; more than one with schedule = "interleaved" only."""
    timeout_seconds: float = 300.0
    """How long a process waits for the others before it takes them for lost, and the run ends."""
    max_restarts: int = 3
    """How many times lost processes are started again, from the last checkpoint."""

    def __post_init__(self) -> None:
        """Refuse counts below one, and stages that no schedule uses."""
        for name in ("processes", "shard", "tensor", "pipeline", "stages_per_process"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("replicate", "max_restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")
        if self.sequence_parallel and self.tensor == 1:
            raise ValueError("sequence_parallel cuts up what stands between the layers that tensor cuts up: set tensor")
        if (self.stages_per_process > 1) != (self.schedule == "interleaved"):
            raise ValueError(
                'several stages_per_process are for schedule = "interleaved", which needs at least 2 of them'
            )
        if self.schedule == "interleaved" and self.pipeline == 1:
            raise ValueError('schedule = "interleaved" needs a pipeline of at least 2 processes')


@dataclass(frozen=True, slots=True)
class MeshSizes:
    """How many processes there are along each axis."""

    pipeline: int = 1
    replicate: int = 1
    shard: int = 1
    tensor: int = 1

    @property
    def world(self) -> int:
        """The number of processes."""
        return self.pipeline * self.replicate * self.shard * self.tensor

    @property
    def data(self) -> int:
        """Over how many groups the rows of a step are dealt."""
        return self.replicate * self.shard

    def coordinates(self, rank: int) -> "MeshSizes":
        """Where a process stands along each axis, counted from 0."""
        found = []
        for axis in reversed(AXES):
            rank, place = divmod(rank, getattr(self, axis))
            found.append(place)
        return MeshSizes(*reversed(found))

    def __str__(self) -> str:
        """The axes that are more than one process long."""
        said = [f"{axis} {getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        return " x ".join(said) or "one process"


def sizes_of(config: MeshConfig, world: int) -> MeshSizes:
    """The mesh of so many processes.

    Raises:
        ConfigError: the axes do not multiply to it; names the nearest mesh that does.
    """
    fixed = config.shard * config.tensor * config.pipeline
    replicate = config.replicate or max(1, world // fixed)
    sizes = MeshSizes(config.pipeline, replicate, config.shard, config.tensor)
    if sizes.world == world:
        return sizes
    raise ConfigError(
        f"[mesh]: {sizes} make {sizes.world} processes, and there are {world}",
        path="mesh",
        expected=f"axes whose product is {world}",
        remedy=f"set {_said(nearest(config, world))}, or start {sizes.world} processes (mesh.processes on one host)",
    )


def world_size() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_processes(config: MeshConfig) -> MeshSizes:
    """The mesh of the processes that were started or are to be, before they are.

    Raises:
        ConfigError: it does not fit their number; names the nearest mesh that does.
    """
    return sizes_of(config, world_size() if "RANK" in os.environ else config.processes)


def nearest(config: MeshConfig, world: int) -> MeshSizes:
    """The mesh of so many processes that keeps the most of one that does not fit: tensor first, then pipeline."""
    tensor = math.gcd(config.tensor, world)
    pipeline = math.gcd(config.pipeline, world // tensor)
    shard = math.gcd(config.shard, world // tensor // pipeline)
    return MeshSizes(pipeline, world // tensor // pipeline // shard, shard, tensor)


def _said(sizes: MeshSizes) -> str:
    return ", ".join(f"mesh.{axis} = {getattr(sizes, axis)}" for axis in reversed(AXES))
