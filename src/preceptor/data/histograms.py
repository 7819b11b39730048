"""Histograms whose bins depend on no data, so that those of any two parts of a corpus can be added."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["linear", "log"]

LINEAR_BINS = 50
"""Bins between 0 and 1 on the linear scale, which goes on with the same width outside."""
_OCTAVE_BINS = 8
_EXPONENT_OFFSET = 1100


def scale_of(measure: str) -> Scale:
    """The scale that shows a measure best: linear for shares and scores, which are at most 1, else logarithmic."""
    is_share = measure.endswith(("fraction", "_score", "repetition", "_share", "gibberish"))
    return "linear" if is_share else "log"


def bins_of(values: NDArray[np.float64], scale: Scale) -> NDArray[np.int64]:
    """The number of each value's bin; numbers grow with the values.

    The bins of the logarithmic scale part every power of two into eight of equal width, as HdrHistogram does, and
    mirror that below zero: taking a float apart is exact, where a logarithm differs between machines.
    """
    if scale == "linear":
        return np.floor(np.clip(values * LINEAR_BINS, -1e15, 1e15)).astype(np.int64)
    mantissa, exponent = np.frexp(np.abs(values))
    part = np.floor((mantissa - 0.5) * (2 * _OCTAVE_BINS)).astype(np.int64)
    place = (exponent.astype(np.int64) + _EXPONENT_OFFSET) * _OCTAVE_BINS + part + 1
    signed: NDArray[np.int64] = np.where(values == 0, 0, np.where(values < 0, -place, place))
    return signed


def edges_of(bin: int, scale: Scale) -> tuple[float, float]:
    """The least value of a bin and that of the next one; both 0 for the bin that holds only zeros."""
    if scale == "linear":
        return bin / LINEAR_BINS, (bin + 1) / LINEAR_BINS
    if bin == 0:
        return 0.0, 0.0
    exponent, part = divmod(abs(bin) - 1, _OCTAVE_BINS)
    low = math.ldexp(0.5 + part / (2 * _OCTAVE_BINS), exponent - _EXPONENT_OFFSET)
    wide = math.ldexp(1 / (2 * _OCTAVE_BINS), exponent - _EXPONENT_OFFSET)
    return (low, low + wide) if bin > 0 else (-low - wide, -low)


@dataclass(slots=True)
class Histogram:
    """How often a measure had which value: counts by bin, the extremes, and how often it was not defined."""

    scale: Scale
    counts: Counter[int] = field(default_factory=Counter)
    undefined: int = 0
    """Values that are no finite number."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: Iterable[float]) -> None:
        """Count values."""
        array = np.asarray(values if isinstance(values, list | np.ndarray) else list(values), dtype=np.float64)
        finite = array[np.isfinite(array)]
        self.undefined += len(array) - len(finite)
        if len(finite) == 0:
            return
        numbers, counts = np.unique(bins_of(finite, self.scale), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self.counts[number] += count
        # Adding zero turns minus zero into zero, which would be written differently.
        self.low = min(self.low, float(finite.min()) + 0.0)
        self.high = max(self.high, float(finite.max()) + 0.0)

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram of the same measure.

        Raises:
            ValueError: the other one has another scale.
        """
        if other.scale != self.scale:
            raise ValueError(f"a {other.scale} histogram cannot be added to a {self.scale} one")
        self.counts.update(other.counts)
        self.undefined += other.undefined
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def total(self) -> int:
        """The number of finite values."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """About the value below which a share of the values lies, to the width of a bin; None without values."""
        if not self.counts:
            return None
        wanted, seen = share * self.total, 0
        for bin, count in sorted(self.counts.items()):
            if seen + count >= wanted:
                low, high = edges_of(bin, self.scale)
                value = low + (high - low) * (max(0.0, wanted - seen) / count)
                return min(max(value, self.low), self.high)
            seen += count
        return self.high

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold."""
        return {
            "scale": self.scale,
            "counts": {str(bin): count for bin, count in sorted(self.counts.items())},
            "undefined": self.undefined,
            "low": self.low if self.counts else None,
            "high": self.high if self.counts else None,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Histogram":
        """The histogram that ``to_json`` wrote."""
        return cls(
            table["scale"],
            Counter({int(bin): count for bin, count in table["counts"].items()}),
            table["undefined"],
            math.inf if table["low"] is None else table["low"],
            -math.inf if table["high"] is None else table["high"],
        )
