"""Counts of parts add up to those of the whole, intervals are the published ones, and a skew names its sources."""

import json
import math
import pickle
import random

import growth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError
from preceptor.data.bias import (
    SHIPPED_GROUPS,
    BiasConfig,
    Counter,
    _split,
    _student,
    _Sums,
    rate_ratio,
    read_lexicon,
    wilson,
)
from preceptor.data.words import WORD

WORDS = ["she", "he", "him", "daughter", "career", "kitchen", "science", "the", "of", "muslim", "church", "old"]
WORDS += ["child", "good", "bad"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


def _counted(pairs, config=None):
    counter = Counter(config)
    for source, text in pairs:
        counter.add(text, source)
    return counter


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), TEXTS), max_size=8), st.integers(0, 8))
def test_parts_add_up_to_the_whole_in_any_order(pairs, cut):
    parts = [_counted(pairs[cut:]), _counted(pairs[:cut])]
    whole = Counter()
    for part in parts:
        whole.merge(Counter.from_json(json.loads(json.dumps(pickle.loads(pickle.dumps(part)).to_json()))))
    assert json.dumps(whole.to_json()) == json.dumps(_counted(pairs).to_json())
    assert whole.summary() == _counted(pairs).summary()


@settings(deadline=None)
@given(TEXTS, st.integers(1, 12))
def test_near_is_what_a_plain_reading_finds(text, window):
    counter = _counted([("a", text)], BiasConfig(window_words=window))
    words = text.split()
    groups, attributes = read_lexicon("gender"), read_lexicon("attributes")
    for group, attribute in (("women", "career"), ("men", "family"), ("women", "science")):
        expected = sum(
            any(
                other in attributes[attribute] and at != place and abs(at - place) <= window
                for at, other in enumerate(words)
            )
            for place, word in enumerate(words)
            if word in groups[group]
        )
        assert counter.near["a", "gender", group, attribute] == expected
        assert counter.mentions["a", "gender", group] == sum(word in groups[group] for word in words)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=80) | st.text(max_size=40))
def test_the_fast_way_to_words_is_the_slow_one(text):
    assert _split(text) == WORD.findall(text.lower())


def test_summary_by_hand():
    pairs = [("a", "she likes science. he likes science."), ("b", "She sleeps.")]
    counter = _counted(pairs, BiasConfig(window_words=2))
    assert (counter.words, counter.documents["a", "gender", "women"]) == ({"a": 6, "b": 2}, 1)
    women = next(row for row in counter.summary()["groups"] if row["group"] == "women")
    assert (women["mentions"], women["documents"], women["per_million_words"]) == (2, 2, 250_000)
    # Wilson by hand: p = 1/4, n = 8, z = 1.959964: (0.25 + 0.240091 -+ 1.959964 sqrt(...)) / 1.480182.
    assert (women["low"], women["high"]) == (71_480, 590_700)
    shares = {(row["group"], row["near"]): row["share"] for row in counter.summary()["associations"]}
    # From "he" the word "science" of the sentence before is one word away.
    assert shares == {("women", "science"): 0.5, ("men", "science"): 1.0}
    assert Counter().summary() == {} and _counted([("a", "no one")]).summary() == {}


@settings(deadline=None)
@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_the_equation_of_the_score_test(counts):
    successes, trials = counts
    share, z = successes / trials, 1.959963984540054
    low, high = wilson(successes, trials)
    assert 0 <= low <= share <= high <= 1
    assert (low, high) == (0 if not successes else low, 1 if successes == trials else high)
    for bound in (low, high):
        spread = z * math.sqrt(bound * (1 - bound) / trials)
        assert math.isclose(abs(share - bound), spread, rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [((81, 263), 0.2553, 0.3662), ((15, 148), 0.0624, 0.1605), ((0, 20), 0.0, 0.1611), ((1, 29), 0.0061, 0.1718)],
)
def test_wilson_as_published(counts, low, high):
    assert wilson(*counts) == pytest.approx((low, high), abs=6e-5)
    assert wilson(0, 0) == (0, 1)
    assert wilson(33, 33)[1] == 1 and all(wilson(n, n)[1] == 1 and wilson(0, n)[0] == 0 for n in range(1, 500))


