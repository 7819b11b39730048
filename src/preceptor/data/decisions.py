"""What was decided about each document by comparing all of them: files that every worker can open."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.core.errors import ArtifactError
from preceptor.data.document import KEEP, Drop, Verdict
from preceptor.data.external import Records, RowArray, new_rows, open_rows, release, write

STAYS, DUPLICATE_ID, EXACT_DUPLICATE, NEAR_DUPLICATE, REPEATED_ELSEWHERE, NOT_COMPARED = range(6)
RULES = ("", "duplicate-id", "exact-duplicate", "near-duplicate", "repeated-elsewhere", "")
_SUMMARY = "decisions.json"
_FILES: tuple[tuple[str, Any], ...] = (
    ("rules", np.uint8),
    ("kept", np.int64),
    ("measured", np.float32),
    ("source_stops", np.int64),
)


class DecisionWriter:
    """The decisions while they are made."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self.folder = folder
        arrays = {name: new_rows(folder / f"{name}.bin", dtype, num_rows) for name, dtype in _FILES}
        self.rules, self.kept, self.measured = arrays["rules"], arrays["kept"], arrays["measured"]
        self._source_stops = arrays["source_stops"]
        (folder / "sources.bin").write_bytes(b"")
        self._num_source_bytes = 0

    def name_sources(self, first: int, sources: list[str]) -> None:
        """Note where the documents from a number on came from; called in order."""
        encoded = [source.encode() for source in sources]
        stops = self._num_source_bytes + np.cumsum([len(each) for each in encoded])
        self._source_stops[first : first + len(sources)] = stops
        self._num_source_bytes = int(stops[-1])
        with (self.folder / "sources.bin").open("ab") as file:
            file.write(b"".join(encoded))
        release(self._source_stops)

    def is_left(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which documents nothing was decided about so far."""
        return np.asarray(self.rules[start:stop] == STAYS)

    def drop(self, rule: int, rows: NDArray[Any], kept: NDArray[Any], measured: NDArray[Any] | float) -> None:
        """Let documents leave, each for one that stays."""
        rows = rows.astype(np.int64)
        self.rules[rows] = rule
        self.kept[rows] = kept.astype(np.int64)
        self.measured[rows] = measured
        release(self.rules, self.kept, self.measured)

    def finish(self, offsets: list[int], limits: dict[int, float], repeats: Iterator[Records]) -> "Decisions":
        """The decisions, complete on the disk. Repeats come sorted by document."""
        for start in range(0, len(self.kept), 1 << 18):
            rows = start + np.flatnonzero(self.rules[start : start + (1 << 18)] % NOT_COMPARED)
            kept = self.kept[rows]
            # A document may have left for one that left later: what is named is the one that stayed in the end.
            while len(leaving := np.flatnonzero(self.rules[kept] % NOT_COMPARED)):
                kept[leaving] = self.kept[kept[leaving]]
            self.kept[rows] = kept
            release(self.rules, self.kept)
        num_repeats = 0
        paths = self.folder / "repeat_rows.bin", self.folder / "repeat_hashes.bin"
        with paths[0].open("wb") as rows_file, paths[1].open("wb") as hashes_file:
            for records in repeats:
                write(rows_file, records[:, 0])
                write(hashes_file, records[:, 1])
                num_repeats += len(records)
        for array in (self.rules, self.kept, self.measured, self._source_stops):
            if isinstance(array, np.memmap):
                array.flush()
        summary = {"offsets": offsets, "limits": {str(rule): limit for rule, limit in limits.items()}}
        (self.folder / _SUMMARY).write_text(json.dumps(summary | {"repeats": num_repeats}), encoding="utf-8")
        return Decisions.open(self.folder)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided about the documents of all parts, numbered through."""

    folder: Path
    offsets: tuple[int, ...]
    """The number of the first document of each part, and how many there are in all."""
    limits: dict[int, float]
    rules: RowArray
    kept: RowArray
    measured: RowArray
    source_stops: RowArray
    repeat_rows: RowArray
    repeat_hashes: RowArray

    @classmethod
    def open(cls, folder: Path) -> "Decisions":
        """The decisions that ``resolve`` wrote.

        Raises:
            ArtifactError: they are not there or not whole.
        """
        try:
            summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
            num_rows, num_repeats = summary["offsets"][-1], summary["repeats"]
            arrays = {name: open_rows(folder / f"{name}.bin", dtype, num_rows) for name, dtype in _FILES}
            for name in ("repeat_rows", "repeat_hashes"):
                path = folder / f"{name}.bin"
                arrays[name] = open_rows(path, np.uint64, num_repeats) if num_repeats else np.empty(0, np.uint64)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ArtifactError(
                f"{folder} holds no decisions: {error}", remedy="remove the folder and run again"
            ) from error
        limits = {int(rule): limit for rule, limit in summary["limits"].items()}
        return cls(folder, tuple(summary["offsets"]), limits, **arrays)

    def for_part(self, index: int) -> "PartDecisions":
        """The decisions about the documents of one part."""
        return PartDecisions(self, self.offsets[index], self.offsets[index + 1])

    def rule(self, row: int) -> str:
        """The rule by which a document leaves, or the empty string."""
        return RULES[self.rules[row]]

    def source(self, row: int) -> str:
        """Where a document came from."""
        start, stop = int(self.source_stops[row - 1]) if row else 0, int(self.source_stops[row])
        with (self.folder / "sources.bin").open("rb") as file:
            file.seek(start)
            return file.read(stop - start).decode()

    def verdict(self, row: int) -> Verdict:
        """Whether a document stays, or by which rule and for which other one it leaves."""
        rule = int(self.rules[row])
        if not RULES[rule]:
            return KEEP
        detail = f"of {self.source(int(self.kept[row]))}"
        return Drop(RULES[rule], float(self.measured[row]), self.limits[rule], detail)

    def repeats(self, row: int) -> frozenset[int]:
        """The paragraphs and lines that are to be cut out of a document."""
        start, stop = np.searchsorted(self.repeat_rows, np.array([row, row + 1], np.uint64))
        return frozenset(self.repeat_hashes[start:stop].tolist())

    def counts(self) -> dict[str, int]:
        """How many documents leave by each rule."""
        sums = np.zeros(len(RULES), np.int64)
        for start in range(0, len(self.rules), 1 << 20):
            sums += np.bincount(self.rules[start : start + (1 << 20)], minlength=len(RULES))
        return {name: int(number) for name, number in zip(RULES, sums, strict=True) if name and number}


@dataclass(frozen=True, slots=True)
class PartDecisions:
    """The decisions about the documents of one part, which are numbered from 0."""

    decisions: Decisions
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def stays(self, row: int) -> bool:
        """Whether a document stays."""
        return not self.decisions.rule(self.first + row)

    def verdict(self, row: int) -> Verdict:
        """Whether a document stays, or by which rule and for which other one it leaves."""
        return self.decisions.verdict(self.first + row)

    def repeats(self, row: int) -> frozenset[int]:
        """The paragraphs and lines that are to be cut out of a document."""
        return self.decisions.repeats(self.first + row)
