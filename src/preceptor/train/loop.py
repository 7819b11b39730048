"""The training loop, on one page."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from preceptor.core.errors import TrainingError
from preceptor.objectives.batch import Batches
from preceptor.objectives.origin import documents_of
from preceptor.parallel.engine import Engine, GivenUp
from preceptor.train.averaging import WeightAverage
from preceptor.train.guard import Fault, Guard
from preceptor.train.length import Length
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import AveragingConfig, EarlyStoppingConfig
from preceptor.train.run import TrainingConfig
from preceptor.train.schedule import learning_rate_factor
from preceptor.train.state import Hook, StepRecord, StopRequest, Tell, TrainState, Validation
from preceptor.train.step import LossScale, StepGradients, take_gradients, take_in_noise, tell_of_gradients


def _tell_nobody(kind: str, text: str, **facts: Any) -> None:
    """Events that nobody listens to."""


def fit(
    config: TrainingConfig,
    engine: Engine,
    optimizer: Optimizer,
    batches: Batches,
    state: TrainState,
    *,
    length: Length,
    validate: Callable[[], Validation],
    save: Callable[[TrainState], None],
    keep_best: Callable[[TrainState], None] = lambda state: None,
    go_back: Callable[[], TrainState | None] = lambda: None,
    average: WeightAverage | None = None,
    hooks: Sequence[Hook] = (),
    tell: Tell = _tell_nobody,
    stop: StopRequest,
) -> TrainState:
    """The state after training for a length, or until validations no longer get better.

    The whole algorithm is here; the mesh is in ``engine``. At the end the weights are their average, if one is kept.
    ``go_back`` puts the newest checkpoint in the place of weights, optimizer and average, and gives its state.

    Raises:
        Interrupted: a stop was requested; the state was saved first.
        TrainingError: too many steps in a row were bad, and going back did not help; none of them reached the weights.
    """
    average = average or WeightAverage(AveragingConfig(), {})
    steps = _Steps(config, engine, optimizer, batches, state, average, tell, stop)
    while not _is_over(length, state) and not _has_stalled(config.early_stopping, state):
        started = time.perf_counter()
        num_steps = max(length.num_steps(state), state.step + 1)
        try:
            step, fault = steps.sound_gradients()
        except GivenUp:
            save(state)
            stop.check()
            raise
        factor = learning_rate_factor(config.schedule, state.step, num_steps) * batches.rate_scale(state.step)
        is_skipped, measures = steps.update(step, fault, factor, num_steps)
        measured = time.perf_counter()
        state.seconds += measured - started
        if length.duration.is_budget:
            # Whether this was the last step must be the same for all.
            state.seconds = engine.mesh.of_first(state.seconds)
        at_end = length.is_over(state)
        found = _validated(config, state, at_end, average, validate, keep_best)
        record = _record(state, step, config.optimizer.learning_rate * factor, is_skipped, measures, found)
        state.curve.append(record.facts())
        state.seconds = engine.mesh.of_first(state.seconds + time.perf_counter() - measured)
        for hook in hooks:
            hook(record, time.perf_counter() - started)
        if fault is not None:
            # Nothing is saved among bad steps: going back would then lead to them, and elsewhere after a stop.
            _recover(config, state, fault, go_back, tell)
        elif stop.requested or (state.step % config.checkpoint_every_steps == 0 and not at_end):
            save(state)
        stop.check()
    average.take()
    return state


def _record(
    state: TrainState,
    step: StepGradients,
    learning_rate: float,
    is_skipped: bool,
    measures: Mapping[str, float],
    found: Validation | None,
) -> StepRecord:
    return StepRecord(
        step=state.step,
        tokens=state.tokens,
        loss=step.loss,
        learning_rate=learning_rate,
        grad_norm=step.grad_norm,
        skipped=is_skipped,
        validation_loss=found.loss if found else None,
        validation_accuracy=found.accuracy if found else None,
        measures={**measures, **(found.others if found else {})},
    )


class _Steps:
    """Steps one after another: gradients that can be trusted, and what they do to weights and state."""

    def __init__(
        self,
        config: TrainingConfig,
        engine: Engine,
        optimizer: Optimizer,
        batches: Batches,
        state: TrainState,
        average: WeightAverage,
        tell: Tell,
        stop: StopRequest,
    ) -> None:
        self.config, self.engine, self.optimizer, self.batches = config, engine, optimizer, batches
        self.state, self.average, self.tell, self.stop = state, average, tell, stop
        self.guard = Guard(config.guard, state)
        self.loss_scale = LossScale(config.precision, config.batch_tokens, state)

    def _gradients(self) -> StepGradients:
        is_watched = (self.state.step + 1) % self.config.validation_every_steps == 0
        self.engine.loss_scale = self.loss_scale.value
        return take_gradients(
            self.config, self.engine, self.optimizer, self.batches, self.state, self.stop, self.tell, is_watched
        )

    def sound_gradients(self) -> tuple[StepGradients, Fault | None]:
        """The gradients of the next step, and what is wrong with them.

        Those of a bad step are computed twice: where the second result differs, not the data but the machine is at
        fault.
        """
        number, every = self.state.step + 1, self.config.guard.verify_every_steps
        step = self._gradients()
        fault = self.guard.fault(step.loss, step.grad_norm)
        if step.overflowed:
            return step, None
        if fault is None and (not every or number % every):
            return step, None
        first = self.engine.checksum()
        self.engine.clear_gradients()
        step = self._gradients()
        if self.engine.checksum() != first:
            self.tell(
                "machine",
                f"step {number} was computed twice and gave two results, with loss {step.loss} the second time; "
                "the second is used. On a CPU this is a fault of the machine",
                step=number,
            )
            fault = self.guard.fault(step.loss, step.grad_norm)
        if fault is not None:
            documents = documents_of(self.batches.objective, self.batches.rows(self.state.step))
            shown = ", ".join(documents[:4]) + (" ..." if len(documents) > 4 else "")
            self.tell(
                "skipped",
                f"step {number} is skipped, as {fault}; it did not change the weights. Its documents: {shown}",
                step=number,
                fault=fault.facts(),
                documents=documents,
            )
        return step, fault

    def update(
        self, step: StepGradients, fault: Fault | None, factor: float, num_steps: int
    ) -> tuple[bool, dict[str, float]]:
        """Whether a step was skipped, and what was measured; it is now behind."""
        state, measures = self.state, dict(step.measures)
        is_skipped = self.loss_scale.update(step) or fault is not None
        if not is_skipped:
            self.optimizer.step(factor)
            self.guard.take_in(step.loss, step.grad_norm)
            measures |= take_in_noise(state, step)
            tell_of_gradients(state, step, self.tell)
        self.engine.clear_gradients()
        state.step, state.tokens = state.step + 1, state.tokens + step.tokens
        state.skipped_in_a_row = 0 if fault is None else state.skipped_in_a_row + 1
        if is_skipped:
            _leave_out(state, state.step - 1)
        self.average.update(state.step, num_steps)
        return is_skipped, measures


def _recover(
    config: TrainingConfig,
    state: TrainState,
    fault: Fault,
    go_back: Callable[[], TrainState | None],
    tell: Tell,
) -> None:
    """After too many bad steps in a row, go back to the newest checkpoint and pass over the steps since, or stop."""
    if state.skipped_in_a_row < config.guard.skips_before_rollback:
        return
    remedy = "lower the learning rate, or look at the documents of these steps, which the log of events names"
    said = f"{state.skipped_in_a_row} steps in a row up to step {state.step} were skipped, as {fault}"
    if state.rollbacks >= config.guard.max_rollbacks:
        back = f" after going back {state.rollbacks} times" if state.rollbacks else ""
        raise TrainingError(f"{said}{back}; none of them changed the weights", remedy=remedy)
    earlier = go_back()
    if earlier is None:
        raise TrainingError(
            f"{said}; none of them changed the weights, and there is no checkpoint to go back to", remedy=remedy
        )
    tell(
        "rollback",
        f"{said}; the weights are those of step {earlier.step} again, and the steps since are passed over",
        step=state.step,
        weights_of_step=earlier.step,
    )
    state.recent_losses[:], state.recent_norms[:] = earlier.recent_losses, earlier.recent_norms
    state.rollbacks, state.skipped_in_a_row = state.rollbacks + 1, 0
    _leave_out(state, earlier.step)


def _leave_out(state: TrainState, first: int) -> None:
    """Note that the steps from one on, counted from 0, have left nothing in the weights."""
    while state.untrained and state.untrained[-1][1] >= first:
        first = min(first, state.untrained.pop()[0])
    state.untrained.append([first, state.step])


def _is_over(length: Length, state: TrainState) -> bool:
    """Whether training ends here, which is always behind a validation.

    A budget may also be used up by what comes after the decision to validate, or between two sessions: then one more
    step is taken.
    """
    is_over = length.is_over(state)
    return is_over and (not state.curve or "validation_loss" in state.curve[-1])


def _has_stalled(config: EarlyStoppingConfig, state: TrainState) -> bool:
    """Whether validations have not got better for so long that training stops."""
    return 0 < config.patience <= state.checks_since_best


def _validated(
    config: TrainingConfig,
    state: TrainState,
    at_end: bool,
    average: WeightAverage,
    validate: Callable[[], Validation],
    keep_best: Callable[[TrainState], None],
) -> Validation | None:
    """What is measured after a step, if anything is: with the average of the weights, if one is kept."""
    if not at_end and state.step % config.validation_every_steps:
        return None
    with average.applied():
        found = validate()
        if _is_best(config.early_stopping, state, found):
            keep_best(state)
    return found


def _is_best(config: EarlyStoppingConfig, state: TrainState, found: Validation) -> bool:
    """Whether a validation is the best so far; the state then says so, or counts one more that is not.

    Nothing is counted, and nothing is best, where training does not stop early.
    """
    if not config.patience:
        return False
    values = {"loss": found.loss, "accuracy": -found.accuracy, **found.others}
    value = values[config.metric]
    if not math.isfinite(value) or (state.best is not None and not value < state.best - config.min_delta):
        state.checks_since_best += 1
        return False
    state.best, state.best_step, state.checks_since_best = value, state.step, 0
    return True
