"""Every error that Preceptor raises on purpose.

    PreceptorError              exit code 1
    ├── ConfigError             exit code 2: a recipe or an override says what cannot be
    ├── DataError               an input document or file cannot be used
    │   └── EmptyDataError      nothing readable was found, or nothing was left
    ├── ArtifactError           an artifact is missing, corrupt or of the wrong kind
    │   └── MismatchError       an artifact was made with another tokenizer, other data or another configuration
    ├── OutputError             a result cannot be written: full disk, read-only folder, a file where a folder should be
    │   └── LockedError         another run holds the directory
    ├── TrainingError           training cannot go on: non-finite loss, nothing to learn from
    ├── LostError               exit code 75: other processes of the run are gone or hang; what is saved can go on
    └── Interrupted             exit code 130 or 143: the user or the scheduler asked the run to stop

An error says what happened in `message` and what to do next in `remedy`.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class PreceptorError(Exception):
    """What went wrong, and what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  To fix it: {self.remedy}" if self.remedy else self.message


class ConfigError(PreceptorError):
    """A key or value of a recipe that cannot be used; `path` is the full dotted path of the key."""

    exit_code = 2

    def __init__(
        self, message: str, *, remedy: str = "", path: str = "", expected: str = "", nearest: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.path = path
        self.expected = expected
        self.nearest = nearest


class DataError(PreceptorError):
    """An input that cannot be used; the message starts with the place: `file:line` or `file, byte n`."""

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        file: str | os.PathLike[str] = "",
        line: int | None = None,
        byte: int | None = None,
    ) -> None:
        place = os.fspath(file)
        if line is not None:
            place += f":{line}"
        if byte is not None:
            place += f", byte {byte}"
        super().__init__(f"{place}: {message}" if place else message, remedy=remedy)
        self.file = os.fspath(file)
        self.line = line
        self.byte = byte


class EmptyDataError(DataError):
    """Input in which nothing readable was found, or of which nothing was left."""


class ArtifactError(PreceptorError):
    """An artifact that is missing, corrupt or of the wrong kind."""


class MismatchError(ArtifactError):
    """An artifact made with something else than is used now; `difference` maps a name to (made with, now)."""

    def __init__(
        self, message: str, *, remedy: str = "", difference: Mapping[str, tuple[object, object]] | None = None
    ) -> None:
        self.difference = dict(difference or {})
        lines = [f"  {name}: made with {made!r}, now {now!r}" for name, (made, now) in self.difference.items()]
        super().__init__("\n".join([message, *lines]), remedy=remedy)


class OutputError(PreceptorError):
    """A result that cannot be written."""


class LockedError(OutputError):
    """A directory that another run holds; `pid` is that run's process, or None if it could not be read."""

    def __init__(self, message: str, *, remedy: str = "", pid: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.pid = pid


class TrainingError(PreceptorError):
    """Training that cannot go on."""


class LostError(PreceptorError):
    """A run whose other processes are gone or hang; with the exit code of the one that failed, where that is known."""

    def __init__(self, message: str, *, remedy: str = "", exit_code: int = 75) -> None:
        super().__init__(message, remedy=remedy)
        # 75 is EX_TEMPFAIL of sysexits.h: the same may well succeed if it is tried again.
        self.exit_code = exit_code


class Interrupted(PreceptorError):
    """A run stopped by a signal after it saved what it had; exits with 128 plus the signal's number."""

    def __init__(self, signal: int, message: str = "", *, remedy: str = "") -> None:
        super().__init__(message or f"stopped by signal {signal}", remedy=remedy)
        self.signal = signal
        self.exit_code = 128 + signal


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_TOO_LARGE = {errno.EFBIG}
_READ_ONLY = {errno.EROFS}
# These come from writing only. The ones below come from reading as well, so they count as output
# errors only where they concern the path that is being written.
_ONLY_FROM_WRITING = _NO_SPACE | _TOO_LARGE | _READ_ONLY
_NO_PERMISSION = {errno.EACCES, errno.EPERM}
_WRONG_KIND = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
_FROM_EITHER = _NO_PERMISSION | _WRONG_KIND | {errno.EIO, errno.ENAMETOOLONG, errno.EBUSY, errno.ETXTBSY}
_NUMBER_IN_TEXT = re.compile(r"\((?:os error|errno) (\d+)\)|\[[Ee]rrno (\d+)\]")
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")


def _error_number(error: Exception) -> int | None:
    """The errno behind an exception, also where a library written in Rust or C++ only put it into the text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if found := _NUMBER_IN_TEXT.search(str(error)):
        return int(found[1] or found[2])
    if isinstance(error, OSError) and _SHORT_WRITE.match(str(error)):
        return errno.ENOSPC  # numpy.ndarray.tofile drops the errno of a short write
    return None


def _concerns(error: Exception, path: Path) -> bool:
    """Whether an error is about `path`, something inside it or a folder above it; errors that name nothing are."""
    both = (getattr(error, "filename", None), getattr(error, "filename2", None))
    named = [Path(os.path.abspath(os.fsdecode(name))) for name in both if isinstance(name, str | bytes | os.PathLike)]
    here = Path(os.path.abspath(path))
    return not named or any(name.is_relative_to(here) or here.is_relative_to(name) for name in named)


def free_bytes(path: Path) -> int | None:
    """Bytes free on the file system that holds `path` or would hold it; None if it cannot be asked."""
    for folder in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


def _output_error(number: int, path: Path) -> OutputError:
    reason = os.strerror(number)
    if number in _NO_SPACE:
        free = free_bytes(path)
        left = "" if free is None else f" ({free / 1e6:,.1f} MB free)"
        return OutputError(
            f"cannot write {path}: {reason}{left}", remedy="free some space, or choose another folder with --out"
        )
    if number in _TOO_LARGE:
        return OutputError(
            f"cannot write {path}: {reason}",
            remedy="raise the limit on file sizes (ulimit -f), or choose another folder",
        )
    if number in _READ_ONLY | _NO_PERMISSION:
        return OutputError(
            f"cannot write {path}: {reason}", remedy="make the folder writable, or choose another folder with --out"
        )
    if number in _WRONG_KIND:
        return OutputError(
            f"cannot write {path}: {reason}", remedy="move what is there out of the way, or choose another folder"
        )
    return OutputError(
        f"cannot write {path}: {reason}", remedy="check the disk that holds it, or choose another folder with --out"
    )


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """A block in which failing to write `path` or anything inside it becomes an OutputError with a remedy.

    Raises:
        OutputError: full disk or quota, read-only or forbidden folder, a file in the way, input/output error.
    """
    try:
        yield
    except PreceptorError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number in _ONLY_FROM_WRITING or (number in _FROM_EITHER and _concerns(error, path)):
            raise _output_error(number, path) from error
        raise
