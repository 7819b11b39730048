"""Question answering: questions that were never trained on, asked of a model before and after fine-tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.data.example_types import Conversation, Message
from preceptor.evaluate.metrics import Score, exact_match, mean_score, paired_difference, share_score, token_f1


@dataclass(frozen=True, slots=True)
class Answered:
    """The scores of one model on a set of questions, and what it said."""

    exact_match: Score
    token_f1: Score
    by_kind: dict[str, Score]
    """Token F1 for each kind of question."""
    answers: list[str]
    f1_values: list[float]
    """Token F1 of each answer."""

    def facts(self) -> dict[str, Any]:
        """The scores as JSON, without the answers."""
        return {
            "exact_match": self.exact_match.facts(),
            "token_f1": self.token_f1.facts(),
            "by_kind": {kind: score.facts() for kind, score in self.by_kind.items()},
        }


def answer_questions(
    examples: Sequence[Conversation],
    answer_many: Callable[[Sequence[str | Sequence[Message]]], list[str]],
    seed: int = 0,
) -> Answered:
    """The scores of what ``answer_many`` says to the questions, beside the answers they should have."""
    # All that was said before is what the last answer is an answer to.
    asked = [example.question if len(example.messages) == 2 else example.messages[:-1] for example in examples]
    answers = answer_many(asked)
    pairs = [(answer, example.answer) for answer, example in zip(answers, examples, strict=True)]
    f1 = [token_f1(*pair) for pair in pairs]
    kinds = sorted({example.kind for example in examples if example.kind})
    return Answered(
        exact_match=share_score([exact_match(*pair) for pair in pairs], "exact match", higher_is_better=True),
        token_f1=mean_score(f1, "token F1", higher_is_better=True, seed=seed),
        by_kind={
            kind: mean_score(
                [value for value, example in zip(f1, examples, strict=True) if example.kind == kind],
                "token F1",
                higher_is_better=True,
                seed=seed,
            )
            for kind in kinds
        },
        answers=answers,
        f1_values=f1,
    )


def improvement(before: Answered, after: Answered, seed: int = 0) -> Score:
    """By how much token F1 changed on the same questions."""
    return paired_difference(after.f1_values, before.f1_values, "token F1", higher_is_better=True, seed=seed)
