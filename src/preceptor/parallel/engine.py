"""The engine: the only one who knows how many processes there are. One process is the mesh of one."""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
Taken = TypeVar("Taken", contravariant=True)
_LAYER = re.compile(r"(?:^|\.)layers\.\d+(?=\.)")


class SummedLoss(Protocol):
    """A loss as a sum with its count."""

    @property
    def total(self) -> Tensor:
        """The sum in nats."""
        ...

    @property
    def correct(self) -> Tensor:
        """How many predictions were right."""
        ...

    @property
    def tokens(self) -> int:
        """How many tokens were supervised."""
        ...


class Objective(Protocol[Taken]):
    """What the engine needs of an objective: the summed loss of a batch."""

    def loss(self, model: nn.Module, batch: Taken) -> SummedLoss:
        """The summed loss of a batch, ready for ``backward``."""
        ...


class StepSums(NamedTuple):
    """What the micro-batches of a step come to."""

    total: float
    """The loss in nats."""
    correct: int
    tokens: int
    first_tokens: int = 0
    """The supervised tokens of the first micro-batch, where there are several."""
    first_norm: float = 0.0
    """The norm of the gradients after the first micro-batch, as far as they are scaled then."""


class GivenUp(Exception):
    """Someone asked to give up a step between two micro-batches; nothing is left of it but gradients."""


def _never() -> bool:
    return False


class Engine:
    """A placed model with its gradients.

    Gradients are those of the summed loss until they are scaled once by the count of supervised tokens of the whole
    step, so micro-batches, packing and masked labels all give the same update. The products are computed in ``dtype``,
    the weights and the sums of gradients stay in float32.
    """

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.loss_scale = 1.0
        """What losses are multiplied by before their gradients are taken; ``scale_and_clip`` takes it out again."""

    def forward_backward(
        self, objective: Objective[Batch], microbatches: Sequence[Batch], give_up: Callable[[], bool] = _never
    ) -> StepSums:
        """The sums of a step, whose gradients are accumulated.

        Raises:
            GivenUp: ``give_up`` said so between two micro-batches.
        """
        self.model.train()
        total, correct, tokens = 0.0, 0, 0
        first_tokens, first_norm = 0, 0.0
        for number, batch in enumerate(microbatches):
            if number and give_up():
                raise GivenUp
            with self._computing():
                loss = objective.loss(self.model, self._on_device(batch))
            scaled = loss.total if self.loss_scale == 1.0 else loss.total * self.loss_scale
            scaled.backward()  # type: ignore[no-untyped-call]
            total, correct, tokens = total + loss.total.item(), correct + int(loss.correct), tokens + loss.tokens
            if number == 0 and len(microbatches) > 1:
                first_tokens, first_norm = tokens, self._norm(self.gradients())
        return StepSums(total, correct, tokens, first_tokens, first_norm)

    @torch.no_grad()
    def evaluate(self, objective: Objective[Batch], batches: Iterable[Batch]) -> tuple[float, int, int]:
        """Summed loss in nats, right predictions and supervised tokens, without gradients or dropout."""
        self.model.eval()
        with self._computing():
            sums = [objective.loss(self.model, self._on_device(batch)) for batch in batches]
        return (
            math.fsum(loss.total.item() for loss in sums),
            sum(int(loss.correct) for loss in sums),
            sum(loss.tokens for loss in sums),
        )

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _on_device(self, batch: Batch) -> Batch:
        return batch if self.device.type == "cpu" else moved(batch, self.device)

    def gradients(self) -> list[Tensor]:
        """The gradients of the trainable parameters that have one."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def checksum(self) -> int:
        """A number that changes with any bit of any gradient."""
        total = 0
        for place, gradient in enumerate(self.gradients()):
            words = gradient.detach().contiguous().view(torch.uint8).to(torch.int64)
            total += (place + 1) * int(words.sum())
        return total

    @torch.no_grad()
    def layer_gradients(self, scale: float) -> dict[str, tuple[float, float]]:
        """For each part, the lowest first, the norm and the root mean square of its gradients times a scale.

        A part is a layer, or the weights below or above all layers: ``below`` and ``above``.
        """
        names = [name for name, p in self.parameters.items() if p.grad is not None]
        inside = [place for place, name in enumerate(names) if _LAYER.search(name)]
        squares: dict[str, tuple[float, int]] = {}
        for place, name in enumerate(names):
            found = _LAYER.search(name)
            part = name[: found.end()] if found else "below" if not inside or place < inside[0] else "above"
            gradient = cast(Tensor, self.parameters[name].grad)
            before, count = squares.get(part, (0.0, 0))
            squares[part] = before + float(gradient.norm()) ** 2 * scale**2, count + gradient.numel()
        return {part: (math.sqrt(square), math.sqrt(square / count)) for part, (square, count) in squares.items()}

    def scale_and_clip(self, scale: float, max_norm: float | None, max_value: float | None = None) -> float:
        """The norm of the scaled gradients before clipping; they are then scaled and clipped in place.

        Where both limits are given each element is brought within ``max_value`` first, and then all within the norm.
        """
        gradients = self.gradients()
        scale /= self.loss_scale
        norm = total = self._norm(gradients) * scale
        if max_value is not None:
            torch._foreach_mul_(gradients, scale)
            torch._foreach_clamp_min_(gradients, -max_value)
            torch._foreach_clamp_max_(gradients, max_value)
            total, scale = self._norm(gradients), 1.0
        factor = scale if max_norm is None or total <= max_norm else scale * max_norm / (total + 1e-12)
        torch._foreach_mul_(gradients, factor)
        return norm

    @staticmethod
    def _norm(gradients: list[Tensor]) -> float:
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch whose tensors are on a device: a tensor, or a tuple or dataclass of such and of anything else."""
    found: Any = batch
    if isinstance(found, Tensor):
        found = found.to(device, non_blocking=True)
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        found = type(found)(*(moved(each, device) for each in found))
    elif is_dataclass(found) and not isinstance(found, type):
        found = replace(found, **{each.name: moved(getattr(found, each.name), device) for each in fields(found)})
    return cast(Batch, found)


def chosen_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def place(model: nn.Module, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Engine:
    """An engine for a model on one device of this process alone: the CPU, where none is named."""
    device = device or torch.device("cpu")
    return Engine(model.to(device), device, dtype)
