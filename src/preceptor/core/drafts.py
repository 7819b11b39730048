"""Drafts: files and folders under a temporary name beside their target, told from dead ones by a lock."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preceptor.core.errors import output_errors
from preceptor.core.files import make_folder, sync_folder
from preceptor.core.lock import FileLock

PREFIX = ".draft-"


@contextmanager
def draft_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new empty folder in `parent`, gone at the end of the block unless the block renamed it."""
    with _claim(parent, name, is_folder=True) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # what resists is swept later


@contextmanager
def _claim(parent: Path, name: str, *, is_folder: bool) -> Iterator[Path]:
    """A new path in `parent` that is locked as long as this process is in the block."""
    while True:
        path = parent / draft_name(name)
        try:
            if is_folder:
                path.mkdir()
            lock = FileLock(path, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:
            if is_folder and parent.is_dir():
                continue  # swept by another process between the two calls
            raise
        try:
            lock.acquire(wait=True)
            if not path.exists():
                continue  # swept before it was locked
            yield path
            return
        finally:
            lock.close()


def draft_name(name: str) -> str:
    """A name for a draft of `name` that no other draft has."""
    return f"{PREFIX}{name}-{os.getpid()}-{secrets.token_hex(4)}"


def sweep(parent: Path) -> list[Path]:
    """The drafts in a folder that dead processes left behind, now removed; those of living processes stay."""
    if not parent.is_dir():
        return []
    return [path for path in sorted(parent.glob(f"{PREFIX}*")) if _remove_if_dead(path)]


def _remove_if_dead(path: Path) -> bool:
    try:
        lock = FileLock(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # gone already, or not ours to open
    try:
        # Without a lock nothing tells a dead process from a living one: the draft stays.
        if not lock.acquire():
            return False
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return not path.exists()
    finally:
        lock.close()


def remove_folder(path: Path) -> bool:
    """Whether a folder is gone, removed so that a crash at any moment leaves it whole or as a draft, swept later.

    What cannot be taken away stays whole.
    """
    aside = path.with_name(draft_name(path.name))
    try:
        os.rename(path, aside)
        # Were the old name to come back after a power cut, it would name what is half removed.
        sync_folder(path.parent)
    except OSError:
        return not path.exists()
    shutil.rmtree(aside, ignore_errors=True)
    return True


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file so that a crash at any moment leaves the old content or the new one.

    Raises:
        OutputError: it cannot be written; the old content is still there.
    """
    make_folder(path.parent)
    sweep(path.parent)
    with output_errors(path.parent), _claim(path.parent, path.name, is_folder=False) as draft, output_errors(path):
        try:
            with draft.open("wb") as stream:
                stream.write(content.encode("utf-8") if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
