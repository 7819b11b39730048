"""A nameless file for tensors that do not stay in memory."""

import mmap
import os
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.core.errors import OutputError, output_errors
from preceptor.train.memory_config import MemoryConfig

_PAGE = mmap.ALLOCATIONGRANULARITY


class ScratchFile:
    """Room in a file that has no name, so that nothing is left of it however the process ends.

    Room that is given back is used again, so the file grows no longer once a step has been made.

    Raises:
        OutputError: the folder does not exist or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise OutputError(
                f"{folder} is no folder, so nothing can be kept there while training",
                remedy="make the folder, or leave out memory.folder, which takes that of the run's checkpoints",
            )
        with output_errors(folder):
            # It is open as long as this object is.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._closing = weakref.finalize(self, self._file.close)
        self.num_bytes = 0
        self._free: dict[int, list[int]] = {}

    def allocate(self, num_bytes: int) -> tuple[int, int]:
        """The place of a stretch of room and its size in bytes, which is at least what is asked for.

        Raises:
            OutputError: the disk is full.
        """
        size = -(-num_bytes // _PAGE) * _PAGE
        if places := self._free.get(size):
            return places.pop(), size
        place = self.num_bytes
        with output_errors(self.folder):
            # A hole that could not be filled later would end the process by a signal, where the file is mapped.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), place, size)
            else:
                os.pwrite(self._file.fileno(), bytes(size), place)
        self.num_bytes += size
        return place, size

    def release(self, place: int, size: int) -> None:
        """Give room back."""
        self._free.setdefault(size, []).append(place)

    def write(self, content: Tensor, place: int) -> None:
        """Write bytes, a tensor of uint8 in the memory of the host.

        Raises:
            OutputError: the disk does not take them.
        """
        view, done = _bytes_of(content), 0
        with output_errors(self.folder):
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], place + done)

    def read(self, num_bytes: int, place: int) -> Tensor:
        """The bytes at a place, as a tensor of uint8.

        Raises:
            OutputError: the disk does not give them back.
        """
        content = torch.empty(num_bytes, dtype=torch.uint8)
        view, done = _bytes_of(content), 0
        with output_errors(self.folder):
            while done < num_bytes:
                count = os.preadv(self._file.fileno(), [view[done:]], place + done)
                if not count:
                    raise OutputError(
                        f"a file in {self.folder} is shorter than what was written to it",
                        remedy="check the disk, or choose another memory.folder",
                    )
                done += count
        return content

    def expect(self, place: int, size: int) -> None:
        """Tell the system that a stretch is about to be read, so that a slow disk begins at once."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), place, size, os.POSIX_FADV_WILLNEED)

    def mapped(self, like: Tensor) -> Tensor:
        """A tensor of the same shape and kind whose values, zeros at first, lie in the file.

        Raises:
            OutputError: the disk is full.
        """
        place, size = self.allocate(max(1, like.nbytes))
        with output_errors(self.folder):
            content = mmap.mmap(self._file.fileno(), size, offset=place)
        count = like.numel()
        flat = torch.from_numpy(np.frombuffer(content, dtype=np.uint8, count=like.nbytes))
        return flat.view(like.dtype)[:count].view(like.shape)

    def close(self) -> None:
        """Give the file back to the disk; what is mapped of it stays until it is forgotten."""
        self._closing()

    def __enter__(self) -> "ScratchFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _bytes_of(content: Tensor) -> memoryview:
    view: Any = content.numpy()
    return memoryview(view)


def open_scratch(memory: MemoryConfig, folder: Path | None) -> ScratchFile:
    """A file in the folder of the settings or, where they name none, in the given one, which is made.

    Raises:
        OutputError: the folder of the settings does not exist, or cannot be written.
    """
    if memory.folder or folder is None:
        return ScratchFile(Path(memory.folder or tempfile.gettempdir()))
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return ScratchFile(folder)
