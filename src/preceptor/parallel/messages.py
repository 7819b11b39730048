"""States and their gradients on their way between the stages of a pipeline.

Whoever sends goes on at once; whoever needs something waits for it. Messages are told apart by their tags, so that it
does not matter in which order they are asked for.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from preceptor.parallel.mesh import Mesh

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MOST_TENSORS, _MOST_DIMS = 2, 4
_HEADER = 1 + _MOST_TENSORS * (2 + _MOST_DIMS)
_KINDS = ("header", "state", "gradient")


class Messages:
    """What one process of a pipeline sends to others and gets from them; all of it through host memory."""

    def __init__(self, mesh: Mesh) -> None:
        group = mesh.group("pipeline")
        assert group is not None
        self.group, self.processes = group, mesh.sizes.pipeline
        self.ranks = [dist.get_global_rank(group, place) for place in range(self.processes)]
        self._sent: list[tuple[dist.Work, Tensor]] = []

    def send_state(self, tensors: Sequence[Tensor], stage: int, microbatch: int) -> None:
        """Send a state to the stage that goes on with it; its shapes go ahead of it."""
        self._send(_header(tensors), stage, self._tag("header", stage, microbatch, 0))
        for part, tensor in enumerate(tensors):
            self._send(tensor, stage, self._tag("state", stage, microbatch, part))

    def state(self, stage: int, microbatch: int, device: torch.device) -> tuple[Tensor, ...]:
        """The state that a stage goes on with."""
        header = torch.empty(_HEADER, dtype=torch.int64)
        self._receive(header, stage - 1, self._tag("header", stage, microbatch, 0))
        tensors = _announced(header.tolist())
        for part, tensor in enumerate(tensors):
            self._receive(tensor, stage - 1, self._tag("state", stage, microbatch, part))
        return tuple(tensor.to(device) for tensor in tensors)

    def send_gradients(self, tensors: Sequence[Tensor], stage: int, microbatch: int) -> None:
        """Send the gradients of a state back to the stage that made it."""
        for part, tensor in enumerate(tensors):
            self._send(tensor, stage, self._tag("gradient", stage, microbatch, part))

    def gradients(self, of: Sequence[Tensor], stage: int, microbatch: int) -> list[Tensor]:
        """The gradients of a state that a stage made."""
        found = [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in of]
        for part, tensor in enumerate(found):
            self._receive(tensor, stage + 1, self._tag("gradient", stage, microbatch, part))
        return [tensor.to(state.device) for tensor, state in zip(found, of, strict=True)]

    def finish(self) -> None:
        """Wait until all that was sent has arrived."""
        for work, _ in self._sent:
            work.wait()
        self._sent = []

    def _tag(self, kind: str, stage: int, microbatch: int, part: int) -> int:
        stages = 1 << 10
        return ((microbatch * stages + stage) * _MOST_TENSORS + part) * len(_KINDS) + _KINDS.index(kind)

    def _send(self, tensor: Tensor, stage: int, tag: int) -> None:
        held = tensor.detach().to("cpu").contiguous()
        work = dist.isend(held, self.ranks[stage % self.processes], group=self.group, tag=tag)
        assert work is not None
        # Memory must stay until it has been read.
        self._sent = [each for each in self._sent if not each[0].is_completed()]
        self._sent.append((work, held))

    def _receive(self, tensor: Tensor, stage: int, tag: int) -> None:
        dist.recv(tensor, self.ranks[stage % self.processes], group=self.group, tag=tag)


def _header(tensors: Sequence[Tensor]) -> Tensor:
    """How many tensors come, and of each its type and its shape."""
    numbers = [len(tensors)]
    for tensor in tensors:
        numbers += [_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
        numbers += [0] * (_MOST_DIMS - tensor.dim())
    return torch.tensor(numbers + [0] * (_HEADER - len(numbers)), dtype=torch.int64)


def _announced(numbers: Sequence[int]) -> list[Tensor]:
    """Empty tensors as a header says."""
    found = []
    for part in range(numbers[0]):
        dtype, dims, *shape = numbers[1 + part * (2 + _MOST_DIMS) :][: 2 + _MOST_DIMS]
        found.append(torch.empty(shape[:dims], dtype=_DTYPES[dtype]))
    return found
