"""The learning-rate range test: a training that is thrown away, whose rate rises, and what its losses suggest."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from preceptor.core.errors import ConfigError, TrainingError
from preceptor.core.seeds import derive
from preceptor.data.example_types import ExampleSet
from preceptor.data.mixture import Blending
from preceptor.models.config import ModelConfig
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import Engine, place
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import make_batches, pretraining_order
from preceptor.train.finetune import make_learner
from preceptor.train.optim import Optimizer, freeze
from preceptor.train.pretrain import resolve_model, starting_model, with_noise
from preceptor.train.run import FinetuningConfig, PretrainingConfig, TrainingConfig
from preceptor.train.session import width_scales
from preceptor.train.state import StopRequest

_FEWEST_POINTS = 5

Note = Callable[[float, float], None]
"""Told after each step of its rate and of the smoothed loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSweep:
    """Which rates are tried, and how their losses are read."""

    lowest: float = 1e-6
    """The first rate."""
    highest: float = 10.0
    """The last rate."""
    steps: int = 100
    """How many rates, each larger than the one before it by the same factor."""
    smoothing: float = 0.9
    """The share of the past in the running mean of the losses."""
    stop_at: float = 1.5
    """The test ends when the running mean is over so many times its smallest."""

    def __post_init__(self) -> None:
        """Refuse sweeps that do not rise or cannot be read.

        Raises:
            ConfigError: says which value is wrong.
        """
        for is_right, path, expected in (
            (0 < self.lowest < self.highest < math.inf, "from", "two rates above 0, of which --to is the larger"),
            (self.steps >= _FEWEST_POINTS, "steps", f"at least {_FEWEST_POINTS} steps"),
            (0 <= self.smoothing < 1, "smoothing", "at least 0 and below 1"),
            (self.stop_at > 1, "stop-at", "above 1"),
        ):
            if not is_right:
                said = f"from {self.lowest:g} to {self.highest:g} in {self.steps} steps"
                raise ConfigError(
                    f"a range test {said}, smoothing {self.smoothing:g}, stop at {self.stop_at:g}: --{path} is wrong",
                    path=path,
                    expected=expected,
                    remedy=f"give {expected}",
                )

    def rates(self) -> list[float]:
        """The rates in order."""
        factor = math.log(self.highest / self.lowest) / (self.steps - 1)
        return [self.lowest * math.exp(factor * number) for number in range(self.steps)]


@dataclass(frozen=True, slots=True)
class RangeTest:
    """What a range test found. Losses are means in nats, each taken right after an update at its rate."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    """The running mean of the losses, corrected for where it starts."""
    stopped: str
    """Why it ended."""

    @property
    def minimum(self) -> float:
        """The rate at which the smoothed loss is smallest."""
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def tenth(self) -> float:
        """A tenth of the rate at the minimum."""
        return self.minimum / 10

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate, before its minimum."""
        last = max(2, self.smoothed.index(min(self.smoothed)))

        def slope(place: int) -> float:
            rise = self.smoothed[place + 1] - self.smoothed[place - 1]
            return rise / math.log(self.rates[place + 1] / self.rates[place - 1])

        return self.rates[min(range(1, last), key=slope)]

    @property
    def fell(self) -> bool:
        """Whether the loss fell at all before it rose."""
        return min(self.smoothed) < self.smoothed[0]

    @property
    def still_falling(self) -> bool:
        """Whether the loss was smallest at the last rates, so that the best may lie beyond them."""
        return self.smoothed.index(min(self.smoothed)) >= len(self.smoothed) - 2


