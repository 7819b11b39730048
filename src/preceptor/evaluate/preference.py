"""Whether a model prefers what people prefer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from preceptor.evaluate.judged import Judged, judged_facts
from preceptor.evaluate.metrics import Score, mean_score, share_score


@dataclass(frozen=True, slots=True)
class PreferenceScores:
    """How often the better of two answers is scored higher, and by how much."""

    judged: tuple[Judged, ...]
    ties: int
    """Pairs whose answers are scored alike; these count as wrong."""
    unanswered: int
    """Pairs that could not be scored; these count as wrong too."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        return {"scores": judged_facts(self.judged), "ties": self.ties, "unanswered": self.unanswered}


def preference_scores(chosen: ArrayLike, rejected: ArrayLike, seed: int = 0) -> PreferenceScores:
    """The scores of pairs of answers from what a model gives each; what is not finite was not scored.

    Raises:
        ValueError: there is no pair, or a side lacks one.
    """
    better_N, worse_N = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    if better_N.ndim != 1 or better_N.shape != worse_N.shape or not better_N.size:
        raise ValueError("give as many scores of chosen answers as of rejected ones, at least one")
    answered_N = np.isfinite(better_N) & np.isfinite(worse_N)
    right_N = answered_N & (better_N > worse_N)
    coin = Score(0.5, "share of pairs", True, 0.5, 0.5, int(better_N.size))
    accuracy = share_score(right_N, "share of pairs", higher_is_better=True)
    judged = [Judged("preference accuracy", accuracy, {"tossing a coin": coin})]
    if answered_N.any():
        margins = (better_N - worse_N)[answered_N]
        nothing = Score(0.0, "score", True, 0.0, 0.0, len(margins))
        margin = mean_score(margins, "score", higher_is_better=True, seed=seed)
        judged.append(Judged("mean margin", margin, {"no preference": nothing}))
    ties = int((answered_N & (better_N == worse_N)).sum())
    return PreferenceScores(tuple(judged), ties, int((~answered_N).sum()))
