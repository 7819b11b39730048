"""A small model on a small stream, and what trains it: for the tests of training."""

import signal
from dataclasses import dataclass, replace

import numpy as np
import torch

from preceptor.core.errors import Interrupted
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.objectives.batch import Batches, LossSum
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.parallel.engine import place
from preceptor.train.length import Length
from preceptor.train.loop import fit
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import ScheduleConfig
from preceptor.train.run import TrainingConfig
from preceptor.train.state import Validation

MODEL = DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=16,
    dropout=0.1,
)
CONFIG = TrainingConfig(
    context_length=16,
    batch_tokens=64,
    micro_batch_tokens=64,
    validation_every_steps=4,
    checkpoint_every_steps=3,
    schedule=ScheduleConfig(warmup_steps=2),
)


class Toy:
    """A packed stream of small documents, some of whose tokens are not supervised.

    ``poison`` are steps, counted from 1, whose loss is not a number however often it is computed; ``struck`` are calls
    of ``loss``, counted from 1, whose result is wrong once.
    """

    def __init__(self, poison: set[int] | None = None, struck: set[int] | None = None, rows_per_step: int = 4):
        generator = np.random.default_rng(0)
        lengths = generator.integers(2, 20, 40)
        self.tokens = generator.integers(1, 40, lengths.sum()).astype(np.uint32)
        self.supervised = generator.random(self.tokens.size) < 0.7
        self.plan = plan_rows(np.cumsum([0, *lengths]).astype(np.int64), 16)
        self.num_rows = self.plan.num_rows
        self.poison, self.struck, self.rows_per_step = poison or set(), struck or set(), rows_per_step
        self.calls, self.step = 0, 0

    def collate(self, rows, samples=None):
        self.step = samples[0] // self.rows_per_step + 1 if samples else 0
        return collate_rows(self.plan, rows, self.tokens, 0, self.supervised)

    def loss(self, model, batch):
        self.calls += 1
        total, correct, count = model.loss_sum(batch.inputs, batch.labels_BT)
        factor = float("nan") if self.step in self.poison else 1e6 if self.calls in self.struck else 1.0
        return LossSum(total * factor, correct, count)


@dataclass
class Stop:
    requested: bool = False

    def check(self):
        if self.requested:
            raise Interrupted(signal.SIGTERM)


def parts(config=CONFIG, objective=None, dropout=0.1):
    engine = place(build(replace(MODEL, dropout=dropout), torch.Generator().manual_seed(0)))
    rows = config.batch_tokens // 16
    batches = Batches(objective or Toy(), 7, rows, config.micro_batch_tokens // 16)
    return engine, Optimizer(engine.parameters, config.optimizer), batches


def train(config, engine, optimizer, batches, state, num_steps, save=lambda state: None, stop=None, **more):
    return fit(
        config,
        engine,
        optimizer,
        batches,
        state,
        length=more.pop("length", Length.of_steps(max(1, num_steps))),
        validate=more.pop("validate", lambda: Validation(1.0, 0.5)),
        save=save,
        stop=stop or Stop(),
        **more,
    )
