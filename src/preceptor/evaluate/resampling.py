"""The bootstrap of scores that are functions of sums, all resamples at once."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preceptor.evaluate.metrics import BOOTSTRAP_SAMPLES, Score, interval

_NUMBERS_AT_ONCE = 1 << 20
"""Memory is bounded by this many counts, however many items there are (but one resample is always whole)."""


def resampled_counts(count: int, seed: int, samples: int = BOOTSTRAP_SAMPLES) -> Iterator[NDArray[np.float64]]:
    """How often each of ``count`` items is in each resample, in blocks of shape resamples x items.

    Raises:
        ValueError: there is no item.
    """
    if count < 1:
        raise ValueError("an interval needs at least one item")
    generator = np.random.default_rng(seed)
    most = max(1, _NUMBERS_AT_ONCE // count)
    for first in range(0, samples, most):
        rows = min(most, samples - first)
        drawn = generator.integers(0, count, (rows, count)) + np.arange(0, rows * count, count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def resampled_sums(features: ArrayLike, seed: int) -> NDArray[np.float64]:
    """The sums over each resample of what is given for each item: items x features to resamples x features."""
    array = np.asarray(features, np.float64)
    return np.concatenate([counts @ array for counts in resampled_counts(len(array), seed)])


def resampled_cells(cells: ArrayLike, seed: int) -> NDArray[np.float64]:
    """Tables of counts, as resampling the items that are counted gives them; the resamples are the first axis.

    Items of one cell are alike, so that how many of each cell are drawn is multinomial: the same draws, far fewer.
    """
    table = np.asarray(cells, np.float64)
    total = int(table.sum())
    if total < 1:
        raise ValueError("an interval needs at least one item")
    filled = np.flatnonzero(table)
    drawn = np.zeros((BOOTSTRAP_SAMPLES, table.size))
    generator = np.random.default_rng(seed)
    drawn[:, filled] = generator.multinomial(total, table.ravel()[filled] / total, BOOTSTRAP_SAMPLES)
    return drawn.reshape(BOOTSTRAP_SAMPLES, *table.shape)


def score_with(value: float, resampled: ArrayLike, unit: str, count: int, *, higher_is_better: bool = True) -> Score:
    """A value with the interval of its resamples."""
    low, high = interval(resampled)
    return Score(float(value), unit, higher_is_better, low, high, count)


def divided(top: ArrayLike, bottom: ArrayLike, otherwise: float = 0.0) -> NDArray[np.float64]:
    """Quotients, and another value where there is nothing to divide by."""
    above, below = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    quotients: NDArray[np.float64] = np.divide(above, below, out=np.full(above.shape, otherwise), where=below != 0)
    return quotients


def precision_recall_f1(
    hits: ArrayLike, said: ArrayLike, wanted: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of counts: right ones, all that were said, and all that should be; 0 where undefined."""
    right, given, due = (np.asarray(each, np.float64) for each in (hits, said, wanted))
    return divided(right, given), divided(right, due), divided(2 * right, given + due)
