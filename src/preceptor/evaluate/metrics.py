"""Scores as pure functions, each with its unit, its direction and how sure it is."""

import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_SAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """A measured value with its interval: ``low`` to ``high`` hold it with 95% confidence (not if ``count`` is 1)."""

    value: float
    unit: str
    higher_is_better: bool
    low: float
    high: float
    count: int
    """How many documents, questions or tokens it was taken on."""

    def facts(self) -> dict[str, Any]:
        """The score as JSON."""
        return asdict(self)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], count: int, seed: int, samples: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float]:
    """The 95% interval of a statistic of ``count`` items; it is given the indices of each resample.

    Source: Efron 1979, the percentile interval.
    """
    if count < 1:
        raise ValueError("an interval needs at least one item")
    generator = np.random.default_rng(seed)
    return interval([statistic(generator.integers(0, count, count)) for _ in range(samples)])


def interval(values: ArrayLike) -> tuple[float, float]:
    """What holds 95% of the values, as many left out below as above."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.asarray(values, np.float64), [tail, 100 - tail])
    return float(low), float(high)


def mean_score(values: ArrayLike, unit: str, *, higher_is_better: bool, seed: int = 0) -> Score:
    """The mean of one value per item, with its bootstrap interval."""
    array = np.asarray(values, np.float64)
    low, high = bootstrap(lambda indices: float(array[indices].mean()), array.size, seed)
    return Score(float(array.mean()), unit, higher_is_better, low, high, int(array.size))


def share_score(outcomes: ArrayLike, unit: str, *, higher_is_better: bool) -> Score:
    """The share of items with outcome 1, each of which is 0 or 1.

    Its interval does not shrink to a point where none or all of them are 1, as that of the bootstrap would.

    Source: Wilson 1927, the score interval.
    """
    array = np.asarray(outcomes, np.float64)
    if array.size == 0 or not np.isin(array, (0.0, 1.0)).all():
        raise ValueError("a share needs at least one outcome, each 0 or 1")
    count, share = int(array.size), float(array.mean())
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At none and at all the bounds are exact, but for rounding.
    low, high = 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half
    return Score(share, unit, higher_is_better, low, high, count)


def ratio_score(
    numerators: ArrayLike,
    denominators: ArrayLike,
    unit: str,
    *,
    higher_is_better: bool,
    transform: Callable[[float], float] = float,
    seed: int = 0,
) -> Score:
    """The ratio of two sums over documents, transformed, with an interval from resampling whole documents."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if top.shape != bottom.shape or not (bottom > 0).all():
        raise ValueError("a ratio needs as many denominators as numerators, all of them positive")

    def value(indices: NDArray[np.int64] | slice) -> float:
        return transform(float(top[indices].sum() / bottom[indices].sum()))

    low, high = bootstrap(value, top.size, seed)
    return Score(value(slice(None)), unit, higher_is_better, low, high, int(top.size))


def paired_difference(
    after: ArrayLike, before: ArrayLike, unit: str, *, higher_is_better: bool, seed: int = 0
) -> Score:
    """By how much the mean of the same items changed: after less before, resampling the items."""
    changes = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return mean_score(changes, unit, higher_is_better=higher_is_better, seed=seed)


def difference_of_ratios(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    unit: str,
    *,
    higher_is_better: bool,
    seed: int = 0,
) -> Score:
    """The ratio of the first group's sums less that of the second's; the groups are resampled apart.

    Each group is its numerators and its denominators, one of each per item; with denominators of 1, means are compared.
    """
    groups = [tuple(np.asarray(part, np.float64) for part in group) for group in (first, second)]
    if any(top.shape != bottom.shape or not top.size or not (bottom > 0).all() for top, bottom in groups):
        raise ValueError("each group needs at least one item, with a positive denominator each")
    generator = np.random.default_rng(seed)

    def resampled() -> float:
        ratios = []
        for top, bottom in groups:
            indices = generator.integers(0, top.size, top.size)
            ratios.append(top[indices].sum() / bottom[indices].sum())
        return float(ratios[0] - ratios[1])

    low, high = interval([resampled() for _ in range(BOOTSTRAP_SAMPLES)])
    one, other = (float(top.sum() / bottom.sum()) for top, bottom in groups)
    return Score(one - other, unit, higher_is_better, low, high, sum(int(top.size) for top, _ in groups))


def perplexity(nats: ArrayLike, tokens: ArrayLike) -> Score:
    """How many equally likely tokens the model is as unsure as, from per-document sums of losses and tokens."""
    return ratio_score(nats, tokens, "perplexity per token", higher_is_better=False, transform=_exp)


def _exp(nats: float) -> float:
    """The exponential, or the largest float there is: a model that has diverged still gets its report."""
    return math.exp(nats) if nats < math.log(sys.float_info.max) else sys.float_info.max


def bits_per_byte(nats: ArrayLike, num_bytes: ArrayLike) -> Score:
    """The bits that the model needs for one byte of text, comparable across tokenizers and with compressors."""
    return ratio_score(nats, num_bytes, "bits per byte", higher_is_better=False, transform=lambda v: v / math.log(2))


def accuracy(correct: ArrayLike, tokens: ArrayLike) -> Score:
    """The share of tokens that were the likeliest ones, from per-document counts."""
    return ratio_score(correct, tokens, "share of tokens", higher_is_better=True)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """An answer in lower case without punctuation, articles and spare white space. Source: Rajpurkar et al. 2016."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 where both answers are equal once normalised, else 0."""
    return float(normalise_answer(answer) == normalise_answer(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over the words of two normalised answers.

    Source: Rajpurkar et al. 2016, SQuAD, section 6.1.
    """
    given, wanted = normalise_answer(answer).split(), normalise_answer(reference).split()
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
