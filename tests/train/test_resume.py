"""Going on after kills: the same dropout, the same noise, the same rows, the same weights, in whatever epoch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_training import CONFIG, Toy, parts, train

from preceptor.objectives.batch import Batches
from preceptor.objectives.noise import InputNoise
from preceptor.objectives.noise_config import InputNoiseConfig
from preceptor.objectives.packing import plan_rows
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.optim_config import OptimizerConfig

NUM_ROWS, ROWS_PER_STEP, NUM_STEPS = 24, 4, 20
STEPS_PER_EPOCH = NUM_ROWS // ROWS_PER_STEP
CONFIG = replace(CONFIG, checkpoint_every_steps=1, keep_checkpoints=1, optimizer=OptimizerConfig(kind="adamw"))


class Killed(BaseException):
    """What stands for a kill: nothing of the process is tidied up after it."""


class Documents(Toy):
    """One document a row, in epochs of six steps; writes down which rows were read."""

    def __init__(self):
        super().__init__()
        self.plan = plan_rows(np.arange(NUM_ROWS + 1) * 16, 16)
        draw = np.random.default_rng(3)
        self.tokens = draw.integers(1, 40, NUM_ROWS * 16).astype(np.uint32)
        self.supervised = draw.random(NUM_ROWS * 16) < 0.7
        self.num_rows = self.plan.num_rows
        self.read: list[int] = []

    def collate(self, rows, samples=None):
        if samples is not None:
            self.read += [*rows]
        return super().collate(rows, samples)


def session(checkpoints, kill_after=0, micro=32):
    """One process: from the newest checkpoint to a kill or to the end; rows by step, weights, and the state."""
    objective = Documents()
    engine, optimizer, _ = parts(CONFIG, dropout=0.3)
    noise = InputNoise(InputNoiseConfig(dropout=0.1, replacement=0.1), 5, 40, 0)
    batches = Batches(objective, 7, ROWS_PER_STEP, micro // 16, noise=noise)
    # A process that was started anew has drawn other numbers before.
    torch.manual_seed(1000 + kill_after)
    np.random.seed(kill_after)
    state = checkpoints.resume(engine, optimizer)
    read: dict[int, list[int]] = {}

    def note(record, _):
        read[record.step], objective.read = objective.read, []
        if record.step == kill_after:
            raise Killed

    def save(state):
        checkpoints.save(engine, optimizer, state)

    try:
        train(CONFIG, engine, optimizer, batches, state, NUM_STEPS, save=save, hooks=[note])
    except Killed:
        assert kill_after
    return read, {name: p.detach().clone() for name, p in engine.parameters.items()}, state


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return session(Checkpoints(tmp_path_factory.mktemp("straight"), "key", 1))


def with_kills(folder, kills):
    """The rows of each step that counted, the weights, and the state, after kills and resumes."""
    read: dict[int, list[int]] = {}
    for kill in [*kills, 0]:
        more, weights, state = session(Checkpoints(folder, "key", 1), kill)
        read |= more
    return read, weights, state


# In an epoch, just before and just after its end, and in later epochs; the kill comes before the save of its step.
@pytest.mark.parametrize("kill", [1, 4, *range(STEPS_PER_EPOCH, STEPS_PER_EPOCH + 3), 13, 20])
def test_after_a_kill_dropout_and_noise_go_on_bit_for_bit_in_and_between_epochs(tmp_path, straight, kill):
    _, weights, state = with_kills(tmp_path, [kill])
    _, expected, whole = straight
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
    assert state.curve == whole.curve


def test_dropout_and_noise_are_there_and_differ_from_step_to_step(straight):
    objective = Documents()
    engine, _, _ = parts(CONFIG, dropout=0.3)
    noise = InputNoise(InputNoiseConfig(dropout=0.1, replacement=0.1), 5, 40, 0)
    noisy, plain = (Batches(objective, 7, ROWS_PER_STEP, 2, noise=each) for each in (noise, None))
    assert not torch.equal(noisy.at(1)[0].tokens_BT, plain.at(1)[0].tokens_BT)
    losses = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.add(engine.forward_backward(objective, plain.at(0)).total)
    assert len(losses) == 2


def test_the_rows_of_a_later_epoch_are_the_same_after_a_resume_in_it(tmp_path, straight):
    read, _, _ = with_kills(tmp_path, [STEPS_PER_EPOCH + 2])
    third = range(2 * STEPS_PER_EPOCH + 1, 3 * STEPS_PER_EPOCH + 1)
    for epoch in (range(STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 1), third):
        ours, theirs = ([row for step in epoch for row in rows[step]] for rows in (read, straight[0]))
        assert ours == theirs
    first = [row for step in range(1, STEPS_PER_EPOCH + 1) for row in straight[0][step]]
    second = [row for step in range(STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 1) for row in read[step]]
    assert sorted(first) == sorted(second) and first != second


@pytest.mark.parametrize("kills", [(2, 3, 5), (4, 8, 8), (7, 11, 16)])
def test_killed_three_times_every_row_of_an_epoch_comes_exactly_once(tmp_path, straight, kills):
    read, weights, _ = with_kills(tmp_path, kills)
    assert read == straight[0]
    for epoch in range(NUM_STEPS // STEPS_PER_EPOCH):
        steps = range(epoch * STEPS_PER_EPOCH + 1, (epoch + 1) * STEPS_PER_EPOCH + 1)
        assert Counter(row for step in steps for row in read[step]) == dict.fromkeys(range(NUM_ROWS), 1)
    assert all(torch.equal(straight[1][name], tensor) for name, tensor in weights.items())
