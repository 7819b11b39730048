"""Bias in the data: counts that add up, intervals that are right, and skews that name their sources."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError
from preceptor.data.bias import BiasConfig, Counter, rate_ratio, read_lexicon, wilson

TEXTS = [
    ("She is a nurse and loves her home. He runs an office.", "web"),
    ("The women wrote a research paper on physics; men danced.", "books"),
    ("Nothing here speaks of anybody at all.", "web"),
]


def counted(texts, **settings_):
    counter = Counter(BiasConfig(**settings_))
    for text, collection in texts:
        counter.add(text, collection)
    return counter


@given(st.lists(st.sampled_from(TEXTS), max_size=12), st.integers(0, 12))
@settings(deadline=None, max_examples=30)
def test_counts_of_parts_add_up_to_those_of_the_whole(texts, cut):
    whole = counted(texts)
    first, second = counted(texts[:cut]), counted(texts[cut:])
    merged = Counter.from_json(second.to_json(), second.config)
    merged.merge(first)
    assert merged.to_json() == whole.to_json() and merged.summary() == whole.summary()


def test_groups_and_what_stands_near_them_are_counted_by_hand():
    counter = counted(TEXTS, groups=("gender",), window_words=5)
    groups = {row["group"]: row for row in counter.summary()["groups"]}
    # she, her, women; he, men.
    assert (groups["women"]["mentions"], groups["women"]["documents"]) == (3, 2)
    assert (groups["men"]["mentions"], groups["men"]["documents"]) == (2, 2)
    # "she" stands seven words before "home", "her" one.
    assert counter.near[("web", "gender", "women", "family")] == 1
    assert counter.near[("web", "gender", "men", "career")] == 1
    assert counter.near[("books", "gender", "women", "science")] == 1


def test_a_skew_is_named_with_the_sources_behind_it_and_evenness_is_none():
    skewed = [("she cleans the kitchen at home every single day of the week now", "blog")] * 40
    skewed += [("he walks along the river in the rain and sings a song", "blog")] * 40
    skews = counted(skewed, groups=("gender",)).summary()["skews"]
    (found,) = [row for row in skews if (row["group"], row["near"]) == ("women", "family")]
    assert found["ratio"] > found["low"] > 1 and found["high"] > found["ratio"] and found["sources"] == {"blog": 40}
    even = [("she cleans the kitchen at home today", "a"), ("he cleans the kitchen at home today", "b")] * 40
    assert counted(even, groups=("gender",)).summary()["skews"] == []


def test_intervals_are_those_of_their_papers():
    # Worked by hand: 8 of 20 with z = 1.96, and two equal shares.
    low, high = wilson(8, 20)
    assert (low, high) == (pytest.approx(0.2188, abs=2e-4), pytest.approx(0.6134, abs=2e-4))
    assert wilson(0, 0) == (0.0, 1.0) and wilson(0, 50)[0] == 0.0
    ratio, low, high = rate_ratio(50, 100, 50, 100)
    assert ratio == 1 and math.isclose(low * high, 1) and low < 1 < high
    assert rate_ratio(1, 2, 0, 0) is None


def test_lists_of_ones_own_are_read_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "teams.txt"
    path.write_text("# teams\n[red]\nred reds\n[blue]\nblue\n")
    assert read_lexicon(str(path)) == {"red": ("red", "reds"), "blue": ("blue",)}
    counter = counted([("The reds met the blue team.", "x")], groups=(str(path),))
    assert {key[2] for key in counter.mentions} == {"red", "blue"}
    path.write_text("red\n[blue]\n")
    with pytest.raises(DataError, match="before the first group"):
        read_lexicon(str(path))
    for name in ("gender", "religion", "origin", "age", "attributes"):
        assert len(read_lexicon(name)) >= 2
