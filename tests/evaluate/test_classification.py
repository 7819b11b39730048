"""Scores of classes: by hand, against scikit-learn, and on resamples drawn one by one."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as oracle

from preceptor.evaluate.calibration import calibration
from preceptor.evaluate.classification import NO_ANSWER, _measures, classification_scores, label_set_scores
from preceptor.evaluate.resampling import resampled_cells, resampled_counts, resampled_sums

LABELS = ("ham", "spam", "news")


def drawn(count=400, wrong=0.3, seed=0):
    generator = np.random.default_rng(seed)
    references = [LABELS[i] for i in generator.choice(3, count, p=(0.6, 0.3, 0.1))]
    said = [each if generator.random() > wrong else LABELS[generator.integers(3)] for each in references]
    return references, said


def by_name(scores):
    return {each.name: each for each in scores.judged}


def test_a_worked_example():
    scores = classification_scores(["a", "a", "a", "b"], ["a", "a", "b", "b"], ["a", "b"])
    found = by_name(scores)
    assert found["accuracy"].score.value == 0.75
    # a: precision 1, recall 2/3, F1 4/5; b: precision 1/2, recall 1, F1 2/3.
    assert scores.per_class["a"].f1.value == pytest.approx(0.8)
    assert scores.per_class["b"].precision.value == 0.5 and scores.per_class["b"].support == 1
    assert found["macro F1"].score.value == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores.confusion == ((2, 1), (0, 1))
    (baseline,) = found["accuracy"].baselines.items()
    assert baseline[0] == "always saying 'a'" and baseline[1].value == 0.75
    assert found["macro F1"].baselines["always saying 'a'"].value == pytest.approx(6 / 7 / 2)
    assert found["Matthews correlation"].baselines["always saying 'a'"].value == 0


def test_all_scores_are_those_of_scikit_learn():
    references, said = drawn()
    scores = classification_scores(references, said, LABELS)
    found = {name: each.score for name, each in by_name(scores).items()}
    assert found["accuracy"].value == pytest.approx(oracle.accuracy_score(references, said))
    assert found["Matthews correlation"].value == pytest.approx(oracle.matthews_corrcoef(references, said))
    for average in ("micro", "macro"):
        expected = oracle.precision_recall_fscore_support(references, said, average=average)
        for part, value in zip(("precision", "recall", "F1"), expected, strict=False):
            assert found[f"{average} {part}"].value == pytest.approx(value)
    np.testing.assert_array_equal(scores.confusion, oracle.confusion_matrix(references, said, labels=LABELS))
    each = oracle.precision_recall_fscore_support(references, said, labels=LABELS)
    for number, name in enumerate(LABELS):
        told = scores.per_class[name]
        expected = [column[number] for column in each]
        assert [told.precision.value, told.recall.value, told.f1.value, told.support] == pytest.approx(expected)


def test_measures_of_resamples_are_those_of_scikit_learn():
    references, said = drawn(25)
    wanted, given = np.array(references), np.array(said)
    generator = np.random.default_rng(5)
    draws = [generator.integers(0, 25, 25) for _ in range(12)]
    cells = np.zeros((12, 4, 4))
    for number, chosen in enumerate(draws):
        cells[number, :3, :3] = oracle.confusion_matrix(wanted[chosen], given[chosen], labels=LABELS)
    found = _measures(cells)
    for number, chosen in enumerate(draws):
        one, other = wanted[chosen], given[chosen]
        assert found["Matthews correlation"][number] == pytest.approx(oracle.matthews_corrcoef(one, other))
        for average in ("micro", "macro"):
            expected = oracle.precision_recall_fscore_support(one, other, average=average, zero_division=0)[:3]
            values = [found[f"{average} {part}"][number] for part in ("precision", "recall", "F1")]
            assert values == pytest.approx(list(expected))
    score = by_name(classification_scores(references, said, LABELS))["macro F1"].score
    assert score.low < score.value < score.high


def test_classes_of_a_resample_count_as_in_scikit_learn():
    """Rare classes are missing from some resamples, and averages are then over the others."""
    references, said = ["a"] * 20 + ["b"], ["a"] * 19 + ["b", "b"]
    score = by_name(classification_scores(references, said, ["a", "b"]))["macro recall"].score
    assert score.high == 1.0 and score.low > 0.4


def test_what_the_model_cannot_say_or_does_not_say_is_wrong_and_named():
    references = ["ham", "spam", "ham", "letter", "letter"]
    scores = classification_scores(references, ["ham", None, "spam", "ham", None], ["ham", "spam"])
    found = by_name(scores)
    assert found["accuracy"].score.value == 0.2
    assert scores.unseen == {"letter": 2} and scores.unanswered == 2
    assert scores.names == ("ham", "spam", "letter", NO_ANSWER)
    assert scores.confusion == ((1, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0, 1), (0, 0, 0, 0))
    assert found["micro precision"].score.value == pytest.approx(1 / 3)
    assert found["micro recall"].score.value == pytest.approx(1 / 5)
    assert scores.per_class["letter"].f1.value == 0 and scores.per_class["letter"].support == 2
    facts = json.loads(json.dumps(scores.facts(), allow_nan=False))
    assert facts["unseen"] == {"letter": 2} and facts["confusion"]["names"][-1] == NO_ANSWER


@pytest.mark.parametrize("said", [["a", "a"], [None, None]])
def test_one_class_alone_is_scored_without_a_warning(said):
    found = by_name(classification_scores(["a", "a"], said, ["a", "b"]))
    right = float(said == ["a", "a"])
    assert found["accuracy"].score.value == found["macro F1"].score.value == right
    assert found["Matthews correlation"].score.value == 0


@pytest.mark.parametrize("one_class", [False, True])
def test_scores_of_several_classes_a_text_are_those_of_scikit_learn(one_class):
    generator = np.random.default_rng(1)
    labels = LABELS[:1] if one_class else LABELS
    wanted = generator.random((200, len(labels))) < 0.4
    given = np.where(generator.random(wanted.shape) < 0.8, wanted, ~wanted)
    sets = [[tuple(np.array(labels)[row]) for row in table] for table in (wanted, given)]
    scores = label_set_scores(*sets, labels)
    found = {name: each.score for name, each in by_name(scores).items()}
    assert found["all classes right"].value == pytest.approx((wanted == given).all(axis=1).mean())
    assert found["Hamming loss"].value == pytest.approx((wanted != given).mean())
    assert not found["Hamming loss"].higher_is_better
    for average in ("micro", "macro"):
        for part, measure in (("precision", oracle.precision_score), ("F1", oracle.f1_score)):
            expected = measure(wanted[:, 0], given[:, 0]) if one_class else measure(wanted, given, average=average)
            score = found[f"{average} {part}"]
            assert score.value == pytest.approx(expected) and score.low < score.value < score.high
    assert scores.per_class["ham"].f1.value == pytest.approx(oracle.f1_score(wanted[:, 0], given[:, 0]))
    assert set(by_name(scores)["micro F1"].baselines) >= {"always saying every class"}


def test_several_classes_with_unseen_and_unanswered():
    scores = label_set_scores([("a",), ("z", "a"), (), ()], [("a",), ("a",), (), None], ["a", "b"])
    found = by_name(scores)
    assert scores.unseen == {"z": 1} and scores.unanswered == 1 and not scores.names
    assert found["all classes right"].score.value == 0.5
    assert found["micro recall"].score.value == pytest.approx(2 / 3)
    assert found["Hamming loss"].score.value == pytest.approx((0 + 1 / 3 + 0 + 1) / 4)
    nothing = label_set_scores([(), ()], [(), ()], ["a"])
    assert by_name(nothing)["macro F1"].score.value == 0 and by_name(nothing)["all classes right"].score.value == 1


def test_calibration_by_hand_and_with_nothing_said():
    found = calibration(["a", "b", "a", "a"], ["a", "b"], [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [np.nan, np.nan]])
    # Of two that are 90% sure one is right, and one that is 60% sure is wrong.
    assert found.error.value == pytest.approx((2 * abs(0.9 - 0.5) + 0.6) / 3) and found.error.count == 3
    assert found.counts == (1, 2) and found.confidence == pytest.approx((0.6, 0.9))
    assert found.accuracy == (0.0, 0.5)
    assert calibration(["a"], ["a", "b"], [[np.nan, np.nan]]) is None
    with pytest.raises(ValueError, match="of shape 2 x 2"):
        calibration(["a", "b"], ["a", "b"], [[1.0, 0.0]])


def test_a_classifier_that_means_what_it_says_is_calibrated_and_a_boasting_one_is_not():
    generator = np.random.default_rng(2)
    sure = generator.uniform(0.5, 1, 5000)
    references = ["a" if generator.random() < each else "b" for each in sure]
    honest = calibration(references, ["a", "b"], np.stack((sure, 1 - sure), axis=1))
    boasting = calibration(references, ["a", "b"], np.tile([0.99, 0.01], (5000, 1)))
    assert honest.error.value < 0.03 and boasting.error.low > 0.2
    assert boasting.error.value == pytest.approx(0.99 - references.count("a") / 5000)


@pytest.mark.parametrize("wrong", [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_nothing_to_score_is_an_error(wrong):
    with pytest.raises(ValueError, match="give as many"):
        classification_scores(*wrong, ["a"])
    with pytest.raises(ValueError, match="give as many"):
        label_set_scores(*wrong, ["a"])


def test_resamples_are_draws_with_replacement():
    counts = np.concatenate(list(resampled_counts(7, 3)))
    assert counts.shape == (1000, 7) and (counts.sum(axis=1) == 7).all()
    assert np.abs(counts.mean(axis=0) - 1).max() < 0.15 and counts.var(axis=0) == pytest.approx(6 / 7, abs=0.15)
    np.testing.assert_array_equal(resampled_sums(np.eye(7), 3), counts)
    cells = resampled_cells([[3, 0], [1, 4]], 3)
    assert (cells.sum(axis=(1, 2)) == 8).all() and not cells[:, 0, 1].any()
    assert cells[:, 1, 1].var() == pytest.approx(8 * 0.5 * 0.5, rel=0.15)
    for empty in (lambda: list(resampled_counts(0, 0)), lambda: resampled_cells([[0]], 0)):
        with pytest.raises(ValueError, match="at least one item"):
            empty()


def test_the_libraries_of_scores_are_loaded_when_they_are_used_alone():
    code = (
        "import sys; from preceptor.evaluate import calibration, classification, extraction, preference, regression, "
        "tagging, texts\n"
        "assert not {'sklearn', 'scipy', 'sacrebleu', 'rouge_score', 'seqeval', 'nltk'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
