"""Lengths in seconds and joules."""

from dataclasses import replace

import pytest
from toy_training import CONFIG, parts, train

from preceptor.core.errors import ConfigError
from preceptor.core.units import Duration
from preceptor.parallel.mesh import ALONE
from preceptor.train.length import Length, agreed, length_of
from preceptor.train.state import TrainState


def test_a_budget_of_seconds_ends_at_the_step_that_comes_nearest():
    length = Length(Duration("seconds", 10.0))
    assert not length.is_over(TrainState())
    assert length.num_steps(TrainState(step=4, seconds=4.0)) == 10
    assert not length.is_over(TrainState(step=9, seconds=9.2))
    assert length.is_over(TrainState(step=9, seconds=9.6)), "another step would end at 10.7"
    assert length.is_over(TrainState(step=3, seconds=30.0))


def test_a_run_of_seconds_takes_about_so_long_and_its_rate_falls_to_nothing():
    engine, optimizer, batches = parts()
    length = Length(Duration("seconds", 1.5))
    state = train(CONFIG, engine, optimizer, batches, TrainState(), 0, length=length)
    assert state.step > 3 and 0.75 < state.seconds < 4
    rates = [record["learning_rate"] for record in state.curve]
    assert rates[-1] < 0.5 * max(rates)
    assert state.curve[-1]["validation_loss"] == 1.0


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
