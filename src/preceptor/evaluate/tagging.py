"""How well words are tagged: names and other entities as wholes, and each word by itself."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.evaluate.judged import Judged, beside, judged_facts
from preceptor.evaluate.metrics import Score, ratio_score
from preceptor.evaluate.resampling import precision_recall_f1, resampled_sums, score_with

Tags = Sequence[str]
Chunks = set[tuple[str, int, int]]
_OUTSIDE = "O"
_MARKS = ("B-", "I-", "E-", "S-")
_PARTS = ("precision", "recall", "F1")
_UNIT = "share of 1"


@dataclass(frozen=True, slots=True)
class TaggingScores:
    """All scores of a tagger on one set of texts."""

    judged: tuple[Judged, ...]
    by_type: Mapping[str, Score]
    """F1 of each type of entity; of each tag where tags name no entities."""
    support: Mapping[str, int]
    """How many entities of each type (words of each tag) there are."""
    unanswered: int = 0
    """Texts of which the model says nothing, such as those too long for it; all their words count as wrong."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        return {
            "scores": judged_facts(self.judged),
            "by_type": {name: score.facts() | {"support": self.support[name]} for name, score in self.by_type.items()},
            "unanswered": self.unanswered,
        }


def is_iob(tags: Sequence[Tags]) -> bool:
    """Whether tags mark entities: B- and I-, beside O; with E- for their ends and S- for single words too (IOBES)."""
    said = {tag for each in tags for tag in each}
    return all(tag == _OUTSIDE or tag.startswith(_MARKS) for tag in said) and said != {_OUTSIDE}


def tagging_scores(
    references: Sequence[Tags],
    predicted: Sequence[Tags | None],
    seed: int = 0,
    *,
    baselines: Mapping[str, Sequence[Tags]] | None = None,
) -> TaggingScores:
    """The scores of one tag a word; None is a text that the model says nothing of.

    Where tags are IOB or IOBES, entities count: right is one whose type, first and last word are. "entity" reads any
    tags, as conlleval does; "strict entity" only takes what IOB2 (IOBES) allows. Baselines are other answers, by name;
    left out, the commonest tag of the references for each word.

    Raises:
        ValueError: there is no word, or not one tag for each.
    """
    _check(references, predicted)
    if baselines is None:
        commonest = _commonest(tag for each in references for tag in each)
        baselines = {f"always saying {commonest!r}": [[commonest] * len(each) for each in references]}
    entities = is_iob([*references, *(each for each in predicted if each is not None)])
    scores, by_type, support = _scores(references, predicted, entities, seed)
    others = {name: _scores(references, said, entities, seed)[0] for name, said in baselines.items()}
    return TaggingScores(beside(scores, others), by_type, support, sum(1 for each in predicted if each is None))


