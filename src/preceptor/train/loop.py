"""The training loop, on one page."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from preceptor.core.errors import TrainingError
from preceptor.core.seeds import derive
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import Engine
from preceptor.train.averaging import WeightAverage
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import AveragingConfig, EarlyStoppingConfig
from preceptor.train.run import TrainingConfig
from preceptor.train.schedule import learning_rate_factor

MAX_SKIPPED_IN_A_ROW = 3


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

    def facts(self) -> dict[str, Any]:
        """The record without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None and value is not False}


@dataclass(slots=True)
class TrainState:
    """Where a run stands: all that is not weights or optimizer state."""

    step: int = 0
    tokens: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    best: float | None = None
    """The best validation so far, where training may stop early."""
    best_step: int = 0
    checks_since_best: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: Mapping[str, Any] = field(default_factory=dict)


class Validation(NamedTuple):
    """What is measured on the validation tokens: the mean loss in nats, and the share of right predictions."""

    loss: float
    accuracy: float


class StopRequest(Protocol):
    """Whether someone asked the run to stop."""

    @property
    def requested(self) -> bool:
        """Whether to stop after this step."""
        ...

    def check(self) -> None:
        """Raise Interrupted where one was asked for."""
        ...


Hook = Callable[[StepRecord, float], None]
"""Told of every step and of the seconds it took; it cannot change the run."""


def fit(
    config: TrainingConfig,
    engine: Engine,
    optimizer: Optimizer,
    batches: Batches,
    state: TrainState,
    *,
    num_steps: int,
    validate: Callable[[], Validation],
    save: Callable[[TrainState], None],
    keep_best: Callable[[TrainState], None] = lambda state: None,
    average: WeightAverage | None = None,
    hooks: Sequence[Hook] = (),
    stop: StopRequest,
) -> TrainState:
    """The state after training until ``num_steps``, or until validations no longer get better.

    The whole algorithm is here; the mesh is in ``engine``. At the end the weights are their average, if one is kept.

    Raises:
        Interrupted: a stop was requested; the state was saved first.
        TrainingError: the loss was not finite several times in a row; no such step reached the weights.
    """
    average = average or WeightAverage(AveragingConfig(), {})
    while state.step < num_steps and not _is_over(config.early_stopping, state):
        started = time.perf_counter()
        # Dropout's numbers are a function of the step, so that resuming needs no state of a generator.
        torch.manual_seed(derive(batches.seed, "dropout", state.step))
        total, _, tokens = engine.forward_backward(batches.objective, batches.at(state.step))
        optimizer.hold_back(state.step)
        grad_norm = engine.scale_and_clip(1 / max(1, tokens), config.max_grad_norm, config.max_grad_value)
        factor = learning_rate_factor(config.schedule, state.step, num_steps) * batches.rate_scale(state.step)
        finite = math.isfinite(total) and math.isfinite(grad_norm)
        if finite:
            optimizer.step(factor)
        engine.clear_gradients()
        state.step, state.tokens = state.step + 1, state.tokens + tokens
        state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
        average.update(state.step, num_steps)
        at_end = state.step == num_steps
        record = StepRecord(
            step=state.step,
            tokens=state.tokens,
            loss=total / max(1, tokens),
            learning_rate=config.optimizer.learning_rate * factor,
            grad_norm=grad_norm,
            skipped=not finite,
            **_validated(config, state, at_end, average, validate, keep_best),
        )
        state.curve.append(record.facts())
        elapsed = time.perf_counter() - started
        state.seconds += elapsed
        for hook in hooks:
            hook(record, elapsed)
        _require_progress(state, batches)
        if stop.requested or (state.step % config.checkpoint_every_steps == 0 and not at_end):
            save(state)
        stop.check()
    average.take()
    return state


def _require_progress(state: TrainState, batches: Batches) -> None:
    """Refuse to go on after too many steps in a row that changed nothing."""
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise TrainingError(
            f"the loss or its gradient was not finite for {MAX_SKIPPED_IN_A_ROW} steps up to step {state.step} "
            f"(rows {batches.rows(state.step - 1)[:4]} ...); none of these steps changed the weights",
            remedy="lower the learning rate, or look at the data of these rows",
        )


def _is_over(config: EarlyStoppingConfig, state: TrainState) -> bool:
    """Whether validations have not got better for so long that training stops."""
    return 0 < config.patience <= state.checks_since_best


def _validated(
    config: TrainingConfig,
    state: TrainState,
    at_end: bool,
    average: WeightAverage,
    validate: Callable[[], Validation],
    keep_best: Callable[[TrainState], None],
) -> dict[str, float]:
    """What is measured after a step, if anything is: with the average of the weights, if one is kept."""
    if not at_end and state.step % config.validation_every_steps:
        return {}
    with average.applied():
        found = validate()
        if _is_best(config.early_stopping, state, found):
            keep_best(state)
    return {"validation_loss": found.loss, "validation_accuracy": found.accuracy}


def _is_best(config: EarlyStoppingConfig, state: TrainState, found: Validation) -> bool:
    """Whether a validation is the best so far; the state then says so, or counts one more that is not.

    Nothing is counted, and nothing is best, where training does not stop early.
    """
    if not config.patience:
        return False
    value = found.loss if config.metric == "loss" else -found.accuracy
    if state.best is not None and not value < state.best - config.min_delta:
        state.checks_since_best += 1
        return False
    state.best, state.best_step, state.checks_since_best = value, state.step, 0
    return True