def test_rate_ratio_by_hand():
    ratio, low, high = rate_ratio(20, 100, 10, 100)
    # (20.5/100.5) / (10.5/100.5), and exp of 1.959964 sqrt(1/20.5 - 1/100.5 + 1/10.5 - 1/100.5).
    assert ratio == pytest.approx(20.5 / 10.5)
    assert math.log(high / ratio) == pytest.approx(1.959964 * 0.352304, rel=1e-4)
    assert math.log(ratio / low) == pytest.approx(math.log(high / ratio))
    assert rate_ratio(1, 0, 1, 5) is None and rate_ratio(1, 5, 0, 0) is None
    assert rate_ratio(20, 20, 0, 20)[1] > 1 > rate_ratio(5, 5, 0, 5)[1]


def test_the_interval_of_a_ratio_holds_what_it_promises():
    draw = random.Random(7)
    held = 0
    for _ in range(1000):
        near = sum(draw.random() < 0.2 for _ in range(200))
        others = sum(draw.random() < 0.1 for _ in range(300))
        _, low, high = rate_ratio(near, 200, others, 300)
        held += low <= 2 <= high
    assert 0.925 <= held / 1000 <= 0.975


def _unbiased(seed, documents):
    """Documents that each speak of groups and of things, drawn apart; what one says, it says again and again."""
    draw = random.Random(seed)
    lists = [list(read_lexicon(kind).values()) for kind in SHIPPED_GROUPS]
    attributes = list(read_lexicon("attributes").values())
    counter = Counter()
    for number in range(documents):
        named = [draw.choice(draw.choice(groups)) for groups in lists]
        things = [word for words in draw.sample(attributes, 3) for word in words[:5]]
        text = []
        for _ in range(draw.randint(5, 40)):
            near = [draw.choice(things) if draw.random() < 0.3 else "walks" for _ in range(4)]
            text += [draw.choice(named), *near, *["walks"] * draw.randint(0, 25)]
        counter.add(" ".join(text), f"source-{number % 3}")
    return counter


def test_corpora_without_skews_seldom_show_one():
    sizes = (20, 30, 60, 100)
    shown = {size: sum(bool(_unbiased(seed, size).summary()["skews"]) for seed in range(50)) for size in sizes}
    print(f"of 50 unbiased corpora of so many documents show a skew: {shown}")
    # Intervals that take all mentions for independent show one in nearly every such corpus.
    assert sum(shown.values()) <= 4


def test_a_skew_in_clustered_documents_is_found_with_its_sources():
    draw, counter = random.Random(1), Counter(BiasConfig(groups=("gender",)))
    for number in range(60):
        name, rate = draw.choice([("she", 0.5), ("he", 0.1)])
        said = [f"{name} {'home' if draw.random() < rate else 'river'} " + "walks " * 25 for _ in range(20)]
        counter.add(" ".join(said), f"source-{number % 3}")
    (skew,) = counter.summary()["skews"]
    assert (skew["group"], skew["near"]) == ("women", "family")
    assert 1 < skew["low"] < 5 < skew["high"] and skew["low"] < skew["ratio"] < skew["high"]
    assert set(skew["sources"]) == {"source-0", "source-1", "source-2"}
    assert list(skew["sources"].values()) == sorted(skew["sources"].values(), reverse=True)


def test_documents_that_repeat_themselves_are_no_evidence():
    one = [("a", "she is at home " * 500), ("b", "he sits over there and waits " * 500)]
    assert _counted(one).summary()["skews"] == []
    assert _counted(one * 4).summary()["skews"] == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=2, max_size=12), st.integers(2, 6))