def range_test(
    config: TrainingConfig,
    engine: Engine,
    optimizer: Optimizer,
    batches: Batches,
    sweep: RateSweep,
    *,
    stop: StopRequest,
    note: Note = lambda rate, loss: None,
) -> RangeTest:
    """The losses of a model that is trained at rising rates; the model is of no use afterwards.

    Source: Smith 2017, Cyclical Learning Rates, section 3.3; the exponential rise is that of Howard and Gugger 2020,
    fastai. The running mean and its correction: Kingma and Ba 2015, section 3.

    Raises:
        Interrupted: a stop was requested.
        TrainingError: the loss was not finite before there was anything to read.
    """
    rates = sweep.rates()
    losses: list[float] = []
    smoothed: list[float] = []
    mean, stopped = 0.0, "all rates were tried"
    for number in range(len(rates) + 1):
        stop.check()
        torch.manual_seed(derive(batches.seed, "dropout", number))
        total, _, tokens, *_ = engine.forward_backward(batches.objective, batches.at(number))
        loss = total / max(1, tokens)
        if not math.isfinite(loss):
            stopped = f"the loss was no number any more at the rate {rates[max(0, number - 1)]:.2g}"
            break
        if number:
            mean = sweep.smoothing * mean + (1 - sweep.smoothing) * loss
            losses.append(loss)
            smoothed.append(mean / (1 - sweep.smoothing**number))
            note(rates[number - 1], smoothed[-1])
            if smoothed[-1] > sweep.stop_at * min(smoothed):
                stopped = f"the loss was {sweep.stop_at:g} times its smallest at the rate {rates[number - 1]:.2g}"
                break
        if number < len(rates):
            optimizer.hold_back(number)
            engine.scale_and_clip(1 / max(1, tokens), config.max_grad_norm, config.max_grad_value)
            optimizer.step(rates[number] / config.optimizer.learning_rate)
        engine.clear_gradients()
    if len(losses) < _FEWEST_POINTS:
        raise TrainingError(
            f"{stopped}, after {len(losses)} steps, which is too few to read anything",
            remedy="start lower with --from, or take more --steps",
        )
    return RangeTest(rates[: len(losses)], losses, smoothed, stopped)


def pretraining_range_test(
    *,
    model_config: ModelConfig,
    config: PretrainingConfig,
    train: TokenStream,
    tokenizer: Tokenizer,
    seed: int,
    blending: Blending,
    base: Path | None,
    sweep: RateSweep,
    stop: StopRequest,
    note: Note,
) -> RangeTest:
    """The range test from the weights and in the order with which a pre-training of these settings starts.

    Raises:
        ConfigError: the settings do not fit the model or the text.
        Interrupted: a stop was requested.
        TrainingError: the loss was not finite before there was anything to read.
    """
    keep_freed_memory()
    model_config = resolve_model(model_config, config, tokenizer)
    model, _ = starting_model(model_config, config, train, tokenizer, seed, base)
    order = pretraining_order(train, config, tokenizer, seed, blending, model_config)
    freeze(model, config.optimizer)
    # All steps alike, so that losses differ by the rate and not by the size of the step.
    batches = replace(with_noise(order.batches, config, tokenizer), growth=None, row_lengths=None)
    engine = place(model)
    optimizer = Optimizer(engine.parameters, config.optimizer, width_scales(model, config))
    return range_test(config, engine, optimizer, batches, sweep, stop=stop, note=note)


def finetuning_range_test(
    *,
    base: Path,
    config: FinetuningConfig,
    train: ExampleSet,
    tokenizer: Tokenizer,
    seed: int,
    sweep: RateSweep,
    stop: StopRequest,
    note: Note,
) -> RangeTest:
    """The range test from the weights and in the order with which a fine-tuning of these settings starts.

    A teacher is left out: asking it about every example would take longer than the test.

    Raises:
        ConfigError: a target names no layer of the model.
        DataError: no example leaves an answer to learn from.
        Interrupted: a stop was requested.
        TrainingError: the loss was not finite before there was anything to read.
    """
    keep_freed_memory()
    learner = make_learner(base, config, train, tokenizer, seed)
    objective = learner.learn(train).objective
    engine = place(learner.model)
    optimizer = Optimizer(engine.parameters, config.optimizer, width_scales(learner.model, config))
    batches = make_batches(objective, config, derive(seed, "finetuning"))
    return range_test(config, engine, optimizer, batches, sweep, stop=stop, note=note)
