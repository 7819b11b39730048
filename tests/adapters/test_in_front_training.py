"""Prefixes and prompts are trained by the loop: they learn, the base does not, and a stop changes nothing."""

import signal

import numpy as np
import pytest
import torch
from virtual_token_samples import MADE, PAIRS, PREFIX, PROMPT, START, built, tokens

from preceptor.adapters.attach import adapt, virtual_ids
from preceptor.core.errors import Interrupted
from preceptor.objectives.batch import Batches
from preceptor.objectives.causal import language_model_loss
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.two_sided import TwoSided
from preceptor.parallel.engine import place
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.length import Length
from preceptor.train.loop import fit
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig, ScheduleConfig
from preceptor.train.run import TrainingConfig
from preceptor.train.state import TrainState, Validation

RUN = TrainingConfig(
    context_length=32,
    batch_tokens=128,
    micro_batch_tokens=64,
    validation_every_steps=100,
    checkpoint_every_steps=100,
    schedule=ScheduleConfig(warmup_steps=2),
    optimizer=OptimizerConfig(kind="adamw", learning_rate=0.1),
    memory=MemoryConfig(activation_checkpointing="full"),
)
STEPS = 12


class Texts:
    """Two texts a row, each behind its first tokens; all texts are alike, so there is something to learn."""

    num_rows = 8

    def __init__(self, name, virtual):
        self.name, self.virtual = name, np.array(virtual, np.int64)

    def collate(self, rows, samples=None):
        sides = TwoSided(32, 32, START, 0)
        said = tokens(1, 6, 1)[0].numpy()
        read = [[np.concatenate((self.virtual, tokens(1, 4, 2 * row + n)[0].numpy())) for n in (0, 1)] for row in rows]
        made = [[(text, said) for text in row] for row in read]
        return sides.batch(made) if self.name in PAIRS else sides.prefixed(made)

    def loss(self, model, batch):
        return language_model_loss(model, batch, ObjectiveConfig())


class Stop:
    requested = False

    def check(self):
        if self.requested:
            raise Interrupted(signal.SIGTERM)


def start(name, config):
    model = adapt(built(name), config, torch.Generator().manual_seed(3))
    engine = place(model)
    return engine, Optimizer(engine.parameters, RUN.optimizer), Batches(Texts(name, virtual_ids(model)), 7, 4, 2)


def train(engine, optimizer, batches, state, stop=None, **more):
    length = Length.of_steps(STEPS)
    more = {"save": lambda state: None, **more}
    return fit(
        RUN, engine, optimizer, batches, state, length=length, validate=lambda: Validation(1.0, 0.5),
        stop=stop or Stop(), **more,
    )  # fmt: skip


@pytest.mark.parametrize("config", [PREFIX, MADE, PROMPT], ids=["prefix", "made prefix", "prompt"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_training_learns_and_goes_on_after_a_stop_bit_for_bit(name, config, tmp_path):
    engine, optimizer, batches = start(name, config)
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    losses = []
    train(engine, optimizer, batches, TrainState(), hooks=[lambda record, _: losses.append(record.loss)])
    after = engine.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, p in engine.model.named_parameters() if p.requires_grad}
    assert losses[-1] < 0.97 * losses[0]

    first, first_optimizer, batches = start(name, config)
    checkpoints, stop = Checkpoints(tmp_path, "key", 2), Stop()

    def interrupt(record, _):
        stop.requested = record.step == 5

    with pytest.raises(Interrupted):
        save = lambda state: checkpoints.save(first, first_optimizer, state)  # noqa: E731
        train(first, first_optimizer, batches, TrainState(), stop, save=save, hooks=[interrupt])
    second, second_optimizer, batches = start(name, config)
    state = checkpoints.resume(second, second_optimizer)
    assert state.step == 5
    train(second, second_optimizer, batches, state)
    again = second.model.state_dict()
    assert again.keys() == after.keys() and all(torch.equal(again[name], after[name]) for name in after)
