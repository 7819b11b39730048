"""The processes that were started together, before there is a mesh of them: one makes, the others wait for it."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from preceptor.core.errors import ConfigError, LostError, OutputError, PreceptorError, output_errors
from preceptor.core.files import make_folder

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_BE_SEEN = 60.0
"""How long a network file system may take to show to one host what another has written."""
_SECONDS_TO_COME = 60.0
_SECONDS_TO_LEAVE = 30.0
_FAILED = "failed"


def _never() -> None:
    return None


def was_started_together() -> bool:
    """Whether something has started this process as one of several: us, torchrun, Slurm or Kubernetes.

    Raises:
        ConfigError: only some of the variables that say so are there, or they number no process.
    """
    there = [name for name in _NEEDED if name in os.environ]
    if there and "RANK" in there and len(there) < len(_NEEDED):
        missing = [name for name in _NEEDED if name not in there]
        raise ConfigError(
            f"RANK is set, but not {', '.join(missing)}",
            remedy=f"set {', '.join(_NEEDED)} for each process, or start them by torchrun, or unset RANK",
        )
    if "RANK" not in there:
        return False
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(
            f"RANK is {rank!r} and WORLD_SIZE {world!r}, which number no process",
            remedy="number the processes from 0; WORLD_SIZE is how many there are",
        )
    return True


@dataclass(slots=True)
class Team:
    """The processes of a run as one of them sees them. They speak by a store of keys, which knows no time-out.

    The first process makes what is made once; the others are told when it stands, or that there will be none.
    """

    rank: int = 0
    world: int = 1
    store: Any = None
    """A torch.distributed.Store; None with one process."""

    @classmethod
    def join(cls, timeout_seconds: float) -> "Team":
        """The team that this process was started in; waits until all are there.

        Raises:
            LostError: the others did not come in time.
        """
        if not was_started_together() or int(os.environ["WORLD_SIZE"]) == 1:
            return cls()
        from torch._C._distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        seconds = max(timeout_seconds, _SECONDS_TO_COME)
        try:
            store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
            name = _agreed_name(store, rank, world, seconds)
        except RuntimeError as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise LostError(
                f"process {rank} of {world} waited {seconds:g} s at {where}, and not all others came: {error}",
                remedy="see that all hosts were started and reach that address, or raise mesh.timeout_seconds",
            ) from error
        return cls(rank, world, PrefixStore(name, store))

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that makes what is made once."""
        return self.rank == 0

    def tell(self, key: str, text: str) -> None:
        """Tell all others something, once."""
        if not self.is_alone:
            self.store.set(key, text)

    def hear(self, key: str, check: Callable[[], None] = _never) -> str:
        """What another process tells, however long it takes; ``check`` is called while waiting.

        Raises:
            LostError: a process has failed, and nothing will be told; or it cannot be reached.
        """
        try:
            while not self.store.check([key]):
                if self.store.check([_FAILED]):
                    raise self._failed_elsewhere()
                check()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            return str(self.store.get(key).decode())
        except RuntimeError as error:
            raise LostError(
                f"process {self.rank} of {self.world} has lost the host of the first process: {error}",
                remedy="see what that process has said last, on its screen and in its logs",
            ) from error

    def _failed_elsewhere(self) -> LostError:
        rank, code, message = self.store.get(_FAILED).decode().split(" ", 2)
        return LostError(f"process {rank} has ended: {message}", exit_code=int(code))

    def hear_all(self, key: str, check: Callable[[], None] = _never) -> list[str]:
        """What each of the others tells under a key of its own: ``key/rank``."""
        return [self.hear(f"{key}/{rank}", check) for rank in range(self.world) if rank != self.rank]

    @contextmanager
    def first_goes_ahead(self, what: str, check: Callable[[], None] = _never) -> Iterator[None]:
        """A block that the others begin when the first process has ended it."""
        if not self.is_first:
            self.hear(f"ahead/{what}", check)
        yield
        if self.is_first:
            self.tell(f"ahead/{what}", "")

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """A block whose errors the others are told, so that they wait no longer."""
        try:
            yield
        except Exception as error:
            self._tell_failure(error)
            raise

    def _tell_failure(self, error: Exception) -> None:
        if self.is_alone or isinstance(error, LostError):
            return
        code = error.exit_code if isinstance(error, PreceptorError) else 1
        said = str(error).splitlines() or [type(error).__name__]
        try:
            if not self.store.check([_FAILED]):
                self.store.set(_FAILED, f"{self.rank} {code} {said[0]}")
        except RuntimeError:
            # Whoever holds the store is gone, and so are the others in a moment; the error is told here.
            return

    def require_shared(
        self, folder: Path, check: Callable[[], None] = _never, seconds: float = SECONDS_TO_BE_SEEN
    ) -> None:
        """Refuse a folder that not all processes see: the first writes a file there, the others must find it.

        Raises:
            OutputError: names the process that does not see it.
        """
        if self.is_alone:
            return
        if self.is_first:
            token = folder / f".seen-by-all-{secrets.token_hex(8)}"
            with output_errors(folder):
                make_folder(folder)
                token.write_text("", encoding="ascii")
            try:
                self.tell("shared", token.name)
                answers = self.hear_all("shared", check)
            finally:
                token.unlink(missing_ok=True)
            if blind := [answer for answer in answers if answer]:
                raise _not_shared(folder, blind)
            self.tell("shared/everyone", "")
        else:
            name = self.hear("shared", check)
            is_there = until(lambda: (folder / name).exists(), seconds, check)
            self.tell(f"shared/{self.rank}", "" if is_there else f"{self.rank} on {os.uname().nodename}")
            self.hear("shared/everyone", check)

    def leave(self) -> None:
        """Say that this process needs nothing more; the first waits for the others, who may be reading from it."""
        if self.is_alone:
            return
        if self.is_first:
            self.tell("end", "")
            until(lambda: all(self.store.check([f"left/{rank}"]) for rank in range(1, self.world)), _SECONDS_TO_LEAVE)
        else:
            self.hear("end")
            self.tell(f"left/{self.rank}", "")


