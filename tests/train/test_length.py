"""Lengths in seconds and joules."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from toy_training import CONFIG, Stop, parts, train

from preceptor.core.errors import ConfigError, Interrupted
from preceptor.core.units import Duration
from preceptor.parallel.mesh import ALONE
from preceptor.train import loop
from preceptor.train.length import Length, agreed, length_of
from preceptor.train.state import TrainState


def test_a_budget_of_seconds_ends_at_the_step_that_comes_nearest():
    length = Length(Duration("seconds", 10.0))
    assert not length.is_over(TrainState())
    assert length.num_steps(TrainState(step=4, seconds=4.0)) == 10
    assert not length.is_over(TrainState(step=9, seconds=9.2))
    assert length.is_over(TrainState(step=9, seconds=9.6)), "another step would end at 10.7"
    assert length.is_over(TrainState(step=3, seconds=30.0))


def slow_clock(monkeypatch, tick):
    """A clock of the test's own: whenever training looks at it, so many seconds are gone."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: tick * next(ticks)))


# Of many ticks, as chance decides whether a budget is used up by a step or by what follows it.
@pytest.mark.parametrize("tick", [0.011, 0.02, 0.03, 0.031, 0.037, 0.041])
def test_a_run_of_seconds_takes_about_so_long_and_its_rate_falls_to_nothing(monkeypatch, tick):
    slow_clock(monkeypatch, tick)
    engine, optimizer, batches = parts()
    length = Length(Duration("seconds", 1.5))
    state = train(CONFIG, engine, optimizer, batches, TrainState(), 0, length=length)
    assert state.step > 10 and abs(state.seconds - 1.5) < 4 * tick
    rates = [record["learning_rate"] for record in state.curve]
    assert rates[-1] < 0.5 * max(rates)
    assert state.curve[-1]["validation_loss"] == 1.0


def test_a_run_of_joules_ends_behind_a_validation_although_they_are_spent_meanwhile():
    for spent_at_a_look in (0.3, 0.7, 1.1, 1.3):
        looks = itertools.count(1)
        length = Length(Duration("joules", 20.0), joules=lambda each=spent_at_a_look, n=looks: each * next(n))
        state = train(CONFIG, *parts(), TrainState(), 0, length=length)
        assert state.step > 1 and state.curve[-1]["validation_loss"] == 1.0


def test_a_run_whose_budget_was_used_up_between_two_sessions_ends_behind_a_validation(monkeypatch):
    slow_clock(monkeypatch, 0.03)
    engine, optimizer, batches = parts()
    length = Length(Duration("seconds", 1.5))
    state, stop = TrainState(), Stop()

    def stop_at_nine(record, seconds):
        stop.requested = record.step == 9

    with pytest.raises(Interrupted):
        train(CONFIG, engine, optimizer, batches, state, 0, length=length, stop=stop, hooks=[stop_at_nine])
    assert state.step == 9 and "validation_loss" not in state.curve[-1]
    state.seconds = 2.0
    state = train(CONFIG, engine, optimizer, batches, state, 0, length=length)
    assert state.step == 10 and state.curve[-1]["validation_loss"] == 1.0


def test_joules_are_read_now_and_then_and_go_on_from_earlier_sessions():
    spent = iter(range(10, 1000))
    joules = agreed(lambda: float(next(spent)), ALONE, TrainState())
    length = length_of(replace(CONFIG, duration="100 joules"), 0, joules)
    assert length.num_steps(TrainState(step=5, seconds=1.0)) == 50
    assert length.num_steps(TrainState(step=5, seconds=1.0)) == 50, "a reading is some seconds old at most"


def test_joules_that_nobody_measures_are_refused():
    with pytest.raises(ConfigError, match="energy is not measured"):
        length_of(replace(CONFIG, duration="100 joules"), 0, lambda: 0.0)


def test_steps_are_what_they_are():
    assert length_of(replace(CONFIG, duration="7 steps"), 7, lambda: 0.0).num_steps(TrainState(step=3)) == 7
