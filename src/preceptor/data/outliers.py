"""Documents that lie far from all others: limits that the corpus sets itself, so that nobody has to guess one."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray

from preceptor.core.seeds import derive
from preceptor.data.document import KEEP, Drop, Verdict
from preceptor.data.filters import LOG_MEASURES, MEASURES

SAMPLE_SIZE = 10_000
_MIN_SAMPLE = 100
# The standard deviation of a normal distribution in units of its median absolute deviation.
_SIGMAS_PER_MAD = 1.4826
# The same for the mean absolute deviation, which is used where more than half of all values are equal.
_SIGMAS_PER_MEAN_DEVIATION = 1.2533


@dataclass(frozen=True, kw_only=True, slots=True)
class OutlierConfig:
    """What lies too far from the rest of the corpus."""

    max_robust_z: float = 0.0
    """So many robust standard deviations from the median; 0: no document is an outlier. For a start: 6.
    Source: Iglewicz and Hoaglin 1993, modified z-score (median and median absolute deviation)."""
    measures: tuple[str, ...] = (
        *("characters", "mean_word_characters", "letter_fraction", "symbol_fraction", "digit_fraction"),
        "compression_ratio",
    )
    """The measures that are looked at."""

    def __post_init__(self) -> None:
        """Refuse limits below zero and measures that nobody takes."""
        if not self.max_robust_z >= 0:
            raise ValueError(f"max_robust_z must be at least 0, got {self.max_robust_z}")
        if unknown := [name for name in self.measures if name not in MEASURES]:
            raise ValueError(f"measures must be among {', '.join(MEASURES)}, got {unknown[0]!r}")


def sample_key(id: str) -> int:
    """The number by which a document is drawn into the sample: the same in whatever order and part it comes."""
    return derive(0, "outlier-sample", id)


class Sample:
    """The measures of at most so many documents, drawn evenly from all: those with the smallest keys.

    Samples of parts merge to the very sample of the whole.
    """

    def __init__(self) -> None:
        # A heap of the negative keys, so that the largest key is the first to leave.
        self._rows: list[tuple[int, tuple[float, ...]]] = []

    def add(self, id: str, measures: Mapping[str, float]) -> None:
        """Offer a document."""
        self._offer(-sample_key(id), tuple(float(measures[name]) for name in MEASURES))

    def _offer(self, key: int, row: tuple[float, ...]) -> None:
        if len(self._rows) < SAMPLE_SIZE:
            heapq.heappush(self._rows, (key, row))
        elif key > self._rows[0][0]:
            heapq.heapreplace(self._rows, (key, row))

    def merge(self, other: "Sample") -> None:
        """Offer every document of another sample."""
        for key, row in other._rows:
            self._offer(key, row)

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> NDArray[np.float64]:
        """The values of a measure that are numbers, in no order that means anything."""
        place = MEASURES.index(name)
        values = np.array([row[place] for _, row in sorted(self._rows)], np.float64)
        return values[np.isfinite(values)]

    def save(self, path: Path) -> None:
        """Write the sample to a file."""
        rows = sorted(self._rows)
        keys = np.array([-key for key, _ in rows], np.uint64)
        values = np.array([row for _, row in rows], np.float64).reshape(len(rows), len(MEASURES))
        with path.open("wb") as file:
            np.savez(file, keys=keys, values=values)

    @classmethod
    def load(cls, path: Path) -> "Sample":
        """The sample of a file."""
        sample = cls()
        with np.load(path, allow_pickle=False) as held:
            rows = zip(held["keys"].tolist(), held["values"].tolist(), strict=True)
            sample._rows = [(-key, tuple(row)) for key, row in rows]
        heapq.heapify(sample._rows)
        return sample


def limits(sample: Sample, config: OutlierConfig) -> dict[str, tuple[float, float]]:
    """For each measure the least and the greatest value that is no outlier; none where the sample says too little.

    Lengths are looked at on a logarithmic scale, on which they are spread evenly. Where more than half of the values
    are equal, the mean deviation stands in for the median one; where all are, nothing is an outlier.
    """
    if not config.max_robust_z or len(sample) < _MIN_SAMPLE:
        return {}
    found = {}
    for name in config.measures:
        values = sample.column(name)
        if len(values) < _MIN_SAMPLE:
            continue
        is_log = name in LOG_MEASURES
        scaled = np.log1p(values) if is_log else values
        middle = float(np.median(scaled))
        distances = np.abs(scaled - middle)
        sigma = _SIGMAS_PER_MAD * float(np.median(distances))
        if not sigma:
            sigma = _SIGMAS_PER_MEAN_DEVIATION * float(np.mean(distances))
        if sigma:
            edges = (middle - config.max_robust_z * sigma, middle + config.max_robust_z * sigma)
            found[name] = (float(np.expm1(edges[0])), float(np.expm1(edges[1]))) if is_log else edges
    return found


def admits(limits: Mapping[str, tuple[float, float]], batch: pyarrow.RecordBatch) -> NDArray[np.bool_]:
    """Which documents of a batch, which has a column for each measure, are no outliers."""
    inside = np.ones(batch.num_rows, np.bool_)
    for name, (least, most) in limits.items():
        values = batch.column(f"measure_{name}").to_numpy(zero_copy_only=False)
        inside &= ~((values < least) | (values > most))
    return inside


def judge(measures: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> Verdict:
    """Drop what lies outside the limits of a measure, under the name of the measure."""
    for name, (least, most) in limits.items():
        value = measures[name]
        if value < least or value > most:
            return Drop(f"outlier:{name}", value, least if value < least else most)
    return KEEP