def _agreed_name(store: Any, rank: int, world: int, seconds: float) -> str:
    """A name that only the processes of this start know; a store may outlive them, with all that others told before.

    Each says a word of its own until the first answers just that word, and the first one's until all repeat it.

    Raises:
        RuntimeError: not all have come in time.
    """
    own, name = secrets.token_hex(8), ""

    def read(key: str) -> list[str]:
        return str(store.get(key).decode()).split() if store.check([key]) else []

    def is_answered() -> bool:
        nonlocal name
        answer = read(f"welcome/{rank}")
        name = answer[1] if answer[:1] == [own] else ""
        return bool(name)

    def have_all_repeated() -> bool:
        silent = [other for other in range(1, world) if read(f"repeated/{other}") != [own]]
        for other in silent:
            if (said := read(f"hello/{other}")) and read(f"welcome/{other}") != [*said, own]:
                store.set(f"welcome/{other}", f"{said[0]} {own}")
        return not silent

    if rank:
        store.set(f"hello/{rank}", own)
        if until(is_answered, seconds):
            store.set(f"repeated/{rank}", name)
            return name
    elif until(have_all_repeated, seconds):
        return own
    raise RuntimeError("time-out")


def until(is_so: Callable[[], bool], seconds: float, check: Callable[[], None] = _never) -> bool:
    """Whether something becomes so within some seconds."""
    end = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < end:
        check()
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return found


def _not_shared(folder: Path, blind: Sequence[str]) -> OutputError:
    return OutputError(
        f"{folder} is not one folder for all processes: what the first writes there is not seen by process "
        + ", ".join(blind),
        remedy="name a folder with --out that all hosts share, such as one on a network file system",
    )


def log_apart(folder: Path) -> None:
    """Send what this process says from now on to ``rank-N.log`` in a folder, if it is not the first one."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log_file(folder, rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    for said in (1, 2):
        os.dup2(file, said)
    os.close(file)


def log_file(folder: Path, rank: int) -> Path:
    """The log of a process, in a folder that is made where it is missing."""
    with output_errors(folder):
        make_folder(folder)
    return folder / f"rank-{rank}.log"
