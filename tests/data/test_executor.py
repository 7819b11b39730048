"""The same results in the same order, whoever does the work; and what happens when somebody stops or dies."""

import importlib.util
import os
import signal
import warnings

import pytest

from preceptor.core.errors import ConfigError, DataError, Interrupted
from preceptor.data.executor import ExecutionConfig, executor

HAS_RAY = importlib.util.find_spec("ray") is not None
KINDS = ["in-process", "processes", pytest.param("ray", marks=pytest.mark.skipif(not HAS_RAY, reason="needs ray"))]


def square(number):
    return number * number, os.getpid()


def fail_at_three(number):
    if number == 3:
        raise DataError("three is broken", remedy="use another number")
    return number


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.filterwarnings("ignore")  # of Ray's own, which are none of ours
@pytest.mark.parametrize("kind", KINDS)
def test_results_come_in_order_and_errors_reach_the_caller(kind):
    config = ExecutionConfig(kind=kind, num_workers=2)
    with executor(config, 20) as workers:
        results = list(workers.map(square, range(20)))
        assert [square for square, _ in results] == [number * number for number in range(20)]
        assert (os.getpid() in {pid for _, pid in results}) == (kind == "in-process")
        with pytest.raises(DataError, match="three is broken") as error:
            list(workers.map(fail_at_three, range(6)))
    assert error.value.remedy == "use another number"


def test_a_killed_worker_is_told_as_what_it_is():
    with executor(ExecutionConfig(num_workers=2), 6) as workers, pytest.raises(DataError, match="was killed") as error:
        list(workers.map(die_at_three, range(6)))
    assert "num_workers" in error.value.remedy


def test_a_stop_ends_the_work_without_waiting_for_the_rest():
    asked = []

    def check():
        asked.append(1)
        if len(asked) > 3:
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted), executor(ExecutionConfig(num_workers=2), 1000, check) as workers:
        list(workers.map(square, range(1000)))
    assert len(asked) == 4


def test_one_piece_of_work_is_done_here():
    with executor(ExecutionConfig(), 1) as workers:
        assert list(workers.map(square, [3])) == [(9, os.getpid())]


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match="not installed") as error, executor(ExecutionConfig(kind="ray"), 2):
        warnings.warn("never reached", stacklevel=1)
    assert "preceptor[ray]" in error.value.remedy