def test_the_design_effect_is_that_of_clusters(pairs, times):
    pairs = [(mentions, min(near, mentions)) for mentions, near in pairs]
    mentions, near = (sum(each) for each in zip(*pairs, strict=True))

    def sums(times):
        squares = [sum((m * times) ** 2 for m, _ in pairs), sum((n * times) ** 2 for _, n in pairs)]
        return _Sums(len(pairs), mentions * times, near * times, *squares, sum(m * n * times * times for m, n in pairs))

    effect = sums(1).design_effect()
    share = near / mentions
    if 0 < share < 1:
        variance = sum((n - share * m) ** 2 for m, n in pairs) * len(pairs) / (len(pairs) - 1) / mentions**2
        assert effect == pytest.approx(max(1, variance / (share * (1 - share) / mentions)))
        # A corpus in which each document says all of it several times has learned nothing.
        if effect > 1:
            assert sums(times).design_effect() == pytest.approx(times * effect)
    else:
        assert effect == 1


def test_wide_intervals_are_those_of_student():
    # Tables of Student's distribution: 0.975 and 0.9995.
    for freedom, first, second in ((5, 2.5706, 6.869), (10, 2.2281, 4.587), (30, 2.0423, 3.646), (120, 1.9799, 3.373)):
        assert _student(1.959964, freedom) == pytest.approx(first, rel=2e-3)
        assert _student(3.290527, freedom) == pytest.approx(second, rel=1e-2 if freedom > 5 else 5e-2)


def test_a_skew_is_named_with_its_sources():
    pairs = [("novels", "she was in the kitchen"), ("novels", "he was at sea")] * 40
    pairs += [("news", "she spoke . he spoke")] * 9
    skews = _counted(pairs).summary()["skews"]
    assert [(row["group"], row["near"]) for row in skews] == [("women", "family")]
    assert skews[0]["sources"] == {"novels": 40} and skews[0]["low"] > 1
    even = [("a", "she was in the kitchen"), ("a", "he was in the kitchen")] * 40
    assert _counted(even).summary()["skews"] == []
    assert _counted(pairs[:8]).summary()["skews"] == []


def test_the_lists_that_ship_can_all_be_counted():
    for name in (*SHIPPED_GROUPS, "attributes"):
        for group, words in read_lexicon(name).items():
            assert words and len(set(words)) == len(words), group
    for name in SHIPPED_GROUPS:
        words = [word for group in read_lexicon(name).values() for word in group]
        assert len(set(words)) == len(words), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cat\n[pets]\n", "before the first group"),
        (b"[pets]\ncat well-known\n", "'well-known' is not one word"),
        (b"[pets\ncat\n", "before the first group"),
        (b"[pets]\n[wild]\nwolf\n", "'pets' has no words"),
        (b"# nothing\n", "names no group"),
        (b"[pets]\n\xff\n", "cannot be read"),
    ],
)
def test_a_list_that_would_count_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "own.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_lexicon(str(tmp_path / "own.txt"))


def test_lists_of_ones_own(tmp_path):
    own, same = tmp_path / "pets.txt", tmp_path / "other" / "pets.txt"
    same.parent.mkdir()
    for path in (own, same):
        path.write_text("\ufeff  # mine\n[cats]\nCat cats\n[dogs]\ndog dogs\n")
    counter = _counted([("a", "A cat is good")], BiasConfig(groups=(str(own),)))
    assert counter.mentions == {("a", "pets", "cats"): 1}
    with pytest.raises(DataError, match="two lists are called 'pets'"):
        _counted([("a", "x")], BiasConfig(groups=(str(own), str(same))))
    with pytest.raises(DataError, match="cannot be read"):
        read_lexicon(str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="cannot be added"):
        Counter().merge(counter)
    with pytest.raises(ValueError, match="window_words"):
        BiasConfig(window_words=0)


def test_time_grows_in_line_with_the_text():
    growth.assert_in_line(lambda text: Counter().add(text, "a"), "she was at home and he was old ")
