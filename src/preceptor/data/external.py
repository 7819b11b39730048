"""Sorting and per-document state on the disk, so that memory stays flat however many documents there are."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MEMORY_BYTES = 16 << 20
_MIN_BLOCK = 64

Records = NDArray[np.uint64]
RowArray = NDArray[Any]


class Sorter:
    """Records of whole numbers, sorted by their first column and then by their second.

    What does not fit into the memory is sorted piece by piece into a file, and the pieces are merged as they are read.
    Records that are equal in both columns come in the order in which they were added.
    """

    def __init__(self, path: Path, num_columns: int = 2, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._path = path
        self._num_columns = num_columns
        self._memory_rows = max(2 * _MIN_BLOCK, memory_bytes // (8 * num_columns))
        self._waiting: list[Records] = []
        self._num_waiting = 0
        self._run_rows: list[int] = []

    def add(self, *columns: NDArray[Any]) -> None:
        """Take records, given as one array for each column."""
        start, num_rows = 0, len(columns[0])
        while start < num_rows:
            stop = min(num_rows, start + self._memory_rows - self._num_waiting)
            records = np.empty((stop - start, self._num_columns), np.uint64)
            for place, column in enumerate(columns):
                records[:, place] = column[start:stop]
            self._waiting.append(records)
            self._num_waiting += stop - start
            start = stop
            if self._num_waiting >= self._memory_rows:
                self._spill()

    def chunks(self) -> Iterator[Records]:
        """All records in order, some thousand at a time; may be asked for again."""
        if not self._run_rows:
            yield from self._chunks_in_memory()
            return
        if self._num_waiting:
            self._spill()
        yield from self._merge()

    def close(self) -> None:
        """Give memory and disk back."""
        self._waiting, self._num_waiting = [], 0
        if self._run_rows:
            self._run_rows = []
            self._path.unlink()

    def _chunks_in_memory(self) -> Iterator[Records]:
        if self._num_waiting:
            self._waiting = [_in_order(np.concatenate(self._waiting))]
            step = max(_MIN_BLOCK, self._memory_rows // 8)
            for start in range(0, self._num_waiting, step):
                yield self._waiting[0][start : start + step]

    def _spill(self) -> None:
        with self._path.open("ab" if self._run_rows else "wb") as file:
            write(file, _in_order(np.concatenate(self._waiting)))
        self._run_rows.append(self._num_waiting)
        self._waiting, self._num_waiting = [], 0

    def _merge(self) -> Iterator[Records]:
        block = max(_MIN_BLOCK, self._memory_rows // (2 * len(self._run_rows)))
        row_bytes = 8 * self._num_columns
        stops = np.cumsum(self._run_rows).tolist()
        places = [stop - size for stop, size in zip(stops, self._run_rows, strict=True)]
        heads = [np.empty((0, self._num_columns), np.uint64) for _ in stops]
        with self._path.open("rb") as file:
            while True:
                for run, head in enumerate(heads):
                    if not len(head) and places[run] < stops[run]:
                        num_rows = min(block, stops[run] - places[run])
                        file.seek(places[run] * row_bytes)
                        read = np.fromfile(file, np.uint64, num_rows * self._num_columns)
                        heads[run] = read.reshape(num_rows, self._num_columns)
                        places[run] += num_rows
                if not any(map(len, heads)):
                    return
                # What is not greater than the least of the last records read can have nothing unread before it.
                unread = [tuple(heads[run][-1, :2].tolist()) for run in range(len(heads)) if places[run] < stops[run]]
                counts = [_num_until(head, min(unread)) if unread else len(head) for head in heads]
                taken = [head[:count] for head, count in zip(heads, counts, strict=True)]
                heads = [head[count:] for head, count in zip(heads, counts, strict=True)]
                yield _in_order(np.concatenate(taken))


def _in_order(records: Records) -> Records:
    """The records sorted by both columns; most come sorted by the second, and then to sort by the first is enough."""
    ordered = records[np.argsort(records[:, 0], kind="stable")]
    is_tie = ordered[1:, 0] == ordered[:-1, 0]
    if not np.any(is_tie & (ordered[1:, 1] < ordered[:-1, 1])):
        return ordered
    return records[np.lexsort((records[:, 1], records[:, 0]))]


def _num_until(head: Records, bound: tuple[int, int]) -> int:
    """How many of some sorted records are not greater than the bound."""
    keys = head[:, 0]
    key = np.uint64(bound[0])
    low, high = int(np.searchsorted(keys, key, "left")), int(np.searchsorted(keys, key, "right"))
    return low + int(np.searchsorted(head[low:high, 1], np.uint64(bound[1]), "right"))


def new_rows(path: Path, dtype: Any, num_rows: int, width: int = 1) -> RowArray:
    """An array of zeros in a file: one entry, or one row of entries, for each document."""
    shape = (max(1, num_rows), width) if width > 1 else (max(1, num_rows),)
    with path.open("wb") as file:
        size = np.dtype(dtype).itemsize * shape[0] * width
        if hasattr(os, "posix_fallocate"):
            # A full disk should say so here: a file with holes would kill the process when a page finds no room.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    array: RowArray = np.memmap(path, dtype, "r+", shape=shape)[:num_rows]
    return array


def open_rows(path: Path, dtype: Any, num_rows: int) -> RowArray:
    """The array that ``new_rows`` made, for reading."""
    array: RowArray = np.memmap(path, dtype, "r", shape=(max(1, num_rows),))[:num_rows]
    return array


def fill(array: RowArray, value: int) -> None:
    """Set every entry of an array in a file."""
    for start in range(0, len(array), 1 << 20):
        array[start : start + (1 << 20)] = value
        release(array)


def release(*arrays: RowArray) -> None:
    """Let the system take back the memory through which these arrays in files were seen; their content stays."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def write(file: BinaryIO, array: NDArray[Any]) -> None:
    """Append the entries of an array to a file, with an error that says why where that fails, as ``tofile`` has not."""
    file.write(np.ascontiguousarray(array).data)


def group_starts(keys: NDArray[np.uint64], before: int | None) -> NDArray[np.bool_]:
    """Where in sorted keys a new key begins, given the last key before them."""
    starts = np.ones(len(keys), np.bool_)
    starts[1:] = keys[1:] != keys[:-1]
    if before is not None:
        starts[:1] = keys[:1] != np.uint64(before)
    return starts


def with_leaders(chunks: Iterator[Records]) -> Iterator[tuple[Records, Records]]:
    """Each chunk of sorted records, and for each record the first one that has its key."""
    leader: Records | None = None
    for records in chunks:
        if not len(records):
            continue
        known = records if leader is None else np.concatenate([leader[None], records])
        places = np.flatnonzero(group_starts(known[:, 0], None))
        sizes = np.diff(np.append(places, len(known)))
        leaders = np.repeat(known[places], sizes, axis=0)[len(known) - len(records) :]
        yield records, leaders
        leader = leaders[-1].copy()
