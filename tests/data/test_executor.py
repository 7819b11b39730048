"""The same results in the same order, whoever does the work; and what happens when somebody stops or dies."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from preceptor.core.errors import ConfigError, DataError, Interrupted
from preceptor.core.interrupt import grace
from preceptor.data.executor import ExecutionConfig, executor, pulse

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


PARENT = """
import os, sys
from preceptor.data.executor import ExecutionConfig, executor

def pid_of(item):
    return os.getpid()

if __name__ == "__main__":
    with executor(ExecutionConfig(num_workers=2), 8) as workers:
        print(*set(workers.map(pid_of, range(8))), flush=True)
        sys.stdin.read()
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as status:
        return status.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(is_running(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids
    assert not any(is_running(pid) for pid in pids)


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


@pytest.mark.skipif(not HAS_RAY, reason="needs ray")
def test_an_address_where_no_cluster_listens_is_told_at_once():
    config = ExecutionConfig(kind="ray", ray_address="127.0.0.1:9")
    with pytest.raises(ConfigError, match="no Ray cluster answers") as error, executor(config, 2):
        pass
    assert "ray start --head" in error.value.remedy


def sleep_long(number):
    """The second item sleeps for an hour, unless it is ended in its sleep."""
    pulse().add(10, 1)
    pulse().flush()
    time.sleep(0.2 if number == 0 else 3600)
    return number


@pytest.mark.parametrize("kind", ["in-process", "processes"])
def test_a_signal_ends_the_item_in_hand_and_keeps_what_is_finished(kind):
    results = []
    told = []
    timer = None
    with grace() as stop, pytest.raises(Interrupted), stop.anywhere():
        config = ExecutionConfig(kind=kind, num_workers=2)
        with executor(config, 4, stop.check, lambda *amounts: told.append(amounts)) as workers:
            for result in workers.map(sleep_long, range(4)):
                results.append(result)
                timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
    timer.join()
    assert results == [0]
    assert told and all(num_bytes == 10 * num_records for num_bytes, num_records in told)


def beat(number):
    for _ in range(number):
        pulse().add(3, 1)
    pulse().flush()
    return number


@pytest.mark.parametrize("kind", ["in-process", "processes"])
def test_every_byte_and_record_is_told_once(kind):
    told = []
    config = ExecutionConfig(kind=kind, num_workers=2)
    with executor(config, 3, tell=lambda *amounts: told.append(amounts)) as workers:
        assert list(workers.map(beat, [100, 1000, 10])) == [100, 1000, 10]
    assert tuple(map(sum, zip(*told, strict=True))) == (3330, 1110)
    # A few times a second, however much is done.
    assert len(told) < 20


def test_a_stop_that_killed_a_worker_too_is_told_as_a_stop():
    def check():
        if asked:
            raise Interrupted(signal.SIGTERM)

    asked = []
    with pytest.raises(Interrupted), executor(ExecutionConfig(num_workers=2), 6, check) as workers:
        for number in workers.map(die_at_three, range(3)):
            if number == 2:
                asked.append(1)
        list(workers.map(die_at_three, range(3, 6)))
