"""What the axes of a mesh make of a model: the weights that one process holds, and how a step runs over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from preceptor.parallel.layout import Piece

Taken = TypeVar("Taken", contravariant=True)


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


class Passes(Protocol):
    """How one batch goes through a model, where the gradients of its weights are not simply beside them."""

    def begin(self, is_last: bool) -> None:
        """Told before each micro-batch whether it is the last of its step."""
        ...

    def loss(self, objective: Any, batch: Any) -> tuple[Tensor, Tensor, int]:
        """The summed loss of a batch with its right predictions and supervised tokens."""
        ...

    def collect(self) -> None:
        """Put the gradients of a step beside the weights."""
        ...

    def clear(self) -> None:
        """Forget them where they were."""
        ...


class Schedule(Protocol):
    """The order in which a stage of a pipeline runs the micro-batches of a step."""

    def train(self, objective: Any, batches: Sequence[Any], scale: float) -> tuple[float, int, int]:
        """Loss, right predictions and supervised tokens, as the last stage knows them; 0 elsewhere.

        Gradients, of the loss times ``scale``, are accumulated.
        """
        ...

    def evaluate(self, objective: Any, batches: Sequence[Any]) -> list[tuple[float, int, int]]:
        """The same of each batch, without gradients."""
        ...


class OnePass:
    """A batch goes through the model, and gradients are where autograd leaves them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def begin(self, is_last: bool) -> None:
        """Nothing is to be done."""

    def loss(self, objective: Any, batch: Any) -> tuple[Tensor, Tensor, int]:
        """The summed loss of a batch with its right predictions and supervised tokens."""
        found = objective.loss(self.model, batch)
        return found.total, found.correct, found.tokens

    def collect(self) -> None:
        """Nothing is to be done."""

    def clear(self) -> None:
        """Nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A model as one process holds it once the axes of the mesh have cut it up."""

    model: nn.Module
    """The whole module, or the part of it that is this process's stage."""
    weights: dict[str, nn.Parameter]
    """All weights that this process holds, each a plain tensor; under the names they have in the whole model."""
    pieces: dict[str, Piece]
    """Which part of the whole each of them is."""
    passes: Passes
    schedule: Schedule | None = None
    """Who runs the micro-batches of a step, where the model is one stage of several; it uses the passes."""
    sums: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What is still to be summed after the backward pass: an axis, and the weights with partial gradients on it."""
