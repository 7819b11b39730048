"""The sentences say what the numbers say."""

import math

import pytest

from preceptor.evaluate.memorisation import CONTINUATION_TOKENS, Recitation
from preceptor.evaluate.metrics import Score, mean_score, share_score
from preceptor.evaluate.verdict import on_fit, on_gap, on_memorisation


def curve(train, validation):
    """A curve of one point per step, with a validation loss wherever one is given."""
    return [
        {"step": step, "loss": loss} | ({} if check is None else {"validation_loss": check})
        for step, (loss, check) in enumerate(zip(train, validation, strict=True), 1)
    ]


def gap_of(value, low, high):
    return Score(value, "nats per token", False, low, high, 10)


@pytest.mark.parametrize(
    ("train", "validation", "first_word"),
    [
        ([5, 4, 3.2, 3.0], [None, 4, None, 3.1], "Underfitting"),
        ([5, 4, 3.01, 3.0], [None, 3.02, None, 3.01], "Well"),
        ([5, 3, 1, 0.5], [None, 3, 3.2, 4], "Overfitting"),
        ([5, 3, 1.5, 1.0], [None, 3, 2.99, 2.98], "Leaning"),
        ([5, 4, 3, 2], [None, None, None, 3], "There"),
        ([], [], "There"),
    ],
)
def test_the_verdict_on_a_curve(train, validation, first_word):
    assert on_fit(curve(train, validation)).startswith(first_word)


def test_overfitting_names_the_best_step_and_what_to_do():
    said = on_fit(curve([5, 3, 1, 0.5], [None, 3.1, None, 4.25]))
    assert "step 2" in said and "3.100" in said and "4.250" in said and "fewer steps" in said


def test_a_last_step_that_was_skipped_does_not_spoil_the_verdict():
    said = on_fit(curve([5, 4, 3.01, 3.0, math.nan], [None, 3.02, None, 3.01, math.inf]))
    assert said.startswith("There") or "nan" not in said
    steps = curve([3.0] * 20, [3.0 if step in (10, 20) else None for step in range(1, 21)])
    steps[-1]["loss"] = math.nan
    assert on_fit(steps).startswith("Well fitted: training loss 3.000")


def test_the_measured_gap_replaces_the_training_loss_of_the_curve():
    steps = curve([3.0, 3.0, 3.0, 1.0], [None, 3.0, None, 3.0])
    assert on_fit(steps).startswith("Leaning")
    assert on_fit(steps, gap_of(0.01, -0.1, 0.1)).startswith("Well fitted: training loss 2.990")
    assert on_fit(steps, gap_of(1.5, 1.2, 1.7)).startswith("Leaning")
    assert not on_fit(steps, gap_of(1.5, -0.2, 2.7)).startswith("Leaning"), "a gap that may be none proves nothing"


def test_a_gap_in_words():
    assert "better than what it never saw: +0.300 nats" in on_gap(gap_of(0.3, 0.1, 0.5))
    assert on_gap(gap_of(0.1, -0.1, 0.3)).startswith("No gap")
    assert on_gap(gap_of(-0.1, -0.3, 0.1)).startswith("No gap")


def recitation(matches):
    return Recitation(
        exact=share_score([match == CONTINUATION_TOKENS for match in matches], "share", higher_is_better=False),
        matching_tokens=mean_score(matches, "matching tokens", higher_is_better=False),
        matches=matches,
    )


@pytest.mark.parametrize(
    ("train", "validation", "first_word"),
    [
        ([32] * 10 + [0] * 90, [0] * 100, "Memorisation"),
        ([10] * 100, [1] * 100, "Memorisation"),
        ([32] * 12 + [0] * 88, [31] * 13 + [0] * 87, "Memorisation"),
        ([1, 2, 0, 3] * 25, [2, 1, 3, 0] * 25, "No"),
        ([32] + [0] * 99, [0] * 100, "No"),
        ([32, 0] * 50, [32, 0] * 50, "No"),
    ],
)
def test_the_verdict_on_memorisation(train, validation, first_word):
    said = on_memorisation(recitation(train), recitation(validation))
    assert said.startswith(first_word)
    assert "100 training documents" in said


def test_too_short_documents_are_said_to_be_too_short():
    assert "too short" in on_memorisation(None, recitation([1, 2]))
    assert "too short" in on_memorisation(recitation([1, 2]), None)
