"""Question answering: every question is asked once, each answer stands beside its own reference."""

import json

import pytest

from preceptor.data.example_types import Conversation
from preceptor.evaluate.tasks import answer_questions, improvement

EXAMPLES = [
    Conversation.of(
        "What does dedent do?", "Remove common leading whitespace.", group="textwrap.dedent", kind="purpose"
    ),
    Conversation.of("Which module has dedent?", "textwrap", group="textwrap.dedent", kind="module"),
    Conversation.of("What does sqrt do?", "Return the square root.", group="math.sqrt", kind="purpose"),
    Conversation.of("Which module has sqrt?", "math", group="math.sqrt", kind="module"),
]
ANSWERS = {
    "What does dedent do?": "remove the whitespace",
    "Which module has dedent?": "Textwrap.",
    "What does sqrt do?": "return the square root",
    "Which module has sqrt?": "cmath",
}


def test_the_scores_by_hand():
    asked = []

    def answer_many(questions):
        asked.extend(questions)
        return [ANSWERS[question] for question in questions]

    result = answer_questions(EXAMPLES, answer_many)
    assert asked == [example.question for example in EXAMPLES]
    # "remove whitespace" against "remove common leading whitespace": precision 1, recall 1/2.
    assert result.f1_values == pytest.approx([2 / 3, 1.0, 1.0, 0.0])
    assert result.token_f1.value == pytest.approx((2 / 3 + 2) / 4)
    assert result.exact_match.value == 0.5
    assert result.by_kind["module"].value == 0.5 and result.by_kind["module"].count == 2
    assert result.by_kind["purpose"].value == pytest.approx(5 / 6)
    assert result.answers[3] == "cmath"
    assert result.token_f1.higher_is_better and result.token_f1.low <= result.token_f1.value <= result.token_f1.high
    assert set(json.loads(json.dumps(result.facts(), allow_nan=False))) == {"exact_match", "token_f1", "by_kind"}


def test_questions_without_kinds_have_no_table_of_kinds():
    plain = [Conversation.of("Q?", "A", group="g")]
    assert answer_questions(plain, lambda questions: ["A"]).by_kind == {}


def test_a_missing_answer_is_an_error_and_not_a_shift():
    with pytest.raises(ValueError):
        answer_questions(EXAMPLES, lambda questions: ["only one"])


def test_nothing_asked_is_an_error():
    with pytest.raises(ValueError):
        answer_questions([], lambda questions: [])


def test_improvement_compares_the_same_questions():
    before = answer_questions(EXAMPLES, lambda questions: ["nothing"] * 4)
    after = answer_questions(EXAMPLES, lambda questions: [ANSWERS[question] for question in questions])
    change = improvement(before, after)
    assert change.value == pytest.approx(after.token_f1.value) and change.count == 4
    assert improvement(after, before).value == pytest.approx(-change.value)
