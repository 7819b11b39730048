"""One run per directory, by a lock that the kernel drops when its process ends, however it ends."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from preceptor.core.errors import LockedError, OutputError, output_errors
from preceptor.core.files import make_folder

LOCK_FILE = ".lock"

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_UNSUPPORTED = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class FileLock:
    """An open file or folder to be locked; the lock ends with the process, and forked children do not share it."""

    _open: ClassVar[set["FileLock"]] = set()

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self.handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self._open.add(self)

    def acquire(self, *, wait: bool = False) -> bool | None:
        """Whether this process has the lock now; None where the file system has no locks for it."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _BUSY:
                return False
            if error.errno in _UNSUPPORTED:
                return None
            raise
        return True

    def close(self) -> None:
        """Close the file and so drop the lock; a second time, or in a forked child, it does nothing."""
        if self in self._open:
            self._open.discard(self)
            os.close(self.handle)

    @classmethod
    def close_all(cls) -> None:
        """Close every file; for a forked child, where they would keep the lock of a parent that is killed."""
        while cls._open:
            os.close(cls._open.pop().handle)


os.register_at_fork(after_in_child=FileLock.close_all)


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """A block in which no other run can hold the directory, which is created if it is missing.

    Raises:
        LockedError: another run holds it; names that run's process.
        OutputError: the directory cannot be created or written, or its file system has no locks.
    """
    make_folder(directory)
    path = directory / LOCK_FILE
    with output_errors(path):
        file = FileLock(path, os.O_RDWR | os.O_CREAT)
    try:
        locked = file.acquire()
        if locked is None:
            raise OutputError(
                f"cannot lock {path}: its file system has no locks", remedy="choose a folder on a local disk with --out"
            )
        if not locked:
            raise _locked(directory, os.pread(file.handle, 200, 0).decode("utf-8", "replace").split())
        with output_errors(path):
            os.ftruncate(file.handle, 0)
            os.pwrite(file.handle, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        # The file stays: were it removed, a third run could lock a new one while a second still holds the old one.
        file.close()


def _locked(directory: Path, holder: list[str]) -> LockedError:
    pid = int(holder[0]) if holder and holder[0].isdecimal() else None
    who = "another process" if pid is None else f"process {pid}"
    if len(holder) > 1 and holder[1] != socket.gethostname():
        who += f" on {holder[1]}"
    return LockedError(
        f"{directory} is in use by another run: {who}",
        remedy="wait until it has ended, stop it, or choose another folder with --out",
        pid=pid,
    )
