"""How near numbers are to those that should be said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preceptor.evaluate.judged import Judged, beside, judged_facts
from preceptor.evaluate.metrics import Score
from preceptor.evaluate.resampling import divided, resampled_counts, score_with

_MEASURES = {
    "mean squared error": ("squared units of the number", False),
    "mean absolute error": ("units of the number", False),
    "R2": ("share of the variance", True),
    "Pearson correlation": ("correlation", True),
    "Spearman correlation": ("correlation", True),
}


@dataclass(frozen=True, slots=True)
class RegressionScores:
    """All scores of one number on one set of texts."""

    judged: tuple[Judged, ...]
    unanswered: int
    """Texts of which the model says nothing, such as those too long for it; the mean is said in its place."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        return {"scores": judged_facts(self.judged), "unanswered": self.unanswered}


def regression_scores(
    references: ArrayLike,
    predicted: ArrayLike,
    seed: int = 0,
    *,
    mean: float | None = None,
    baselines: Mapping[str, ArrayLike] | None = None,
) -> RegressionScores:
    """The scores of one number a text; what is not finite is a text that the model says nothing of.

    ``mean`` is that of the numbers in training, which is the baseline and stands in for what is not said; that of the
    references where it is left out. Correlations with what is constant are undefined and count as 0.

    Raises:
        ValueError: there are fewer than two numbers, not one answer for each, or a reference is not finite.
    """
    wanted_N, said_N = np.asarray(references, np.float64), np.asarray(predicted, np.float64)
    if wanted_N.ndim != 1 or wanted_N.shape != said_N.shape or len(wanted_N) < 2 or not np.isfinite(wanted_N).all():
        raise ValueError("give at least two finite references, and as many answers")
    usual = float(wanted_N.mean()) if mean is None else mean
    answered_N = np.isfinite(said_N)
    said_N = np.where(answered_N, said_N, usual)
    if baselines is None:
        baselines = {f"always saying the mean ({usual:.4g})": np.full_like(wanted_N, usual)}
    scores = _scores(wanted_N, said_N, seed)
    others = {name: _scores(wanted_N, np.asarray(each, np.float64), seed) for name, each in baselines.items()}
    return RegressionScores(beside(scores, others), int((~answered_N).sum()))


def _scores(wanted_N: NDArray[np.float64], said_N: NDArray[np.float64], seed: int) -> dict[str, Score]:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    varies = np.ptp(wanted_N) > 0 and np.ptp(said_N) > 0
    values = (
        mean_squared_error(wanted_N, said_N),
        mean_absolute_error(wanted_N, said_N),
        r2_score(wanted_N, said_N),
        pearsonr(wanted_N, said_N).statistic if varies else 0.0,
        spearmanr(wanted_N, said_N).statistic if varies else 0.0,
    )
    resampled = _resampled(wanted_N, said_N, seed)
    return {
        name: score_with(float(value), drawn_S, unit, len(wanted_N), higher_is_better=higher)
        for (name, (unit, higher)), value, drawn_S in zip(_MEASURES.items(), values, resampled, strict=True)
    }


def _resampled(wanted_N: NDArray[np.float64], said_N: NDArray[np.float64], seed: int) -> list[NDArray[np.float64]]:
    """Each measure on every resample, in order."""
    errors_N = said_N - wanted_N
    # Differences from the mean lose no digits where numbers are large and close together.
    wanted_N, said_N = wanted_N - wanted_N.mean(), said_N - said_N.mean()
    blocks: list[tuple[NDArray[np.float64], ...]] = []
    for counts_SN in resampled_counts(len(wanted_N), seed):
        size = float(len(wanted_N))
        squares_S = counts_SN @ errors_N**2
        spread_S, said_spread_S = (_spread(counts_SN, each) for each in (wanted_N, said_N))
        together_S = counts_SN @ (wanted_N * said_N) - (counts_SN @ wanted_N) * (counts_SN @ said_N) / size
        explained_S = 1 - divided(squares_S, spread_S)
        # As scikit-learn has it, a constant is explained wholly or not at all.
        explained_S[spread_S == 0] = np.where(squares_S[spread_S == 0] == 0, 1.0, 0.0)
        blocks.append(
            (
                squares_S / size,
                counts_SN @ np.abs(errors_N) / size,
                explained_S,
                divided(together_S, np.sqrt(spread_S * said_spread_S)),
                _rank_correlations(counts_SN, wanted_N, said_N),
            )
        )
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _spread(counts_SN: NDArray[np.float64], values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The summed squares of what values differ from their mean by, on each resample; 0 but for rounding is 0."""
    squares_S = counts_SN @ values_N**2
    spread_S = squares_S - (counts_SN @ values_N) ** 2 / len(values_N)
    return np.where(spread_S > 1e-12 * squares_S, spread_S, 0.0)


def _rank_correlations(
    counts_SN: NDArray[np.float64], first_N: NDArray[np.float64], second_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's correlation on each resample; 0 where a side is constant."""
    # The mean of ranks is known, and halves of whole numbers are exact, so that a constant has a spread of 0.
    middle = (len(first_N) + 1) / 2
    one_SN, other_SN = (_ranks(counts_SN, values_N) - middle for values_N in (first_N, second_N))
    weighted_SN = counts_SN * one_SN
    spread_S = (weighted_SN * one_SN).sum(axis=1) * (counts_SN * other_SN * other_SN).sum(axis=1)
    return divided((weighted_SN * other_SN).sum(axis=1), np.sqrt(spread_S))


def _ranks(counts_SN: NDArray[np.float64], values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each value within each resample, of shape S N; equal values share the mean of their ranks."""
    _, group_N = np.unique(values_N, return_inverse=True)
    order_N = np.argsort(group_N, kind="stable")
    begins_G = np.flatnonzero(np.diff(group_N[order_N], prepend=-1))
    sizes_SG = np.add.reduceat(counts_SN[:, order_N], begins_G, axis=1)
    ranks_SG = np.cumsum(sizes_SG, axis=1) - sizes_SG + (sizes_SG + 1) / 2
    ranks_SN: NDArray[np.float64] = ranks_SG[:, group_N]
    return ranks_SN


def number_scores(
    references: ArrayLike, predicted: ArrayLike, names: Sequence[str], seed: int = 0, means: Sequence[float] = ()
) -> dict[str, RegressionScores]:
    """The scores of each number by name, from texts x numbers."""
    wanted_NC, said_NC = np.asarray(references, np.float64), np.asarray(predicted, np.float64)
    return {
        name: regression_scores(wanted_NC[:, column], said_NC[:, column], seed, mean=means[column] if means else None)
        for column, name in enumerate(names)
    }
