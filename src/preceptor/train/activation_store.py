"""Where the tensors that the backward pass needs are kept meanwhile: in the host's memory, or in a file."""

import weakref
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from preceptor.train.scratch_file import ScratchFile

SMALLEST_BYTES = 1 << 14
"""What is smaller stays where it is."""


class Place(Protocol):
    """Where bytes are kept until they are asked for."""

    def load(self, device: torch.device) -> Tensor:
        """The bytes, as a tensor of uint8."""
        ...

    def release(self) -> None:
        """Forget the bytes."""
        ...


class Keeper(Protocol):
    """What takes bytes and says where they are."""

    def keep(self, content: Tensor) -> Place:
        """The place of the bytes of a tensor of uint8."""
        ...


class HostKeeper:
    """The memory of the host, into which a GPU copies while it goes on computing."""

    def keep(self, content: Tensor) -> Place:
        """A copy; of what is in the host's memory already, the tensor itself."""
        if content.device.type == "cpu":
            return _InHost(content)
        held = torch.empty(content.shape, dtype=content.dtype, pin_memory=True)
        return _InHost(held.copy_(content, non_blocking=True))


@dataclass(slots=True)
class _InHost:
    content: Tensor | None

    def load(self, device: torch.device) -> Tensor:
        assert self.content is not None
        return self.content.to(device, non_blocking=True)

    def release(self) -> None:
        self.content = None


class DiskKeeper:
    """A file, in which each step writes over what the step before left."""

    def __init__(self, file: ScratchFile) -> None:
        self.file = file
        self._order: list[weakref.ref[_OnDisk]] = []

    def keep(self, content: Tensor) -> Place:
        """A stretch of the file.

        Raises:
            OutputError: the disk is full.
        """
        place, size = self.file.allocate(content.nbytes)
        self.file.write(content.cpu(), place)
        kept = _OnDisk(self.file, place, size, content.nbytes, self._last())
        self._order.append(weakref.ref(kept))
        return kept

    def _last(self) -> "weakref.ref[_OnDisk] | None":
        """What was written last and is still needed."""
        while self._order and self._order[-1]() is None:
            self._order.pop()
        return self._order[-1] if self._order else None


@dataclass(slots=True, weakref_slot=True)
class _OnDisk:
    file: ScratchFile
    place: int
    size: int
    num_bytes: int
    before: "weakref.ref[_OnDisk] | None"
    """What was written before, which the backward pass needs after."""

    def load(self, device: torch.device) -> Tensor:
        if self.before is not None and (before := self.before()) is not None:
            self.file.expect(before.place, before.num_bytes)
        return self.file.read(self.num_bytes, self.place).to(device)

    def release(self) -> None:
        self.file.release(self.place, self.size)


class _Kept:
    """One memory block that is kept for all tensors that lie in it; it is loaded once, until none needs it."""

    __slots__ = ("__weakref__", "_loaded", "_place", "device")

    def __init__(self, place: Place, device: torch.device) -> None:
        self.device, self._place = device, place
        self._loaded: Tensor | None = None

    def load(self) -> Tensor:
        """The block, as a tensor of uint8."""
        if self._loaded is None:
            self._loaded = self._place.load(self.device)
        return self._loaded

    def __del__(self) -> None:
        self._place.release()


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor in a block that is kept."""

    block: _Kept
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        flat = self.block.load().view(self.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset)


class ActivationStore:
    """Keeps what autograd saves within ``hooks`` elsewhere, bit for bit.

    A memory block that several tensors share is kept once. What lives anyway is left alone: the blocks in ``resident``,
    given by their addresses, which are those of the weights.
    """

    def __init__(self, keeper: Keeper, resident: Collection[int]) -> None:
        self.keeper, self.resident = keeper, resident
        self.kept_bytes = 0
        """How many bytes were handed to the keeper in all."""
        self._blocks: dict[tuple[StorageWeakRef, int], weakref.ref[_Kept]] = {}

    def hooks(self) -> saved_tensors_hooks:
        """A block in which what autograd saves is kept here."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Tensor | _View:
        storage = tensor.untyped_storage()
        is_plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
        if not is_plain or storage.nbytes() < SMALLEST_BYTES or storage.data_ptr() in self.resident:
            return tensor.detach()
        key = (StorageWeakRef(storage), tensor._version)  # type: ignore[no-untyped-call]
        found = self._blocks.get(key)
        block = None if found is None else found()
        if block is None:
            content = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            block = _Kept(self.keeper.keep(content), tensor.device)
            self.kept_bytes += content.nbytes
            self._forget_dead()
            self._blocks[key] = weakref.ref(block)
        return _View(block, tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

    def _unpack(self, packed: Tensor | _View) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed.tensor()

    def _forget_dead(self) -> None:
        """Forget blocks whose memory is gone or that nothing needs any longer."""
        for key, block in list(self._blocks.items()):
            if block() is None or key[0].expired():  # type: ignore[no-untyped-call]
                del self._blocks[key]
