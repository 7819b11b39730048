"""How well classes are told: one a text, or any number of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preceptor.evaluate.calibration import Calibration, calibration
from preceptor.evaluate.judged import Judged, beside, judged_facts
from preceptor.evaluate.metrics import Score, share_score
from preceptor.evaluate.resampling import (
    divided,
    precision_recall_f1,
    resampled_cells,
    resampled_sums,
    score_with,
)

NO_ANSWER = "(no answer)"
_UNIT = "share of 1"
_AVERAGES = ("micro", "macro")
_PARTS = ("precision", "recall", "F1")


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How well one class is told."""

    precision: Score
    recall: Score
    f1: Score
    support: int
    """How many texts are of it."""
    predicted: int
    """How many texts are said to be of it."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        scores = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        told = {name: score.facts() for name, score in scores.items()}
        return told | {"support": self.support, "predicted": self.predicted}


@dataclass(frozen=True, slots=True)
class ClassificationScores:
    """All scores of a classifier on one set of texts."""

    judged: tuple[Judged, ...]
    per_class: Mapping[str, ClassScores]
    names: tuple[str, ...] = ()
    """What the rows and columns of the confusion matrix are; empty where a text may have several classes."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """How many texts of each class (a row) were said to be of each (a column)."""
    unseen: Mapping[str, int] | None = None
    """Classes that the model cannot say, and how many texts are of them; all of these count as wrong."""
    unanswered: int = 0
    """Texts of which the model says nothing, such as those too long for it; all count as wrong."""
    calibration: Calibration | None = None

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        told: dict[str, Any] = {
            "scores": judged_facts(self.judged),
            "per_class": {name: scores.facts() for name, scores in self.per_class.items()},
            "unseen": dict(self.unseen or {}),
            "unanswered": self.unanswered,
        }
        if self.names:
            told["confusion"] = {"names": list(self.names), "counts": [list(row) for row in self.confusion]}
        return told | ({"calibration": self.calibration.facts()} if self.calibration else {})


def classification_scores(
    references: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    seed: int = 0,
    *,
    baselines: Mapping[str, Sequence[str | None]] | None = None,
    probabilities: ArrayLike | None = None,
) -> ClassificationScores:
    """The scores of one class a text; ``labels`` are those that the model can say, None is a text it says nothing of.

    ``baselines`` are other answers, by name; left out, the commonest class of the references for each. Probabilities,
    of shape texts x labels, give the calibration. Averages over classes are over those that occur on either side.

    Raises:
        ValueError: there is no text, or not one answer for each.
    """
    _check(references, predicted)
    unseen = Counter(label for label in references if label not in set(labels))
    names = (*labels, *sorted(unseen))
    if baselines is None:
        commonest = _commonest(references)
        baselines = {f"always saying {commonest!r}": [commonest] * len(references)}
    cells = _confusion(references, predicted, names)
    scores = _scores(references, predicted, names, seed)
    others = {name: _scores(references, said, names, seed) for name, said in baselines.items()}
    judged = beside(scores, others)
    unanswered = int(cells[:, -1].sum())
    shown = len(names) + (unanswered > 0)
    return ClassificationScores(
        judged,
        _per_class(references, predicted, names, seed),
        names=(*names, NO_ANSWER)[:shown],
        confusion=tuple(tuple(map(int, row[:shown])) for row in cells[:shown]),
        unseen=dict(sorted(unseen.items())),
        unanswered=unanswered,
        calibration=None if probabilities is None else calibration(references, labels, probabilities, seed),
    )


def _check(references: Sequence[object], predicted: Sequence[object]) -> None:
    if not references or len(references) != len(predicted):
        raise ValueError(f"{len(references)} references and {len(predicted)} answers: give as many, at least one")


def _commonest(said: Sequence[str]) -> str:
    """The commonest of them, the first by name among equals."""
    return min(Counter(said).items(), key=lambda each: (-each[1], each[0]))[0]


def _numbers(said: Sequence[str | None], names: Sequence[str]) -> list[int]:
    """The numbers of classes; what is no class, or no answer, is behind them."""
    place = {name: number for number, name in enumerate(names)}
    return [len(names) if each is None else place.get(each, len(names)) for each in said]


def _confusion(references: Sequence[str], predicted: Sequence[str | None], names: Sequence[str]) -> NDArray[np.int64]:
    """Counts of references x answers, with no answer behind the classes."""
    from sklearn.metrics import confusion_matrix

    numbers = list(range(len(names) + 1))
    cells: NDArray[np.int64] = confusion_matrix(_numbers(references, names), _numbers(predicted, names), labels=numbers)
    return cells


def _scores(
    references: Sequence[str], predicted: Sequence[str | None], names: Sequence[str], seed: int
) -> dict[str, Score]:
    """Every measure of all classes together, with the interval."""
    from sklearn.metrics import matthews_corrcoef, precision_recall_fscore_support

    wanted, said = _numbers(references, names), _numbers(predicted, names)
    count = len(wanted)
    occurring = sorted({*wanted, *said} - {len(names)})
    resampled = _measures(resampled_cells(_confusion(references, predicted, names), seed))
    correct = [one == other for one, other in zip(wanted, said, strict=True)]
    scores = {"accuracy": share_score(correct, _UNIT, higher_is_better=True)}
    for average in _AVERAGES:
        *values, _ = precision_recall_fscore_support(wanted, said, labels=occurring, average=average, zero_division=0)
        for part, value in zip(_PARTS, values, strict=True):
            scores[f"{average} {part}"] = score_with(value, resampled[f"{average} {part}"], _UNIT, count)
    # Where all is of one class it is undefined, counts as 0, and would be warned of.
    matthews = float(matthews_corrcoef(wanted, said)) if len({*wanted, *said}) > 1 else 0.0
    scores["Matthews correlation"] = score_with(matthews, resampled["Matthews correlation"], "correlation", count)
    return scores


def _measures(cells_SKK: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The same measures of many confusion matrices, whose last row and column are no answer."""
    hits_SK = np.diagonal(cells_SKK, axis1=1, axis2=2)
    wanted_SK, said_SK = cells_SKK.sum(axis=2), cells_SKK.sum(axis=1)
    real = slice(0, cells_SKK.shape[1] - 1)
    found: dict[str, NDArray[np.float64]] = {}
    parts = hits_SK[:, real], said_SK[:, real], wanted_SK[:, real]
    micro = precision_recall_f1(*(part.sum(axis=1) for part in parts))
    occurs_SK = (parts[1] + parts[2]) > 0
    macro = [divided(each_SK.sum(axis=1), occurs_SK.sum(axis=1)) for each_SK in precision_recall_f1(*parts)]
    for average, values in zip(_AVERAGES, (micro, macro), strict=True):
        found |= {f"{average} {part}": value for part, value in zip(_PARTS, values, strict=True)}
    total_S = cells_SKK.sum(axis=(1, 2))
    together_S = hits_SK.sum(axis=1) * total_S - (wanted_SK * said_SK).sum(axis=1)
    spread_S = (total_S**2 - (wanted_SK**2).sum(axis=1)) * (total_S**2 - (said_SK**2).sum(axis=1))
    return found | {"Matthews correlation": divided(together_S, np.sqrt(spread_S))}


