"""Columns of unknown length written piece by piece as .npy files that can be memory-mapped."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from preceptor.core.errors import DataError

_BLOCK_NAMES = 1 << 16


class ColumnWriter:
    """A .npy file of one dimension that grows; its length is known when it is closed."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file = path.open("wb")
        self._dtype = dtype
        self.length = 0
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first axis to grow, so that the second writing fits over the first.
        described = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        npy.write_array_header_1_0(self._file, described)

    def write(self, values: NDArray[Any]) -> None:
        """Append values."""
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self.length += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._file.seek(0)
                self._write_header()


class NameWriter:
    """A .npy file of names in ASCII, each as wide as the longest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # How wide the names are is known only at the end; until then they are lines of a file beside it.
        self._lines_path = path.with_suffix(".lines")
        self._lines = self._lines_path.open("w+b")
        self._width = 1

    def write(self, names: Sequence[str]) -> None:
        """Append names.

        Raises:
            DataError: a name is empty, not ASCII or more than one line.
        """
        for name in names:
            if not name.isascii() or not name.isprintable() or not name:
                raise DataError(f"the document id {name!r} is not one line of ASCII characters")
            self._width = max(self._width, len(name))
        self._lines.write("".join(f"{name}\n" for name in names).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lines:
            if error is None:
                self._lines.seek(0)
                dtype = np.dtype(f"S{self._width}")
                with ColumnWriter(self._path, dtype) as column:
                    while lines := self._lines.readlines(_BLOCK_NAMES * (self._width + 1)):
                        column.write(np.array([line.rstrip(b"\n") for line in lines], dtype))
        self._lines_path.unlink()
