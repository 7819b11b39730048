"""One update, however a step is cut into micro-batches: its gradient, its loss, its learning rate."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_training import CONFIG, MODEL, Toy, parts, train

from preceptor.models.decoder import build
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batches
from preceptor.objectives.packing import plan_rows
from preceptor.parallel.engine import place
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.optim_config import ScheduleConfig
from preceptor.train.state import TrainState

ROWS = 8


class Ragged(Toy):
    """Documents of random lengths, of which random shares are supervised: from nothing to everything."""

    def __init__(self, seed):
        super().__init__(rows_per_step=ROWS)
        draw = np.random.default_rng(seed)
        lengths = draw.integers(1, 17, 60)
        offsets = np.cumsum([0, *lengths]).astype(np.int64)
        self.tokens = draw.integers(1, 40, offsets[-1]).astype(np.uint32)
        self.supervised = draw.random(offsets[-1]) < np.repeat(draw.random(60) ** 2, lengths)
        self.plan = plan_rows(offsets, 16)
        self.num_rows = self.plan.num_rows


def gradient_of_a_step(objective, num_microbatches):
    """The scaled gradients of a step in float64, its mean loss, and the supervised tokens of each micro-batch."""
    engine = place(build(replace(MODEL, dropout=0.0), torch.Generator().manual_seed(0)))
    engine.model.double()
    microbatches = Batches(objective, 7, ROWS, ROWS // num_microbatches).at(0)
    assert len(microbatches) == num_microbatches
    sums = engine.forward_backward(objective, microbatches)
    norm = engine.scale_and_clip(1 / sums.tokens, 1.0)
    gradients = {name: p.grad for name, p in engine.parameters.items()}
    counts = [int((batch.labels_BT != IGNORED).sum()) for batch in microbatches]
    assert sum(counts) == sums.tokens
    return gradients, sums.total / sums.tokens, norm, counts


@pytest.mark.parametrize("seed", range(4))
def test_ragged_microbatches_give_the_gradient_and_the_loss_of_the_whole_batch(seed):
    objective = Ragged(seed)
    gradients, loss, norm, _ = gradient_of_a_step(objective, 1)
    assert norm > 0.1
    for number in (2, 4, 8):
        summed, its_loss, its_norm, counts = gradient_of_a_step(objective, number)
        # Means of the means of micro-batches would be another number here.
        assert len(set(counts)) > 1
        assert its_loss == pytest.approx(loss, rel=1e-12) and its_norm == pytest.approx(norm, rel=1e-10)
        for name, gradient in gradients.items():
            torch.testing.assert_close(summed[name], gradient, rtol=1e-10, atol=1e-12)


def test_the_loss_of_a_step_that_is_told_does_not_depend_on_the_microbatches():
    told = []
    for micro in (128, 64, 32, 16):
        config = replace(CONFIG, batch_tokens=128, micro_batch_tokens=micro)
        engine, optimizer, _ = parts(config, dropout=0.0)
        batches = Batches(Ragged(1), 7, ROWS, micro // 16)
        told.append([record["loss"] for record in train(config, engine, optimizer, batches, TrainState(), 3).curve])
    for losses in told[1:]:
        assert losses == pytest.approx(told[0], rel=1e-5)


def by_hand(kind, step, num_steps, warmup_steps):
    """The share of the peak rate, written down again: steps are counted from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}[kind]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("micro", [64, 16])
def test_the_rate_is_its_closed_form_under_accumulation_and_after_every_stop(tmp_path, kind, micro):
    config = replace(
        CONFIG,
        micro_batch_tokens=micro,
        schedule=ScheduleConfig(kind=kind, warmup_steps=3),
        checkpoint_every_steps=1,
        keep_checkpoints=2,
    )
    expected = [config.optimizer.learning_rate * by_hand(kind, step, 9, 3) for step in range(9)]
    checkpoints = Checkpoints(tmp_path, "key", 2)

    class Killed(BaseException):
        pass

    def killed_at(step):
        def kill(record, _):
            if record.step == step:
                raise Killed

        return kill

    rates: dict[int, float] = {}

    def session(kill_at):
        engine, optimizer, batches = parts(config)
        state = checkpoints.resume(engine, optimizer)

        def used(record, _):
            # What the rule of the optimizer was given, not only what was told.
            groups = optimizer.parts["muon"].rule.param_groups
            rates[record.step] = record.learning_rate
            assert [group["lr"] for group in groups] == [pytest.approx(record.learning_rate)] * len(groups)

        def save(state):
            checkpoints.save(engine, optimizer, state)

        train(config, engine, optimizer, batches, state, 9, save=save, hooks=[used, killed_at(kill_at)])

    for kill_at in (2, 3, 6):
        with pytest.raises(Killed):
            session(kill_at)
    session(0)
    assert [rates[step] for step in range(1, 10)] == pytest.approx(expected)
