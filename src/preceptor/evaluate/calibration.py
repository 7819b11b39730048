"""Whether a classifier is right as often as it thinks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from preceptor.evaluate.metrics import Score
from preceptor.evaluate.resampling import resampled_sums, score_with

NUM_BINS = 15


@dataclass(frozen=True, slots=True)
class Calibration:
    """The expected calibration error, and the bins of confidence that it sums over."""

    error: Score
    confidence: tuple[float, ...]
    """The mean probability of what was said, for each bin that holds a text, in order."""
    accuracy: tuple[float, ...]
    """The share of it that was right."""
    counts: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """The error and the bins as JSON."""
        return {
            "error": self.error.facts(),
            "confidence": list(self.confidence),
            "accuracy": list(self.accuracy),
            "counts": list(self.counts),
        }


def calibration(
    references: Sequence[str], labels: Sequence[str], probabilities: ArrayLike, seed: int = 0
) -> Calibration | None:
    """How far confidence and accuracy are apart on average, in bins of equal width; None where nothing was answered.

    Probabilities are of shape texts x labels; a row that is not finite is a text of which nothing was said, and counts
    for nothing here.

    Source: Guo et al. 2017, eq. 5, with their 15 bins.
    """
    array_NK = np.asarray(probabilities, np.float64)
    if array_NK.shape != (len(references), len(labels)):
        raise ValueError(f"probabilities must be of shape {len(references)} x {len(labels)}, got {array_NK.shape}")
    answered = np.asarray(np.isfinite(array_NK).all(axis=1))
    if not answered.any():
        return None
    best_N = array_NK[answered].argmax(axis=1)
    confidence_N = array_NK[answered].max(axis=1)
    wanted = [reference for reference, is_answered in zip(references, answered.tolist(), strict=True) if is_answered]
    correct_N = np.array([labels[best] == each for best, each in zip(best_N, wanted, strict=True)], np.float64)
    # A bin holds its upper edge.
    bins_N = np.clip(np.ceil(confidence_N * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    is_in_NB = np.eye(NUM_BINS)[bins_N]
    count = len(wanted)
    apart_NB = is_in_NB * (correct_N - confidence_N)[:, None]
    error = float(np.abs(apart_NB.sum(axis=0)).sum() / count)
    resampled = np.abs(resampled_sums(apart_NB, seed)).sum(axis=1) / count
    counts_B = is_in_NB.sum(axis=0)
    filled = np.flatnonzero(counts_B)
    return Calibration(
        score_with(error, resampled, "share of 1", count, higher_is_better=False),
        tuple((confidence_N @ is_in_NB)[filled] / counts_B[filled]),
        tuple((correct_N @ is_in_NB)[filled] / counts_B[filled]),
        tuple(map(int, counts_B[filled])),
    )
