"""The engine: the only one who knows how many processes there are. One process is the mesh of one."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch", contravariant=True)


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


class Objective(Protocol[Batch]):
    """What the engine needs of an objective: the summed loss of a batch."""

    def loss(self, model: nn.Module, batch: Batch) -> SummedLoss:
        """The summed loss of a batch, ready for ``backward``."""
        ...


class Engine:
    """A placed model with its gradients.

    Gradients are those of the summed loss until they are scaled once by the count of supervised tokens of the whole
    step, so micro-batches, packing and masked labels all give the same update.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def forward_backward(self, objective: Objective[Batch], microbatches: Sequence[Batch]) -> tuple[float, int, int]:
        """Summed loss in nats, right predictions and supervised tokens of a step, whose gradients are accumulated."""
        self.model.train()
        total, correct, tokens = 0.0, 0, 0
        for batch in microbatches:
            loss = objective.loss(self.model, batch)
            loss.total.backward()  # type: ignore[no-untyped-call]
            total, correct, tokens = total + loss.total.item(), correct + int(loss.correct), tokens + loss.tokens
        return total, correct, tokens

    @torch.no_grad()
    def evaluate(self, objective: Objective[Batch], batches: Iterable[Batch]) -> tuple[float, int, int]:
        """Summed loss in nats, right predictions and supervised tokens, without gradients or dropout."""
        self.model.eval()
        sums = [objective.loss(self.model, batch) for batch in batches]
        return (
            math.fsum(loss.total.item() for loss in sums),
            sum(int(loss.correct) for loss in sums),
            sum(loss.tokens for loss in sums),
        )

    def gradients(self) -> list[Tensor]:
        """The gradients of the trainable parameters that have one."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def scale_and_clip(self, scale: float, max_norm: float | None, max_value: float | None = None) -> float:
        """The norm of the scaled gradients before clipping; they are then scaled and clipped in place.

        Where both limits are given each element is brought within ``max_value`` first, and then all within the norm.
        """
        gradients = self.gradients()
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


def place(model: nn.Module) -> Engine:
    """An engine for a model on this process alone."""
    return Engine(model)