def _per_class(
    references: Sequence[str], predicted: Sequence[str | None], names: Sequence[str], seed: int
) -> dict[str, ClassScores]:
    cells = _confusion(references, predicted, names)
    drawn_SKK = resampled_cells(cells, seed)
    return _class_scores(
        names,
        (np.diagonal(cells), cells.sum(axis=0), cells.sum(axis=1)),
        (np.diagonal(drawn_SKK, axis1=1, axis2=2), drawn_SKK.sum(axis=1), drawn_SKK.sum(axis=2)),
        len(references),
    )


def _class_scores(
    names: Sequence[str], counts: Sequence[NDArray[Any]], drawn: Sequence[NDArray[np.float64]], count: int
) -> dict[str, ClassScores]:
    """The scores of each class from right, said and wanted ones: counts of shape K, resamples of shape S K."""
    values, resampled = precision_recall_f1(*counts), precision_recall_f1(*drawn)
    found = {}
    for number, name in enumerate(names):
        precision, recall, f1 = (
            score_with(value_K[number], drawn_SK[:, number], _UNIT, count)
            for value_K, drawn_SK in zip(values, resampled, strict=True)
        )
        support, predicted = int(counts[2][number]), int(counts[1][number])
        found[name] = ClassScores(precision, recall, f1, support, predicted)
    return found


