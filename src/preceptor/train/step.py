"""The gradients of one step: out-of-memory survived, the loss scaled, and what is measured on the way."""

import math
from dataclasses import dataclass, field, replace

import torch

from preceptor.core.seeds import derive
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import Engine, GivenUp, StepSums
from preceptor.train.guard import gradient_health
from preceptor.train.optim import Optimizer
from preceptor.train.precision_config import PrecisionConfig
from preceptor.train.run import TrainingConfig
from preceptor.train.state import StopRequest, Tell, TrainState

_NOISE_DECAY = 0.95


@dataclass(frozen=True, slots=True)
class StepGradients:
    """What is known of a step before it reaches the weights; its gradients, clipped, are with the engine."""

    loss: float
    """The mean in nats."""
    tokens: int
    grad_norm: float
    """Before clipping."""
    overflowed: bool = False
    """Whether the gradients, and not the loss, left the range of float16."""
    measures: dict[str, float] = field(default_factory=dict)
    root_mean_squares: dict[str, float] = field(default_factory=dict)
    """Of the gradients of each part, where they were looked at."""
    noise: tuple[float, float] | None = None


def take_gradients(
    config: TrainingConfig,
    engine: Engine,
    optimizer: Optimizer,
    batches: Batches,
    state: TrainState,
    stop: StopRequest,
    tell: Tell,
    is_watched: bool = False,
) -> StepGradients:
    """The gradients of the step that comes next; with smaller micro-batches, now and from now on, if memory runs out.

    Raises:
        GivenUp: a stop was asked for between two micro-batches.
    """
    sums = _summed(engine, batches, state, stop, tell)
    optimizer.hold_back(state.step)
    scale = 1 / max(1, sums.tokens)
    parts = engine.layer_gradients(scale / engine.loss_scale) if is_watched else {}
    norm = engine.scale_and_clip(scale, config.max_grad_norm, config.max_grad_value)
    loss = sums.total * scale
    is_whole = all(group.from_step <= state.step for group in config.optimizer.groups)
    return StepGradients(
        loss=loss,
        tokens=sums.tokens,
        grad_norm=norm,
        overflowed=config.precision.kind == "float16" and math.isfinite(loss) and not math.isfinite(norm),
        measures={f"grad_norm/{part}": norm for part, (norm, _) in parts.items()},
        root_mean_squares={part: rms for part, (_, rms) in parts.items()},
        noise=_noise(sums, norm, engine.loss_scale) if is_whole and sums.first_tokens else None,
    )


def _summed(engine: Engine, batches: Batches, state: TrainState, stop: StopRequest, tell: Tell) -> StepSums:
    while True:
        # Dropout's numbers are a function of the step, so that resuming needs no state of a generator.
        # Who reads other rows drops other elements.
        part = engine.mesh.share[0]
        torch.manual_seed(derive(batches.seed, "dropout", state.step, *([part] if part else [])))
        rows = state.rows_per_microbatch or batches.rows_per_microbatch
        try:
            sums = engine.forward_backward(
                batches.objective,
                replace(batches, rows_per_microbatch=rows).at(state.step, engine.mesh.share),
                lambda: stop.requested,
            )
        except GivenUp:
            engine.clear_gradients()
            raise
        except (MemoryError, RuntimeError) as error:
            # Others are in the middle of a sum with this process, and would wait for it.
            if not is_out_of_memory(error) or rows == 1 or not engine.mesh.is_alone:
                raise
            reason = str(error).splitlines()[0]
        else:
            return sums
        # Outside the handler, whose traceback holds what did not fit.
        engine.clear_gradients()
        if engine.device.type == "cuda":
            torch.cuda.empty_cache()
        state.rows_per_microbatch = (rows + 1) // 2
        tell(
            "memory",
            f"step {state.step + 1} ran out of memory ({reason}); it is taken anew with micro-batches of "
            f"{state.rows_per_microbatch} rows instead of {rows}, and so are those after it. The updates are the same",
            step=state.step + 1,
            rows=state.rows_per_microbatch,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or in the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "not enough memory" in said)


def _noise(sums: StepSums, norm: float, loss_scale: float) -> tuple[float, float] | None:
    """An estimate of the squared length of the true gradient, and of the variance of that of one token.

    Both are unbiased, and very noisy alone. Source: McCandlish et al. 2018, An Empirical Model of Large-Batch
    Training, appendix A.1.
    """
    small, large = sums.first_tokens, sums.tokens
    if not 0 < small < large:
        return None
    of_small, of_large = (sums.first_norm / small / loss_scale) ** 2, norm**2
    squared_length = (large * of_large - small * of_small) / (large - small)
    return squared_length, (of_small - of_large) / (1 / small - 1 / large)


def take_in_noise(state: TrainState, step: StepGradients) -> dict[str, float]:
    """The gradient-noise scale in tokens after a step that reached the weights, where it is known.

    It is the batch size up to which larger batches save steps in proportion.
    """
    if step.noise is None:
        return {}
    length, variance, known = state.noise or (0.0, 0.0, 0.0)
    state.noise = [
        _NOISE_DECAY * length + (1 - _NOISE_DECAY) * step.noise[0],
        _NOISE_DECAY * variance + (1 - _NOISE_DECAY) * step.noise[1],
        _NOISE_DECAY * known + (1 - _NOISE_DECAY),
    ]
    # Early on, and where the noise is much larger than the gradient, the estimates may be below zero.
    if state.noise[0] <= 0 or state.noise[1] <= 0:
        return {}
    return {"noise_scale_tokens": state.noise[1] / state.noise[0]}


def tell_of_gradients(state: TrainState, step: StepGradients, tell: Tell) -> None:
    """Say in words that gradients vanish or explode, or do so no longer."""
    if not step.root_mean_squares:
        return
    health = gradient_health(step.root_mean_squares, state.recent_norms)
    if health != state.health:
        said = health or "gradients neither vanish nor explode any longer"
        tell("gradients", f"step {state.step + 1}: {said}", step=state.step + 1)
    state.health = health


class LossScale:
    """What losses are multiplied by in float16, so that small gradients are not lost; 1 in other precisions.

    Source: Micikevicius et al. 2018, Mixed Precision Training, section 3.2, with a scale that follows the gradients.
    """

    def __init__(self, config: PrecisionConfig, batch_tokens: int, state: TrainState) -> None:
        self.config, self.state = config, state
        if config.kind == "float16" and not state.loss_scale:
            # Losses are sums over a step here.
            state.loss_scale = config.loss_scale / batch_tokens

    @property
    def value(self) -> float:
        """The scale of the next step."""
        return self.state.loss_scale or 1.0

    def update(self, step: StepGradients) -> bool:
        """Whether a step overflowed, and must not reach the weights; the scale is then halved."""
        if self.config.kind != "float16":
            return False
        if step.overflowed:
            self.state.loss_scale, self.state.steps_since_overflow = self.state.loss_scale / 2, 0
            return True
        self.state.steps_since_overflow += 1
        if self.state.steps_since_overflow == self.config.loss_scale_growth_steps:
            self.state.loss_scale, self.state.steps_since_overflow = self.state.loss_scale * 2, 0
        return False
