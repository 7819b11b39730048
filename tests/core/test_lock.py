"""One run per directory."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor.core.errors import LockedError, OutputError
from preceptor.core.lock import LOCK_FILE, hold

HOLD = (
    "import sys, pathlib\n"
    "from preceptor.core.lock import hold\n"
    "with hold(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)
# The child speaks, for only then has it let go of what it was born with.
HOLD_AND_FORK = (
    "import os, sys, pathlib, time\n"
    "from preceptor.core.lock import hold\n"
    "with hold(pathlib.Path(sys.argv[1])):\n"
    "    if os.fork() == 0:\n"
    "        pathlib.Path(sys.argv[1], 'child').write_text(str(os.getpid()))\n"
    "        print('held', flush=True)\n"
    "        time.sleep(300)\n"
    "    sys.stdin.read()\n"
)


def holder(directory: Path, code: str = HOLD) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as child:
        with pytest.raises(LockedError) as caught, hold(tmp_path / "run"):
            pytest.fail("two runs in one directory")
        assert caught.value.pid == child.pid
        assert f"process {child.pid}" in caught.value.message
        assert str(tmp_path / "run") in caught.value.message
        child.communicate()
    assert child.returncode == 0
    with hold(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).read_text().split()[0] == str(os.getpid())


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / LOCK_FILE).read_text().split()[0] == str(child.pid)
    with hold(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().split()[0] == str(os.getpid())


def test_children_of_a_killed_process_do_not_keep_its_lock(tmp_path: Path) -> None:
    with holder(tmp_path, HOLD_AND_FORK) as child:
        child.kill()
        child.wait()
        orphan = int((tmp_path / "child").read_text())
        try:
            with hold(tmp_path):
                os.kill(orphan, 0)  # it is alive all the while
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_a_lock_left_by_nobody_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("1 elsewhere\n")
    with hold(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().split()[0] == str(os.getpid())


def test_one_process_cannot_hold_a_directory_twice(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()}"), hold(tmp_path):
        pytest.fail("held twice")
    with hold(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()


def test_a_holder_that_wrote_nothing_is_still_a_holder(tmp_path: Path) -> None:
    with (tmp_path / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another process") as caught, hold(tmp_path):
            pytest.fail("held twice")
    assert caught.value.pid is None


def test_a_holder_on_another_machine_is_named(tmp_path: Path) -> None:
    with (tmp_path / LOCK_FILE).open("w") as file:
        file.write("12 far-away\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="process 12 on far-away"), hold(tmp_path):
            pytest.fail("held twice")


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        _ = 1 / 0
    with hold(tmp_path):
        assert True


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [(errno.ENOLCK, OutputError, "has no locks"), (errno.EIO, OSError, "Input/output error")],
)
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], message: str
) -> None:
    def fail(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=message), hold(tmp_path):
        pytest.fail("held without a lock")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError), hold(tmp_path / "run"):
        pytest.fail("held a file")
