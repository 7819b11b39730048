"""Paragraphs that stand in several documents, and lines that stand in very many."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preceptor.data.external import Records, RowArray, Sorter, fill, group_starts, new_rows, release, write
from preceptor.data.part_rows import PartRows
from preceptor.data.sketch import OverlapConfig, units_of

_MAX_ROUNDS = 64
_ROW_MASK = np.uint64((1 << 32) - 1)

IsLeft = Callable[[int, int], NDArray[np.bool_]]


class RepeatedParagraphs:
    """Of each paragraph that several documents have, who keeps it: the longest document, then the first.

    A document of which too much stands in better ones leaves as a whole, and then keeps no paragraph from others. So
    who leaves depends on whether better ones leave: rounds are made until nothing changes, which one round for each
    link of the longest such chain achieves.
    """

    def __init__(
        self, parts: PartRows, is_left: IsLeft, characters: RowArray, config: OverlapConfig, folder: Path, memory: int
    ) -> None:
        self.parts, self.characters, self.config = parts, characters, config
        self.is_gone = new_rows(folder / "is_gone.bin", np.bool_, parts.num_rows)
        self.repeated = new_rows(folder / "repeated_characters.bin", np.int64, parts.num_rows)
        self.owners = new_rows(folder / "owners.bin", np.int64, parts.num_rows)
        """The document that keeps the longest of those paragraphs of this one which stand in better ones."""
        self._longest = new_rows(folder / "longest.bin", np.int64, parts.num_rows)
        self._path = folder / "repeated_paragraphs.bin"
        sorter = Sorter(folder / "paragraphs.bin", 3, memory_bytes=memory)
        for first, batch in parts.batches(["paragraphs", "paragraph_characters"]):
            left = is_left(first, first + batch.num_rows)
            lists = batch.column("paragraphs").filter(left)
            rows = np.repeat(first + np.flatnonzero(left), lists.value_lengths().to_numpy())
            order = ((~characters[rows]).astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)
            sizes = batch.column("paragraph_characters").filter(left).flatten().to_numpy()
            sorter.add(lists.flatten().to_numpy(), order, sizes)
            release(characters)
        with self._path.open("wb") as file:
            for records in _several(sorter.chunks()):
                write(file, records)
        sorter.close()

    def settle(self) -> None:
        """Find out which documents leave."""
        for _ in range(_MAX_ROUNDS):
            fill(self.repeated, 0)
            fill(self._longest, 0)
            for records, owners in self._repeats():
                rows = (records[:, 1] & _ROW_MASK).astype(np.int64)
                sizes = records[:, 2].astype(np.int64)
                np.add.at(self.repeated, rows, sizes)
                order = np.argsort(sizes, kind="stable")
                order = order[sizes[order] > self._longest[rows[order]]]
                # Of several entries for one document the last is what remains, and that is the longest.
                self._longest[rows[order]] = sizes[order]
                self.owners[rows[order]] = owners[order] & _ROW_MASK
                release(self.repeated, self.owners, self._longest)
            if not self._note_gone():
                return

    def cuts(self) -> Iterator[Records]:
        """Pairs of document and paragraph that are to be taken apart."""
        for records, _ in self._repeats():
            records = records[records[:, 2] >= self.config.min_paragraph_characters]
            rows = records[:, 1] & _ROW_MASK
            yield np.stack([rows, records[:, 0]], axis=1)[~self.is_gone[rows]]
            release(self.is_gone)

    def share(self, start: int, stop: int) -> NDArray[np.float64]:
        """Which part of each document stands in better ones."""
        return np.asarray(self.repeated[start:stop] / np.maximum(1, self.characters[start:stop]))

    def _note_gone(self) -> bool:
        """Whether another set of documents leaves than in the round before."""
        has_changed = False
        for start in range(0, self.parts.num_rows, 1 << 18):
            stop = min(self.parts.num_rows, start + (1 << 18))
            is_gone = self.share(start, stop) > self.config.max_repeated_fraction
            has_changed |= not np.array_equal(is_gone, self.is_gone[start:stop])
            self.is_gone[start:stop] = is_gone
            release(self.is_gone, self.repeated, self.characters)
        return has_changed

    def _repeats(self) -> Iterator[tuple[Records, NDArray[np.uint64]]]:
        """Records of paragraphs that a better document has which stays, and the order of the best such document."""
        key: int | None = None
        owner = 0
        with self._path.open("rb") as file:
            while len(read := np.fromfile(file, np.uint64, 3 << 15)):
                self.parts.stop_check()
                records = read.reshape(-1, 3)
                stays = ~self.is_gone[records[:, 1] & _ROW_MASK]
                starts = group_starts(records[:, 0], None if owner == 0 else key)
                # The place of the first record in each group that stays; what comes after it is a repeat.
                numbers = np.cumsum(starts)
                firsts = np.full(int(numbers[-1]) + 1, len(records))
                np.minimum.at(firsts, numbers[stays], np.flatnonzero(stays))
                is_known = (numbers == 0) & (owner != 0)
                place = firsts[numbers]
                is_repeat = is_known | (np.arange(len(records)) > place)
                owners = np.where(is_known, np.uint64(owner), records[np.minimum(place, len(records) - 1), 1])
                is_repeat &= records[:, 1] != owners
                yield records[is_repeat], owners[is_repeat]
                release(self.is_gone)
                has_owner = is_known[-1] or place[-1] < len(records)
                key, owner = int(records[-1, 0]), int(owners[-1]) if has_owner else 0


def _several(chunks: Iterator[Records]) -> Iterator[Records]:
    """The records whose key another record has."""
    waiting = np.empty((0, 3), np.uint64)
    was_repeated = False
    for chunk in chunks:
        block = np.concatenate([waiting, chunk])
        same = block[1:, 0] == block[:-1, 0]
        repeated = np.zeros(len(block), np.bool_)
        repeated[1:] |= same
        repeated[:-1] |= same
        if len(waiting):
            repeated[0] |= was_repeated
        yield block[:-1][repeated[:-1]]
        waiting, was_repeated = block[-1:].copy(), bool(repeated[-1])
    if was_repeated:
        yield waiting


def frequent_lines(parts: PartRows, is_left: IsLeft, config: OverlapConfig, folder: Path, memory: int) -> Sorter:
    """Records of document and line, sorted by both, for the lines that stand in too many of the documents left."""
    cuts = Sorter(folder / "line_cuts.bin", memory_bytes=memory)
    if not config.max_line_documents:
        return cuts
    sorter = Sorter(folder / "lines.bin", memory_bytes=memory)
    for first, batch in parts.batches(["lines"]):
        left = is_left(first, first + batch.num_rows)
        lists = batch.column("lines").filter(left)
        rows = np.repeat(first + np.flatnonzero(left), lists.value_lengths().to_numpy())
        sorter.add(lists.flatten().to_numpy(), rows)
    path = folder / "frequent_lines.bin"
    with path.open("wb") as file:
        for keys in _frequent(sorter, config.max_line_documents):
            write(file, keys)
    frequent = np.memmap(path, np.uint64, "r") if path.stat().st_size else np.empty(0, np.uint64)
    if len(frequent):
        for chunk in sorter.chunks():
            parts.stop_check()
            places = np.minimum(np.searchsorted(frequent, chunk[:, 0]), len(frequent) - 1)
            found = chunk[frequent[places] == chunk[:, 0]]
            cuts.add(found[:, 1], found[:, 0])
            release(frequent)
    sorter.close()
    return cuts


def _frequent(sorter: Sorter, max_documents: int) -> Iterator[NDArray[np.uint64]]:
    """The keys of more records than that, sorted."""
    key: int | None = None
    count = 0
    for chunk in sorter.chunks():
        starts = np.flatnonzero(group_starts(chunk[:, 0], key))
        if key is not None and (not len(starts) or starts[0] > 0):
            starts = np.concatenate([[0], starts])
        sizes = np.diff(np.append(starts, len(chunk)))
        keys = chunk[starts, 0]
        if key is not None and int(keys[0]) == key:
            sizes[0] += count
        elif key is not None and count > max_documents:
            yield np.array([key], np.uint64)
        yield keys[:-1][sizes[:-1] > max_documents]
        key, count = int(keys[-1]), int(sizes[-1])
    if key is not None and count > max_documents:
        yield np.array([key], np.uint64)


def without_repeats(text: str, hashes: frozenset[int], config: OverlapConfig) -> str:
    """The text without those of its paragraphs and lines, and without the empty lines that they leave behind."""
    lines = text.split("\n")
    leaves = np.zeros(len(lines), np.bool_)
    for units in units_of(text, config):
        columns = (units.hashes, units.first_lines, units.num_lines)
        for hash, first, num_lines in zip(*(column.tolist() for column in columns), strict=True):
            if hash in hashes:
                leaves[first : first + num_lines] = True
    if not leaves.any():
        return text
    kept: list[str] = []
    has_gap = False
    for line, is_left_out in zip(lines, leaves.tolist(), strict=True):
        if is_left_out:
            has_gap = True
        elif line.strip() or not has_gap or (kept and kept[-1].strip()):
            kept.append(line)
            has_gap = has_gap and not line.strip()
    return "\n".join(kept).strip("\n")
