"""Scores with what could be had for nothing beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from preceptor.evaluate.metrics import Score


@dataclass(frozen=True, slots=True)
class Judged:
    """A score and, by name, those of answers that need no model, on the same examples."""

    name: str
    score: Score
    baselines: Mapping[str, Score] = field(default_factory=dict)

    @property
    def best_baseline(self) -> tuple[str, Score] | None:
        """The hardest to beat of the baselines, and its name; the first of several; None where there is none."""
        sign = 1.0 if self.score.higher_is_better else -1.0
        return max(self.baselines.items(), key=lambda each: sign * each[1].value, default=None)

    @property
    def is_better(self) -> bool:
        """Whether the score is better than every baseline, and its interval clear of that of the best of them.

        Two intervals that touch may still belong to different values: the rule errs on the side of doubt.
        """
        best = self.best_baseline
        if best is None:
            return False
        return _clear(self.score, best[1])

    @property
    def is_worse(self) -> bool:
        """Whether the best baseline is better, and its interval clear of that of the score."""
        best = self.best_baseline
        return best is not None and _clear(best[1], self.score)

    def facts(self) -> dict[str, Any]:
        """The score and its baselines as JSON."""
        return {
            "name": self.name,
            **self.score.facts(),
            "baselines": {name: score.facts() for name, score in self.baselines.items()},
            "is_better": self.is_better,
        }


def _clear(better: Score, worse: Score) -> bool:
    """Whether the whole interval of one score is on the better side of the other's."""
    return better.low > worse.high if better.higher_is_better else better.high < worse.low


def beside(scores: Mapping[str, Score], others: Mapping[str, Mapping[str, Score]]) -> tuple[Judged, ...]:
    """Each measure with those of the baselines, which are given by their names."""
    return tuple(
        Judged(measure, score, {name: each[measure] for name, each in others.items()})
        for measure, score in scores.items()
    )


def judged_facts(judged: tuple[Judged, ...]) -> dict[str, Any]:
    """Scores by name as JSON."""
    return {each.name: {key: value for key, value in each.facts().items() if key != "name"} for each in judged}
