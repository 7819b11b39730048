"""A score beside its baselines, in words."""

import json

import pytest

from preceptor.evaluate.judged import Judged, beside, judged_facts
from preceptor.evaluate.metrics import Score
from preceptor.evaluate.verdict import on_judged


def score(value, half, *, higher=True, count=100):
    return Score(value, "x", higher, value - half, value + half, count)


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        (
            Judged("F1", score(0.87, 0.02), {"always saying 'positive'": score(0.33, 0)}),
            "F1 0.87 ± 0.02, above always saying 'positive' (0.33).",
        ),
        (
            Judged("F1", score(0.40, 0.09), {"a": score(0.33, 0.05), "b": score(0.1, 0.0)}),
            "F1 0.40 ± 0.09, not shown to be better than a (0.33 ± 0.05).",
        ),
        (
            Judged("error", score(0.31, 0.02, higher=False), {"the mean": score(0.8, 0.1, higher=False)}),
            "error 0.31 ± 0.02, below the mean (0.80 ± 0.10).",
        ),
        (
            Judged("BLEU", score(3.2, 0.4, count=12), {"a copy of the source": score(8.0, 1.0)}),
            "BLEU 3.20 ± 0.40, worse than a copy of the source (8.00 ± 1.00); there are only 12 examples.",
        ),
        (Judged("squared error", score(23456.7, 812.0, higher=False)), "squared error 23457 ± 812."),
        (Judged("accuracy", score(0.5, 0.0004)), "accuracy 0.5000 ± 0.0004."),
    ],
)
def test_sentences(judged, said):
    assert on_judged(judged) == said


def test_the_best_baseline_is_the_hardest_to_beat():
    lower = Judged(
        "error", score(0.5, 0.1, higher=False), {"a": score(2, 0, higher=False), "b": score(1, 0, higher=False)}
    )
    assert lower.best_baseline[0] == "b" and lower.is_better and not lower.is_worse
    alone = Judged("F1", score(0.5, 0.1))
    assert alone.best_baseline is None and not alone.is_better and not alone.is_worse


def test_facts():
    judged = beside({"F1": score(0.8, 0.1)}, {"coin": {"F1": score(0.5, 0.1)}, "none": {"F1": score(0.0, 0.0)}})
    facts = json.loads(json.dumps(judged_facts(judged)))
    assert facts["F1"]["value"] == 0.8 and facts["F1"]["is_better"] is True
    assert facts["F1"]["baselines"]["coin"]["value"] == 0.5 and list(facts["F1"]["baselines"]) == ["coin", "none"]
