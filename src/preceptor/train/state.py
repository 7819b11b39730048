"""What a run knows of itself: what a step did, where training stands, and who listens."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step did. Losses are means in nats over the supervised tokens."""

    step: int
    tokens: int
    loss: float
    learning_rate: float
    grad_norm: float
    skipped: bool
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """What else was measured at this step, by name: norms of layers, the noise of the gradient, other validations."""

    def facts(self) -> dict[str, Any]:
        """The record without what was not measured; measures stand beside the rest."""
        said = asdict(self)
        del said["measures"]
        kept = {key: value for key, value in said.items() if value is not None and value is not False}
        return kept | dict(self.measures)


@dataclass(slots=True)
class TrainState:
    """Where a run stands: all that is not weights or optimizer state. All of it is in every checkpoint."""

    step: int = 0
    tokens: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    best: float | None = None
    """The best validation so far, where training may stop early."""
    best_step: int = 0
    checks_since_best: int = 0
    rows_per_microbatch: int = 0
    """How many rows one forward pass takes since memory ran out; 0 as the settings say."""
    loss_scale: float = 0.0
    """What losses are multiplied by in float16; 0 before the first step."""
    steps_since_overflow: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """The losses of the last steps that reached the weights, oldest first; the guard judges by them and their norms."""
    recent_norms: list[float] = field(default_factory=list)
    rollbacks: int = 0
    untrained: list[list[int]] = field(default_factory=list)
    """Ranges of steps, first and one past the last, counted from 0, that left nothing in the weights."""
    noise: list[float] = field(default_factory=list)
    """Running averages of the gradient's squared length and variance, with the share of them that is known."""
    health: str = ""
    """What was last said of gradients that vanish or explode."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: Mapping[str, Any] = field(default_factory=dict)


class Validation(NamedTuple):
    """What is measured on the validation tokens: the mean loss in nats, and the share of right predictions."""

    loss: float
    accuracy: float
    others: Mapping[str, float] = {}
    """What was measured on other named sets, by the name of the measure."""


class StopRequest(Protocol):
    """Whether someone asked the run to stop."""

    @property
    def signal(self) -> int | None:
        """By which signal."""
        ...

    @property
    def requested(self) -> bool:
        """Whether to stop after this step."""
        ...

    def check(self) -> None:
        """Raise Interrupted where one was asked for."""
        ...


Hook = Callable[[StepRecord, float], None]
"""Told of every step and of the seconds it took; it cannot change the run."""

Tell = Callable[..., None]
"""Told of what is out of the ordinary: a kind and what is known of it, which can be written as JSON."""
