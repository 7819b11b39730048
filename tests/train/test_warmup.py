"""A run whose steps and rows grow is resumed bit for bit, as any other."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_training

from preceptor.models.decoder import build
from preceptor.objectives.causal import CausalObjective
from preceptor.parallel.engine import place
from preceptor.tokenizer.stream import TokenStream
from preceptor.train.blend import make_batches
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.length import Length
from preceptor.train.loop import fit
from preceptor.train.optim import Optimizer
from preceptor.train.run import PretrainingConfig
from preceptor.train.state import TrainState, Validation
from preceptor.train.warmup_config import BatchWarmupConfig, ContextWarmupConfig

MODEL = replace(toy_training.MODEL, num_hidden_layers=1, max_position_embeddings=32, dropout=0.0)
CONFIG = PretrainingConfig(
    context_length=32,
    batch_tokens=128,
    micro_batch_tokens=64,
    batch_warmup=BatchWarmupConfig(start_tokens=32, steps=6, scale_learning_rate=True),
    context_warmup=ContextWarmupConfig(start_length=8, steps=7),
)
NUM_STEPS = 9


class NeverStops:
    requested = False

    def check(self):
        """Nobody asks."""


def parts():
    sizes = np.random.default_rng(0).integers(3, 50, 30)
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    tokens = np.random.default_rng(1).integers(1, 40, offsets[-1]).astype(np.uint16)
    engine = place(build(MODEL, torch.Generator().manual_seed(0)))
    batches = make_batches(CausalObjective(TokenStream(tokens, offsets, [], 1), 32, 0), CONFIG, 0)
    return engine, Optimizer(engine.parameters, CONFIG.optimizer), batches


def trained(engine, optimizer, batches, state, save=lambda state: None, config=CONFIG):
    return fit(
        config,
        engine,
        optimizer,
        batches,
        state,
        length=Length.of_steps(NUM_STEPS),
        validate=lambda: Validation(1.0, 0.5),
        save=save,
        stop=NeverStops(),
    )


@pytest.mark.parametrize("interrupted_at", [3, 6])
def test_going_on_in_the_middle_of_the_warm_up_is_bit_identical(tmp_path, interrupted_at):
    engine, optimizer, batches = parts()
    checkpoints = Checkpoints(tmp_path, "key", 2)
    every = replace(CONFIG, checkpoint_every_steps=interrupted_at)

    def save(state):
        if state.step == interrupted_at:
            checkpoints.save(engine, optimizer, state)

    straight = trained(engine, optimizer, batches, TrainState(), save, every)
    again, its_optimizer, batches = parts()
    state = checkpoints.resume(again, its_optimizer)
    assert state.step == interrupted_at
    resumed = trained(again, its_optimizer, batches, state)
    assert all(torch.equal(p, again.parameters[name]) for name, p in engine.parameters.items())
    assert resumed.curve == straight.curve


def test_the_rate_of_a_smaller_step_is_that_of_its_size():
    engine, optimizer, batches = parts()
    curve = trained(engine, optimizer, batches, TrainState()).curve
    plain = replace(batches, scales_rate=False)
    engine, optimizer, _ = parts()
    unscaled = trained(engine, optimizer, plain, TrainState()).curve
    ratios = [one["learning_rate"] / other["learning_rate"] for one, other in zip(curve, unscaled, strict=True)][:-1]
    assert ratios == pytest.approx([math.sqrt(batches.sizes.rows(step) / 4) for step in range(NUM_STEPS - 1)])
    assert ratios[0] == pytest.approx(0.5) and ratios[-1] == pytest.approx(1.0)
