"""What is saved: many times, by several at once, whole when it is read again, and never with weights that are lost."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_training import CONFIG, Toy, parts, train

from preceptor.core.artifact import load, write_folder
from preceptor.core.errors import ArtifactError, TrainingError
from preceptor.train.averaging import WeightAverage
from preceptor.train.checkpoint import KIND, Checkpoints
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import AveragingConfig, EarlyStoppingConfig, OptimizerConfig
from preceptor.train.state import TrainState, Validation

NUM_SAVES = 50
SAVER = """
import os, random, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy_training import parts
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.state import TrainState
chance = random.Random(sys.argv[3])
# It is the renaming that races, not the disk.
os.fsync = lambda file: None
engine, optimizer, _ = parts()
checkpoints = Checkpoints(Path(sys.argv[2]), "key", 2)
for step in range(1, 26):
    checkpoints.save(engine, optimizer, TrainState(step=step))
    time.sleep(chance.uniform(0, 0.004))
"""


def test_fifty_saves_in_a_row_leave_the_newest_and_no_draft(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    engine, optimizer, _ = parts()
    checkpoints = Checkpoints(tmp_path, "key", 2, in_background=True)
    for step in range(1, NUM_SAVES + 1):
        checkpoints.save(engine, optimizer, TrainState(step=step))
        if step % 7 == 0:
            # The same step once more, as after a signal.
            checkpoints.save(engine, optimizer, TrainState(step=step))
    checkpoints.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000049", "step-0000050"]
    assert checkpoints.resume(engine, optimizer).step == NUM_SAVES
    assert "warning" not in capsys.readouterr().err


def test_two_processes_that_save_in_one_folder_do_each_other_no_harm(tmp_path):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SAVER, here, str(tmp_path / "saves")]
    savers = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("one", "two")]
    said = [saver.communicate()[1] for saver in savers]
    assert [saver.returncode for saver in savers] == [0, 0], said
    names = sorted(path.name for path in (tmp_path / "saves").iterdir())
    # No draft is left of either, and whatever has a name is whole.
    assert names[-1] == "step-0000025" and all(name.startswith("step-") for name in names)
    for name in names:
        load(tmp_path / "saves" / name, KIND)
    engine, optimizer, _ = parts()
    assert Checkpoints(tmp_path / "saves", "key", 2).resume(engine, optimizer).step == 25


def trained(kind="adamw"):
    config = replace(CONFIG, optimizer=OptimizerConfig(kind=kind), averaging=AveragingConfig(kind="ema"))
    engine, optimizer, batches = parts(config)
    average = WeightAverage(config.averaging, engine.parameters)
    state = train(config, engine, optimizer, batches, TrainState(), 3, average=average)
    return engine, optimizer, average, state


@pytest.mark.parametrize("kind", ["muon", "adamw", "adam", "adafactor", "lion", "rmsprop", "sgd"])
def test_what_is_loaded_is_all_that_was_saved_for_every_rule(tmp_path, kind):
    engine, optimizer, average, state = trained(kind)
    Checkpoints(tmp_path, "key", 1).save(engine, optimizer, state, average)
    other, _, _ = parts()
    with torch.no_grad():
        for parameter in other.parameters.values():
            parameter.zero_()
    its_optimizer = Optimizer(other.parameters, OptimizerConfig(kind=kind))
    its_average = WeightAverage(average.config, other.parameters)
    assert Checkpoints(tmp_path, "key", 1).resume(other, its_optimizer, its_average) == state
    for ours, theirs in (
        (engine.parameters, other.parameters),
        (optimizer.state_tensors(), its_optimizer.state_tensors()),
        (average.state_tensors(), its_average.state_tensors()),
    ):
        assert ours.keys() == theirs.keys() and len(ours) > 5
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def without_the_first(table):
    name = min(name for name in table if "num" not in name and name != "count")
    return {key: value for key, value in table.items() if key != name}


def with_one_more(table):
    return table | {"adamw.model.norm.weight.more": 0 if "step" in table else torch.zeros(16)}


@pytest.mark.parametrize("change", [without_the_first, with_one_more])
@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"])
def test_a_missing_or_an_unknown_key_of_whatever_was_saved_is_refused(tmp_path, file, change):
    engine, optimizer, average, state = trained()
    Checkpoints(tmp_path, "key", 1).save(engine, optimizer, state, average)
    with write_folder(tmp_path / "step-0000009", KIND, "key", {}) as draft:
        # Sealed again, so that no digest gives it away.
        for path in (tmp_path / "step-0000003").iterdir():
            if path.suffix == ".safetensors":
                tensors = load_file(path)
                save_file(change(tensors) if path.name == file else tensors, draft.path / path.name)
            elif path.name == "state.json":
                table = json.loads(path.read_text())
                (draft.path / path.name).write_text(json.dumps(change(table) if path.name == file else table))
    fresh, its_optimizer, _ = parts(replace(CONFIG, optimizer=OptimizerConfig(kind="adamw")))
    with pytest.raises(ArtifactError):
        Checkpoints(tmp_path, "key", 1).resume(fresh, its_optimizer, WeightAverage(average.config, fresh.parameters))


class LostGradient(Toy):
    """The loss of a step is finite, and one element of one gradient is not."""

    def loss(self, model, batch):
        found = super().loss(model, batch)
        if self.step in self.lost:
            # The square root of nothing has no slope, and a finite value.
            weight = model.model.norm.weight
            found = replace(found, total=found.total + (weight[3] - weight[3].detach()).abs().sqrt())
        return found


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_gradient_that_is_not_a_number_changes_no_weight_and_no_checkpoint(tmp_path, step):
    objective = LostGradient()
    objective.lost = {step}
    config = replace(CONFIG, checkpoint_every_steps=1, keep_checkpoints=3)
    engine, optimizer, batches = parts(config, objective=objective)
    checkpoints, weights, states = Checkpoints(tmp_path, "key", 3), {}, {}
    weights[0] = {name: p.detach().clone() for name, p in engine.parameters.items()}
    states[0] = optimizer.state_tensors()

    def note(record, _):
        assert record.skipped == (record.step == step)
        weights[record.step] = {name: p.detach().clone() for name, p in engine.parameters.items()}
        states[record.step] = {name: t.clone() for name, t in optimizer.state_tensors().items()}

    train(
        config,
        engine,
        optimizer,
        batches,
        TrainState(),
        8,
        save=lambda s: checkpoints.save(engine, optimizer, s),
        hooks=[note],
    )
    for found in (weights, states):
        before, after = found[step - 1], found[step]
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    kept = sorted(tmp_path.glob("step-*"))
    assert len(kept) == 3
    for folder in kept:
        for file in ("weights.safetensors", "optimizer.safetensors"):
            assert all(bool(t.isfinite().all()) for t in load_file(folder / file).values())


def test_weights_that_an_update_has_lost_take_no_checkpoints_place(tmp_path, capsys):
    config = replace(CONFIG, checkpoint_every_steps=1, keep_checkpoints=1)
    engine, optimizer, batches = parts(config)
    checkpoints, plain_step = Checkpoints(tmp_path, "key", 1), optimizer.step

    def step(factor):
        plain_step(factor)
        if checkpoints.folder.exists() and (tmp_path / "step-0000004").exists():
            with torch.no_grad():
                next(iter(engine.parameters.values())).view(-1)[0] = float("inf")

    optimizer.step = step
    with pytest.raises(TrainingError):
        train(
            config,
            engine,
            optimizer,
            batches,
            TrainState(),
            12,
            save=lambda s: checkpoints.save(engine, optimizer, s),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000004"]
    assert "step-0000005 is not saved" in capsys.readouterr().err
    fresh, its_optimizer, _ = parts(config)
    assert checkpoints.go_back(fresh, its_optimizer).step == 4
    assert all(bool(p.isfinite().all()) for p in fresh.parameters.values())


def test_a_validation_that_is_not_a_number_is_never_the_best():
    config = replace(CONFIG, validation_every_steps=1, early_stopping=EarlyStoppingConfig(patience=3))
    engine, optimizer, batches = parts(config)
    losses, best = iter([float("nan"), 3.0, 2.0, float("nan"), 2.5, float("inf")]), []
    state = train(
        config,
        engine,
        optimizer,
        batches,
        TrainState(),
        20,
        validate=lambda: Validation(next(losses), 0.5),
        keep_best=lambda s: best.append(s.best_step),
    )
    assert (state.step, state.best_step, state.best) == (6, 3, 2.0) and best == [2, 3]
