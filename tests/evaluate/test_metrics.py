"""Scores against worked examples, scikit-learn and scipy, and intervals that hold what they should."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss

from preceptor.evaluate import metrics
from preceptor.evaluate.metrics import (
    Score,
    accuracy,
    bits_per_byte,
    bootstrap,
    difference_of_ratios,
    exact_match,
    mean_score,
    normalise_answer,
    paired_difference,
    perplexity,
    share_score,
    token_f1,
)

words = st.lists(st.sampled_from(["tree", "The", "a", "an", "x.", "(y)", "Z", "-", ""]), max_size=6).map(" ".join)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    score = perplexity([5 * math.log(8), 3 * math.log(8)], [5, 3])
    assert score.value == pytest.approx(8)
    assert (score.unit, score.higher_is_better, score.count) == ("perplexity per token", False, 2)


def test_perplexity_is_the_exponential_of_scikit_learns_log_loss():
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(6), 40)
    truth = generator.integers(0, 6, 40)
    nats = -np.log(probabilities[np.arange(40), truth])
    documents = np.split(np.arange(40), [7, 19])
    score = perplexity([nats[d].sum() for d in documents], [len(d) for d in documents])
    assert score.value == pytest.approx(math.exp(log_loss(truth, probabilities, labels=list(range(6)))))


def test_accuracy_weighs_tokens_and_not_documents_as_scikit_learn_does():
    truth, said = [1, 2, 3, 4, 5], [1, 2, 3, 9, 9]
    score = accuracy([3, 0], [3, 2])
    assert score.value == pytest.approx(accuracy_score(truth, said)) == pytest.approx(0.6)
    assert score.higher_is_better


def test_bits_per_byte_by_hand():
    """Two documents of 4 and 6 bytes that cost 8 and 12 bits: 2 bits for each byte."""
    score = bits_per_byte([8 * math.log(2), 12 * math.log(2)], [4, 6])
    assert score.value == pytest.approx(2.0)
    assert (score.unit, score.higher_is_better) == ("bits per byte", False)


def test_a_diverged_model_still_has_a_perplexity():
    assert math.isfinite(perplexity([1e6], [1]).value)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("An apple a day", "apple day"),
        ("theatre", "theatre"),
        ("textwrap.dedent()", "textwrapdedent"),
        ("a", ""),
        ("  \n", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text, plain):
    assert normalise_answer(text) == plain


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "exact"),
    [
        ("the cat sat on the mat", "a cat sat", 2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2), 0.0),
        ("Remove margins.", "remove margins", 1.0, 1.0),
        ("one two three", "four", 0.0, 0.0),
        ("yes yes yes", "yes", 2 * (1 / 3) * 1 / (1 / 3 + 1), 0.0),
        ("b a c", "c b", 1.0, 0.0),
        ("", "word", 0.0, 0.0),
        ("", "", 1.0, 1.0),
    ],
)
def test_token_f1_and_exact_match_by_hand(answer, reference, f1, exact):
    assert token_f1(answer, reference) == pytest.approx(f1)
    assert exact_match(answer, reference) == exact


@given(words, words)
def test_token_f1_is_symmetric_bounded_and_1_exactly_for_the_same_words(first, second):
    value = token_f1(first, second)
    assert 0 <= value <= 1
    assert value == token_f1(second, first)
    same = sorted(normalise_answer(first).split()) == sorted(normalise_answer(second).split())
    assert (value == 1.0) == same
    assert exact_match(first, second) <= value


def test_the_bootstrap_interval_of_a_mean_is_that_of_scipy_and_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(10, 2, 400)
    score = mean_score(values, "x", higher_is_better=True, seed=3)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert score.low == pytest.approx(theirs.low, abs=0.05) and score.high == pytest.approx(theirs.high, abs=0.05)


def test_95_of_100_intervals_hold_the_truth():
    generator = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        tokens = generator.integers(5, 50, 60)
        nats = tokens * generator.normal(2.0, 0.5, 60)
        score = metrics.ratio_score(nats, tokens, "x", higher_is_better=False, seed=trial)
        held += score.low <= 2.0 <= score.high
    assert 0.90 <= held / 200 <= 0.985


def test_the_same_seed_gives_the_same_interval_and_another_seed_another_one():
    values = np.random.default_rng(0).normal(size=50)
    one, same, other = (mean_score(values, "x", higher_is_better=True, seed=seed) for seed in (1, 1, 2))
    assert one == same and one != other


@pytest.mark.parametrize(("ones", "count"), [(0, 20), (20, 20), (3, 50), (128, 128), (1, 1)])
def test_a_share_has_scipys_wilson_interval_which_is_never_a_point(ones, count):
    score = share_score([1] * ones + [0] * (count - ones), "share", higher_is_better=False)
    theirs = stats.binomtest(ones, count).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert (ones > 0 or score.low == 0.0) and (ones < count or score.high == 1.0)
    assert score.low <= score.value == ones / count <= score.high
    assert score.high - score.low > 0.01


def test_a_paired_difference_sees_what_two_intervals_hide():
    """Every item gains a little; the items differ a lot."""
    generator = np.random.default_rng(2)
    before = generator.uniform(0, 1, 60)
    after = before + generator.uniform(0.01, 0.03, 60)
    change = paired_difference(after, before, "F1", higher_is_better=True)
    assert change.value == pytest.approx((after - before).mean())
    assert change.low > 0
    overlap = mean_score(before, "F1", higher_is_better=True).high - mean_score(after, "F1", higher_is_better=True).low
    assert overlap > 0


def test_a_difference_of_ratios_by_hand_and_with_an_interval_that_knows_nothing_from_something():
    by_hand = difference_of_ratios(([2, 4], [1, 2]), ([3], [3]), "x", higher_is_better=False)
    assert by_hand.value == pytest.approx(2.0 - 1.0) and by_hand.count == 3
    generator = np.random.default_rng(4)
    ones = np.ones(80)
    same = difference_of_ratios(
        (generator.normal(5, 1, 80), ones), (generator.normal(5, 1, 80), ones), "x", higher_is_better=False
    )
    more = difference_of_ratios(
        (generator.normal(6, 1, 80), ones), (generator.normal(5, 1, 80), ones), "x", higher_is_better=False
    )
    assert same.low < 0 < same.high and more.low > 0


@pytest.mark.parametrize(
    "measure",
    [
        lambda: mean_score([], "x", higher_is_better=True),
        lambda: share_score([], "x", higher_is_better=True),
        lambda: share_score([0.5], "x", higher_is_better=True),
        lambda: perplexity([], []),
        lambda: perplexity([1.0], [0]),
        lambda: bits_per_byte([1.0, 2.0], [1]),
        lambda: bootstrap(lambda indices: 0.0, 0, 0),
        lambda: difference_of_ratios(([], []), ([1], [1]), "x", higher_is_better=True),
    ],
)
def test_nothing_to_measure_is_an_error_and_never_a_score(measure):
    with pytest.raises(ValueError):
        measure()


def test_a_score_survives_json():
    score = perplexity([1.0, 2.0], [1, 1])
    assert Score(**json.loads(json.dumps(score.facts(), allow_nan=False))) == score
