"""What the tests of faults share: trainees, strace, a disk of one megabyte; or why this machine lacks them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

NURSERY = Path(__file__).with_name("nursery.py")


@dataclass
class Trainee:
    """A training in a process of its own."""

    nursery: "Nursery"
    pid: int
    notes: Path

    def wait(self) -> int | str:
        """Its exit code, negative for a signal; "stopped" where it has stopped itself."""
        return self.nursery.ask(wait=self.pid)

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def said(self) -> str:
        """What it has told so far."""
        return (self.notes / "said").read_text(encoding="utf-8")


class Nursery:
    """The process that forks trainees; `root` is where its folders are for the process of the tests."""

    def __init__(self, *prefix: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(NURSERY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # No thread may be there when it forks, and pyarrow would start one.
            env={**os.environ, "OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"},
        )
        if self.process.stdout is None or self.process.stdout.readline() != '"ready"\n':
            self.close()
            raise RuntimeError("the nursery has not begun")

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def start(self, folder: Path, notes: Path, **arguments: Any) -> Trainee:
        """A training in a folder, going on from its newest checkpoint; its notes go to another."""
        notes.mkdir(parents=True, exist_ok=True)
        pid = self.ask(start={"folder": str(folder), "notes": str(notes), **arguments})
        return Trainee(self, pid, notes)

    def run(self, folder: Path, notes: Path, **arguments: Any) -> tuple[int | str, str]:
        """How a training ended, and what it told."""
        trainee = self.start(folder, notes, **arguments)
        return trainee.wait(), trainee.said()

    @contextmanager
    def traced(self, folder: Path, notes: Path, *rules: str, **arguments: Any) -> Iterator[Trainee]:
        """A training under rules of strace, whose log goes to the notes."""
        trainee = self.start(folder, notes, traced=True, **arguments)
        command = ["strace", "-f", "-qq", "-p", str(trainee.pid), "-o", str(notes / "calls")]
        for rule in rules:
            command += ["-e", rule]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            try:
                yield trainee
            finally:
                tracer.send_signal(signal.SIGTERM)

    def run_traced(self, folder: Path, notes: Path, *rules: str, **arguments: Any) -> tuple[int | str, str]:
        """How a training ended under rules of strace, and what it told."""
        with self.traced(folder, notes, *rules, **arguments) as trainee:
            return trainee.wait(), trainee.said()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A nursery of trainees."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def can_strace() -> None:
    """Skips where system calls cannot be made to fail."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace, which makes chosen system calls fail or kill")
    probe = ["strace", "-qq", "-o", os.devnull, "-e", "inject=fsync:error=EIO", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")


@pytest.fixture(scope="session")
def can_mount() -> None:
    """Skips where a test may not have file systems of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, for a file system of its own")
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a user name space with mounts: {done.stderr.strip()[:200]}")


@dataclass
class SmallDisk:
    """A file system of one megabyte that only its nursery sees; `path` is where it is for that nursery."""

    nursery: Nursery
    path: Path

    @property
    def seen(self) -> Path:
        """The same folder for the process of the tests."""
        return Path(f"/proc/{self.nursery.process.pid}/root{self.path}")

    def remount(self, options: str) -> None:
        """Mount it with other options."""
        assert self.nursery.ask(do=["mount", "-o", f"remount,{options}", str(self.path)]) == 0


@pytest.fixture(scope="session")
def small_disk(can_mount: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """A nursery on a disk of one megabyte."""
    path = tmp_path_factory.mktemp("disk")
    script = f'mount -t tmpfs -o size=1m tmpfs {path} && exec "$@"'
    nursery = Nursery("unshare", "-rm", "sh", "-c", script, "sh")
    yield SmallDisk(nursery, path)
    nursery.close()
