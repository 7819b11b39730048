"""What the axes of a mesh make of a model: the weights that one process holds, and how a step runs over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.distributed import ProcessGroup

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


class Handed(Exception):
    """Not an error: a stage of a pipeline that is not the last is through with a batch."""

    def __init__(self, state: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.state = state
        """What the next stage goes on with."""


def passed(objective: Any, model: nn.Module, batch: Any) -> tuple[Any, ...]:
    """What a batch comes to: summed loss, right predictions and supervised tokens, or the state for the next stage."""
    try:
        found = objective.loss(model, batch)
    except Handed as handed:
        return handed.state
    return found.total, found.correct, found.tokens


class Passes(Protocol):
    """How one batch goes through a model, where the gradients of its weights are not simply beside them."""

    def begin(self, is_last: bool) -> None:
        """Told before each micro-batch whether it is the last of its step."""
        ...

    def loss(self, objective: Any, batch: Any) -> tuple[Any, ...]:
        """The summed loss of a batch with its right predictions and supervised tokens.

        Of a stage of a pipeline that is not the last, the state for the next one.
        """
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

    def loss(self, objective: Any, batch: Any) -> tuple[Any, ...]:
        """The summed loss of a batch with its right predictions and supervised tokens."""
        return passed(objective, self.model, batch)

    def collect(self) -> None:
        """Nothing is to be done."""

    def clear(self) -> None:
        """Nothing is to be done."""


class ChunkPasses:
    """Passes through each of the stages of a pipeline that one process has."""

    def __init__(self, parts: Sequence[Passes]) -> None:
        self.parts = list(parts)

    def begin(self, is_last: bool) -> None:
        """Told to all of them."""
        for part in self.parts:
            part.begin(is_last)

    def loss(self, objective: Any, batch: Any) -> tuple[Any, ...]:
        """The summed loss of a batch, or the state for the next stage, from the last of them."""
        return self.parts[-1].loss(objective, batch)

    def collect(self) -> None:
        """Put the gradients of a step beside the weights."""
        for part in self.parts:
            part.collect()

    def clear(self) -> None:
        """Forget them where they were."""
        for part in self.parts:
            part.clear()


@dataclass(frozen=True, slots=True)
class Placed:
    """A model as one process holds it once the axes of the mesh have cut it up."""

    model: nn.Module
    """The whole module, or a list of the stages of a pipeline that are this process's."""
    weights: dict[str, nn.Parameter]
    """All weights that this process holds, each a plain tensor; under the names they have in the whole model."""
    pieces: dict[str, Piece]
    """Which part of the whole each of them is."""
    passes: Passes
    schedule: Schedule | None = None
    """Who runs the micro-batches of a step, where the model is one stage of several; it uses the passes."""
    sums: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What is still to be summed after the backward pass: an axis, and the weights with partial gradients on it."""
    shared: tuple[tuple[ProcessGroup, tuple[str, ...]], ...] = ()
    """The same for weights that some stages of a pipeline hold and others do not, with the processes that do."""

    @property
    def chunks(self) -> list[nn.Module]:
        """The modules in which weights have the names of the whole: one, or each stage that is this process's."""
        return [self.model] if self.schedule is None else list(self.model.children())