def commonest_tags(words: Sequence[Tags], tags: Sequence[Tags], asked: Sequence[Tags]) -> list[list[str]]:
    """For each word the tag that it has most often in training, a baseline; for a new word the commonest of all."""
    counts: dict[str, Counter[str]] = {}
    for some_words, some_tags in zip(words, tags, strict=True):
        for word, tag in zip(some_words, some_tags, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    usual = _commonest(tag for each in tags for tag in each)
    best = {word: _commonest(found.elements()) for word, found in counts.items()}
    return [[best.get(word, usual) for word in each] for each in asked]


def _commonest(tags: Any) -> str:
    found: tuple[str, int] = min(Counter(tags).items(), key=lambda each: (-each[1], each[0]))
    return found[0]


def _check(references: Sequence[Tags], predicted: Sequence[Tags | None]) -> None:
    if len(references) != len(predicted) or not any(references):
        raise ValueError(f"{len(references)} references and {len(predicted)} answers: give as many, with words")
    for number, (wanted, said) in enumerate(zip(references, predicted, strict=True)):
        if said is not None and len(said) != len(wanted):
            raise ValueError(f"text {number} has {len(wanted)} words and {len(said)} tags")


def _scores(
    references: Sequence[Tags], predicted: Sequence[Tags | None], entities: bool, seed: int
) -> tuple[dict[str, Score], dict[str, Score], dict[str, int]]:
    """Every measure, F1 by type, and how many there are of each."""
    some = [(wanted, said) for wanted, said in zip(references, predicted, strict=True) if wanted]
    right = [sum(map(str.__eq__, wanted, said)) if said is not None else 0 for wanted, said in some]
    lengths = [len(wanted) for wanted, _ in some]
    scores = {"token accuracy": ratio_score(right, lengths, "share of words", higher_is_better=True, seed=seed)}
    by_type: dict[str, Score] = {}
    support: dict[str, int] = {}
    has_ends = any(tag.startswith(_MARKS[2:]) for each in references for tag in each)
    strict = partial(_strict_chunks, has_ends=has_ends)
    ways: dict[str, Callable[[Tags], Chunks]] = {"token ": _words}
    if entities:
        ways = {"entity ": _chunks, "strict entity ": strict}
    for way, chunks_of in ways.items():
        found = [(chunks_of(wanted), chunks_of(said if said is not None else ())) for wanted, said in some]
        names, counts_N3C = _counts(found)
        drawn_S3C = resampled_sums(counts_N3C.reshape(len(some), -1), seed).reshape(-1, 3, len(names))
        total_3C = counts_N3C.sum(axis=0)
        if entities:
            values = precision_recall_f1(*total_3C.sum(axis=1))
            resampled = precision_recall_f1(*np.moveaxis(drawn_S3C.sum(axis=2), 1, 0))
            for part, value, drawn_S in zip(_PARTS, values, resampled, strict=True):
                scores[way + part] = score_with(float(value), drawn_S, _UNIT, len(some))
        f1_C = precision_recall_f1(*total_3C)[2]
        f1_SC = precision_recall_f1(*np.moveaxis(drawn_S3C, 1, 0))[2]
        if not entities:
            occurs_SC = drawn_S3C[:, 1:].sum(axis=1) > 0
            macro_S = f1_SC.sum(axis=1) / occurs_SC.sum(axis=1)
            scores["macro F1"] = score_with(float(f1_C.mean()), macro_S, _UNIT, len(some))
        if not by_type:
            by_type = {n: score_with(f1_C[i], f1_SC[:, i], _UNIT, len(some)) for i, n in enumerate(names)}
            support = {name: int(total_3C[2, place]) for place, name in enumerate(names)}
    return scores, by_type, support


def _chunks(tags: Tags) -> Chunks:
    """The entities of a text: type, first and last word."""
    from seqeval.metrics.sequence_labeling import get_entities

    return {(str(kind), int(first), int(last)) for kind, first, last in get_entities(list(tags))} if tags else set()


def _strict_chunks(tags: Tags, *, has_ends: bool) -> Chunks:
    """The same where only what IOB2, or with ends IOBES, allows counts."""
    from seqeval.scheme import IOB2, IOBES, Entities

    found = Entities([list(tags)], scheme=IOBES if has_ends else IOB2).entities[0] if tags else []
    return {(str(each.tag), int(each.start), int(each.end) - 1) for each in found}


def _words(tags: Tags) -> Chunks:
    """Each word as an entity of its own."""
    return {(tag, place, place) for place, tag in enumerate(tags)}


def _counts(found: Sequence[tuple[Chunks, Chunks]]) -> tuple[list[str], NDArray[np.int64]]:
    """The types that occur, and for each text and type how many are right, said and wanted, of shape N 3 C."""
    names = sorted({chunk[0] for pair in found for chunks in pair for chunk in chunks})
    place = {name: number for number, name in enumerate(names)}
    counts_N3C = np.zeros((len(found), 3, len(names)), np.int64)
    for row, (wanted, said) in enumerate(found):
        for column, chunks in enumerate((wanted & said, said, wanted)):
            for kind, _, _ in chunks:
                counts_N3C[row, column, place[kind]] += 1
    return names, counts_N3C
