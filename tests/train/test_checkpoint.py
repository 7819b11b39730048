"""Checkpoints in the background: what stands is whole, what is kept is kept, what fails is told."""

import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import CONFIG, parts, train

from preceptor.core.artifact import load
from preceptor.train.checkpoint import KIND, Checkpoints
from preceptor.train.optim_config import AveragingConfig, OptimizerConfig
from preceptor.train.state import TrainState


def test_what_a_thread_writes_is_the_state_at_the_step_and_not_what_training_made_of_it(tmp_path, monkeypatch):
    import preceptor.train.checkpoint as module

    engine, optimizer, batches = parts()
    checkpoints = Checkpoints(tmp_path, "key", 5, in_background=True)
    may_write, write = threading.Event(), module.save_file

    def waits(*arguments):
        assert threading.current_thread().name == "checkpoints"
        assert may_write.wait(30)
        write(*arguments)

    monkeypatch.setattr(module, "save_file", waits)
    held = {}

    def save(state):
        held.update({name: p.detach().clone() for name, p in engine.parameters.items()})
        checkpoints.save(engine, optimizer, state)

    # Saved after step 3; steps 4 and 5 change the weights while nothing is written yet.
    state = train(CONFIG, engine, optimizer, batches, TrainState(), 5, save=save)
    assert state.step == 5 and not list(tmp_path.glob("step-*"))
    may_write.set()
    checkpoints.finish()
    again, fresh, _ = parts()
    assert checkpoints.resume(again, fresh).step == 3
    assert all(torch.equal(held[name], p) for name, p in again.parameters.items())
    assert not all(torch.equal(held[name], p) for name, p in engine.parameters.items())


def test_every_nth_the_newest_and_the_best_stay(tmp_path):
    engine, optimizer, batches = parts()
    checkpoints = Checkpoints(tmp_path, "key", 1, keep_every_steps=4, in_background=True)
    config = replace(CONFIG, checkpoint_every_steps=2)

    def save(state):
        if state.step == 6:
            checkpoints.keep_best(engine, 6)
        checkpoints.save(engine, optimizer, state)

    train(config, engine, optimizer, batches, TrainState(), 12, save=save)
    checkpoints.finish()
    names = ["best-0000006", "step-0000004", "step-0000008", "step-0000010"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        load(tmp_path / name, KIND)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 3),
    st.integers(0, 7),
)
def test_whatever_is_saved_the_newest_and_the_best_are_there(tmp_path_factory, events, keep, every):
    folder = tmp_path_factory.mktemp("saves")
    engine, optimizer, _ = parts()
    checkpoints = Checkpoints(folder, "key", keep, keep_every_steps=every, in_background=True)
    saved, best = set(), None
    for step, is_best in sorted(events):
        if is_best:
            best = step
            checkpoints.keep_best(engine, step)
        checkpoints.save(engine, optimizer, TrainState(step=step))
        saved.add(step)
    checkpoints.finish()
    there = {int(path.name.removeprefix("step-")) for path in folder.glob("step-*")}
    assert there == set(sorted(saved)[-keep:]) | {step for step in saved if every and step % every == 0}
    assert [path.name for path in folder.glob("best-*")] == ([f"best-{best:07d}"] if best else [])


def test_an_error_in_the_thread_that_is_not_the_disks_is_raised_in_the_loop(tmp_path, monkeypatch):
    import preceptor.train.checkpoint as module

    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(module, "save_file", broken)
    engine, optimizer, _ = parts()
    checkpoints = Checkpoints(tmp_path, "key", 1, in_background=True)
    checkpoints.save(engine, optimizer, TrainState(step=1))
    with pytest.raises(RuntimeError, match="a defect"):
        checkpoints.finish()
    assert not list(tmp_path.glob("step-*"))


def test_a_full_disk_in_the_thread_is_told_and_the_older_one_stands(tmp_path, monkeypatch, capsys):
    import preceptor.train.checkpoint as module

    engine, optimizer, _ = parts()
    checkpoints = Checkpoints(tmp_path, "key", 1, in_background=True)
    checkpoints.save(engine, optimizer, TrainState(step=1))
    checkpoints.finish()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    checkpoints.save(engine, optimizer, TrainState(step=2))
    checkpoints.finish()
    assert "step-0000002 could not be saved, training goes on" in capsys.readouterr().err
    assert checkpoints.resume(engine, optimizer).step == 1


@pytest.mark.parametrize("kind", ["adafactor", "lion", "rmsprop", "sgd"])
def test_going_on_in_the_background_is_bit_identical_for_every_rule(tmp_path, kind):
    config = replace(
        CONFIG,
        optimizer=OptimizerConfig(kind=kind, learning_rate=1e-3),
        averaging=AveragingConfig(kind="ema"),
        micro_batch_tokens=32,
    )
    engine, optimizer, batches = parts(config)
    straight = train(config, engine, optimizer, batches, TrainState(), 8)
    first, rule, batches = parts(config)
    checkpoints = Checkpoints(tmp_path, "key", 2, in_background=True)

    class Killed(BaseException):
        pass

    def kill(record, _):
        if record.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(
            config,
            first,
            rule,
            batches,
            TrainState(),
            8,
            save=lambda state: checkpoints.save(first, rule, state),
            hooks=[kill],
        )
    checkpoints.finish()
    second, rule, batches = parts(config)
    state = Checkpoints(tmp_path, "key", 2).resume(second, rule)
    assert state.step == 3
    resumed = train(config, second, rule, batches, state, 8)
    assert resumed.curve == straight.curve and resumed.noise == straight.noise
    assert resumed.recent_norms == straight.recent_norms
    assert all(torch.equal(p, second.parameters[name]) for name, p in engine.parameters.items())
