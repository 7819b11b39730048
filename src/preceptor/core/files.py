"""What a crash must not undo: files and folders forced to the disk, and two paths swapped in one step."""

import ctypes
import errno
import hashlib
import os
import stat
import sys
from pathlib import Path

from preceptor.core.errors import output_errors

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_and_digest(file: Path) -> tuple[str, int]:
    """The SHA-256 and the size in bytes of a file that has been forced to the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return sha256, stream.tell()


def require_file(path: Path) -> None:
    """Refuse what is no file: a pipe may never begin, and a device may never end.

    Raises:
        OSError: it is something else, or not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file, but a folder, a pipe or a device", os.fspath(path))


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, each forced to the disk.

    Raises:
        OutputError: it cannot be created.
    """
    with output_errors(folder):
        missing = [folder, *folder.parents]
        missing = missing[: next((i for i, place in enumerate(missing) if place.is_dir()), len(missing))]
        folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            sync_folder(place.parent)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one atomic step; False where the system or the file system cannot.

    Raises:
        OSError: the system can, but not here: no permission, read-only, input/output error.
    """
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), os.fspath(second))