def label_set_scores(
    references: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    labels: Sequence[str],
    seed: int = 0,
    *,
    baselines: Mapping[str, Sequence[Sequence[str] | None]] | None = None,
) -> ClassificationScores:
    """The scores where a text may have several classes, or none; None is a text that the model says nothing of.

    ``baselines`` left out are the commonest set of classes of the references for each text, and all classes for each.

    Raises:
        ValueError: there is no text, or not one answer for each.
    """
    _check(references, predicted)
    known = set(labels)
    unseen = Counter(label for each in references for label in each if label not in known)
    names = (*labels, *sorted(unseen))
    if baselines is None:
        commonest = min(Counter(tuple(sorted(each)) for each in references).items(), key=lambda e: (-e[1], e[0]))[0]
        always = " and ".join(map(repr, commonest)) or "no class"
        baselines = {
            f"always saying {always}": [commonest] * len(references),
            "always saying every class": [tuple(labels)] * len(references),
        }
    scores, counts_N3K = _set_scores(references, predicted, names, seed)
    others = {name: _set_scores(references, said, names, seed)[0] for name, said in baselines.items()}
    judged = beside(scores, others)
    drawn_S3K = resampled_sums(counts_N3K.reshape(len(references), -1), seed).reshape(-1, 3, len(names))
    return ClassificationScores(
        judged,
        _class_scores(names, tuple(counts_N3K.sum(axis=0)), tuple(np.moveaxis(drawn_S3K, 1, 0)), len(references)),
        unseen=dict(sorted(unseen.items())),
        unanswered=sum(1 for each in predicted if each is None),
    )


def _members(said: Sequence[Sequence[str] | None], names: Sequence[str]) -> NDArray[np.int64]:
    """Texts x classes, 1 where a text has the class."""
    place = {name: number for number, name in enumerate(names)}
    members_NK = np.zeros((len(said), len(names)), np.int64)
    for row, each in enumerate(said):
        members_NK[row, [place[label] for label in each or () if label in place]] = 1
    return members_NK


def _set_scores(
    references: Sequence[Sequence[str]], predicted: Sequence[Sequence[str] | None], names: Sequence[str], seed: int
) -> tuple[dict[str, Score], NDArray[np.int64]]:
    """Every measure, and for each text and class whether it is right, said, wanted, of shape N 3 K."""
    from sklearn.metrics import precision_recall_fscore_support

    wanted_NK, said_NK = _members(references, names), _members(predicted, names)
    count = len(references)
    is_answered_N = np.array([each is not None for each in predicted])
    counts_N3K = np.stack((wanted_NK * said_NK, said_NK, wanted_NK), axis=1)
    drawn_S3K = resampled_sums(counts_N3K.reshape(count, -1), seed).reshape(-1, 3, len(names))
    drawn = {"micro": precision_recall_f1(*np.moveaxis(drawn_S3K.sum(axis=2), 1, 0))}
    occurs_SK = drawn_S3K[:, 1:].sum(axis=1) > 0
    each_class = precision_recall_f1(*np.moveaxis(drawn_S3K, 1, 0))
    macro = [divided(values_SK.sum(axis=1), occurs_SK.sum(axis=1)) for values_SK in each_class]
    drawn["macro"] = (macro[0], macro[1], macro[2])
    exact_N = (wanted_NK == said_NK).all(axis=1) & is_answered_N
    wrong_N = np.where(is_answered_N, (wanted_NK != said_NK).mean(axis=1), 1.0)
    scores = {
        "all classes right": share_score(exact_N, "share of texts", higher_is_better=True),
        "Hamming loss": score_with(
            wrong_N.mean(), resampled_sums(wrong_N, seed) / count, _UNIT, count, higher_is_better=False
        ),
    }
    occurring = np.flatnonzero((wanted_NK + said_NK).any(axis=0))
    for average in _AVERAGES:
        values: Sequence[float] = (0.0, 0.0, 0.0)
        if len(occurring):
            wanted, said = wanted_NK[:, occurring], said_NK[:, occurring]
            # A single column would be read as two classes, so that averages are taken over named columns.
            columns = list(range(len(occurring)))
            if len(occurring) == 1:
                *values, _ = precision_recall_fscore_support(
                    wanted[:, 0], said[:, 0], labels=[1], average=average, zero_division=0
                )
            else:
                *values, _ = precision_recall_fscore_support(
                    wanted, said, labels=columns, average=average, zero_division=0
                )
        for part, value, resampled_S in zip(_PARTS, values, drawn[average], strict=True):
            scores[f"{average} {part}"] = score_with(value, resampled_S, _UNIT, count)
    return scores, counts_N3K
