"""How well answers are found in texts, or found to be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.evaluate.judged import Judged, beside, judged_facts
from preceptor.evaluate.metrics import Score, exact_match, mean_score, share_score, token_f1
from preceptor.evaluate.sentences import first_sentences


@dataclass(frozen=True, slots=True)
class ExtractionScores:
    """All scores of what was found on one set of questions."""

    judged: tuple[Judged, ...]
    """Of all questions, then of those that have an answer, then of those that have none."""
    unanswered: int
    """Questions of which the model says nothing, such as those too long for it; all count as wrong."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON."""
        return {"scores": judged_facts(self.judged), "unanswered": self.unanswered}


def extraction_scores(
    references: Sequence[Sequence[str]],
    predicted: Sequence[str | None],
    seed: int = 0,
    *,
    baselines: Mapping[str, Sequence[str]] | None = None,
) -> ExtractionScores:
    """Exact match and token F1 with the best of the answers that a question may have.

    No references mean that the text does not say; a prediction that is empty says so too, and None says nothing at all.

    Raises:
        ValueError: there is no question, or not one prediction for each.

    Source: Rajpurkar et al. 2016 and 2018.
    """
    if not references or len(references) != len(predicted):
        raise ValueError(f"{len(references)} references and {len(predicted)} answers: give as many, at least one")
    scores = _scores(references, predicted, seed)
    others = {name: _scores(references, said, seed) for name, said in (baselines or {}).items()}
    return ExtractionScores(beside(scores, others), sum(1 for each in predicted if each is None))


def extraction_baselines(contexts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The first sentence of each text, and where some texts do not say, that none does."""
    baselines = {"the first sentence": [first_sentences(context, 1) for context in contexts]}
    if not all(references):
        baselines["always saying that there is no answer"] = [""] * len(contexts)
    return baselines


def _scores(references: Sequence[Sequence[str]], predicted: Sequence[str | None], seed: int) -> dict[str, Score]:
    """Every measure of which there is a question."""
    exact, f1 = [], []
    for wanted, said in zip(references, predicted, strict=True):
        among = wanted or ("",)
        exact.append(0.0 if said is None else max(exact_match(said, each) for each in among))
        f1.append(0.0 if said is None else max(token_f1(said, each) for each in among))
    scores = {
        "exact match": share_score(exact, "share of questions", higher_is_better=True),
        "token F1": mean_score(f1, "token F1", higher_is_better=True, seed=seed),
    }
    has = [bool(wanted) for wanted in references]
    if all(has):
        return scores
    if any(has):
        some_exact, some_f1 = ([v for v, is_in in zip(all_, has, strict=True) if is_in] for all_ in (exact, f1))
        unit = "share of questions with an answer"
        scores["exact match, has an answer"] = share_score(some_exact, unit, higher_is_better=True)
        scores["token F1, has an answer"] = mean_score(some_f1, "token F1", higher_is_better=True, seed=seed)
    without = [value for value, is_in in zip(exact, has, strict=True) if not is_in]
    unit = "share of questions without an answer"
    scores["exact match, has no answer"] = share_score(without, unit, higher_is_better=True)
    return scores
