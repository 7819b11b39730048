"""The range test: which rates it tries, what its losses belong to, when it ends, and how a curve is read."""

import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_training

from preceptor.core.errors import ConfigError, Interrupted, TrainingError
from preceptor.models.decoder import build
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batches, LossSum
from preceptor.objectives.causal import CausalObjective
from preceptor.parallel.engine import place
from preceptor.tokenizer.stream import TokenStream
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.rate_finder import RangeTest, RateSweep, range_test
from preceptor.train.run import TrainingConfig

MODEL = replace(toy_training.MODEL, num_hidden_layers=1, dropout=0.0)


class Stop:
    requested = False

    def __init__(self, after=math.inf):
        self.checks, self.after = 0, after

    def check(self):
        self.checks += 1
        if self.checks > self.after:
            raise Interrupted(signal.SIGINT)


def parts(kind="muon", objective_type=CausalObjective):
    sizes = np.random.default_rng(0).integers(3, 30, 40)
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    tokens = (np.arange(offsets[-1]) * 7 % 39 + 1).astype(np.uint16)
    engine = place(build(MODEL, torch.Generator().manual_seed(0)))
    config = TrainingConfig(
        context_length=16,
        batch_tokens=64,
        micro_batch_tokens=64,
        optimizer=OptimizerConfig(kind=kind, learning_rate=0.02, adamw_learning_rate=0.004),
    )
    optimizer = Optimizer(engine.parameters, config.optimizer)
    return config, engine, optimizer, Batches(objective_type(TokenStream(tokens, offsets, [], 1), 16, 0), 0, 4, 4)


def test_the_rates_rise_by_one_factor():
    rates = RateSweep(lowest=1e-5, highest=1.0, steps=6).rates()
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])


@pytest.mark.parametrize(
    "values", [{"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"steps": 2}, {"smoothing": 1.0}, {"stop_at": 1.0}]
)
def test_a_sweep_that_cannot_be_read_is_refused(values):
    with pytest.raises(ConfigError, match="range test"):
        RateSweep(**values)


def test_a_curve_is_read_as_it_looks():
    rates = RateSweep(lowest=1e-5, highest=1.0, steps=51).rates()
    # Falls along a sigmoid whose middle is at 1e-3, and rises after 1e-1.
    losses = [
        5 - 2 / (1 + math.exp(-3 * math.log10(rate / 1e-3))) + max(0.0, math.log10(rate / 0.09)) for rate in rates
    ]
    found = RangeTest(rates, losses, losses, "")
    assert found.steepest == pytest.approx(1e-3, rel=0.01)
    assert found.minimum == pytest.approx(0.1, rel=0.3)
    assert found.tenth == pytest.approx(found.minimum / 10)
    assert found.fell and not found.still_falling
    rising = RangeTest(rates, sorted(losses), sorted(losses), "")
    assert not rising.fell
    falling = RangeTest(rates, sorted(losses)[::-1], sorted(losses)[::-1], "")
    assert falling.still_falling


def test_each_loss_is_that_after_an_update_at_its_rate():
    sweep = RateSweep(lowest=1e-3, highest=1e-1, steps=6, smoothing=0.5)
    found = range_test(*parts(), sweep, stop=Stop())
    config, engine, optimizer, batches = parts()
    losses, mean = [], 0.0
    for number, rate in enumerate([*sweep.rates(), None]):
        total, _, tokens, *_ = engine.forward_backward(batches.objective, batches.at(number))
        losses.append(total / tokens)
        if rate is not None:
            engine.scale_and_clip(1 / tokens, config.max_grad_norm)
            optimizer.step(rate / 0.02)
            engine.clear_gradients()
    assert found.losses == pytest.approx(losses[1:])
    for number, loss in enumerate(found.losses, 1):
        mean = 0.5 * mean + 0.5 * loss
        assert found.smoothed[number - 1] == pytest.approx(mean / (1 - 0.5**number))
    assert found.rates == sweep.rates() and found.stopped == "all rates were tried"


def test_under_muon_the_other_rate_rises_in_proportion():
    config, engine, optimizer, batches = parts()
    sweep = RateSweep(lowest=1e-4, highest=1e-1, steps=5)
    range_test(config, engine, optimizer, batches, sweep, stop=Stop())
    last = {kind: {group["lr"] for group in part.rule.param_groups} for kind, part in optimizer.parts.items()}
    assert max(last["muon"]) == pytest.approx(0.1)
    assert max(last["adamw"]) == pytest.approx(0.02)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_it_ends_where_training_breaks(kind):
    sweep = RateSweep(lowest=1e-4, highest=1e6, steps=60, smoothing=0.5)
    seen = []
    found = range_test(*parts(kind), sweep, stop=Stop(), note=lambda rate, loss: seen.append(rate))
    assert len(found.losses) < 60 and seen == found.rates
    assert "the loss was" in found.stopped
    assert found.fell and found.steepest < found.minimum


class Poisoned(CausalObjective):
    """Text whose loss is no number from the ninth batch on."""

    calls = 0

    def loss(self, model, batch):
        self.calls += 1
        total, correct, _ = model.loss_sum(batch.inputs, batch.labels_BT)
        return LossSum(
            total * float("nan") if self.calls > 8 else total, correct, int((batch.labels_BT != IGNORED).sum())
        )


def test_a_loss_that_is_no_number_ends_it():
    found = range_test(*parts(objective_type=Poisoned), RateSweep(steps=30), stop=Stop())
    assert len(found.losses) == 7 and "no number" in found.stopped


def test_too_few_losses_are_not_read():
    config, engine, optimizer, batches = parts(objective_type=Poisoned)
    batches.objective.calls = 4
    with pytest.raises(TrainingError, match="too few") as caught:
        range_test(config, engine, optimizer, batches, RateSweep(steps=30), stop=Stop())
    assert "--from" in str(caught.value)


def test_it_can_be_stopped_between_two_rates():
    stop = Stop(after=3)
    with pytest.raises(Interrupted):
        range_test(*parts(), RateSweep(steps=30), stop=stop)
    assert stop.checks == 4
