"""Blended sources: exact shares, no memory, and caps that hold."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError
from preceptor.data.mixture import Ingredient, Mixture, MixtureConfig, shares

WEIGHTS = MixtureConfig(kind="weights")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.integers(0, 1 << 40))
@settings(deadline=None, max_examples=30)
def test_every_draw_of_every_source_has_one_place(weights, seed):
    mixture = Mixture(weights, seed)
    seen = [mixture.at(place) for place in range(2100)]
    for source, number in Counter(source for source, _ in seen).items():
        assert weights[source] > 0
        # At the end of the second block a source is within one draw of its share.
        drawn = sum(each == source for each, _ in seen[:2048])
        assert abs(drawn - 2048 * weights[source] / sum(weights)) <= 1
        assert {count for each, count in seen[:2048] if each == source} == set(range(drawn))
        assert number >= drawn
    for place in range(0, 2100, 37):
        assert mixture.place_of(*seen[place]) == place
        assert mixture.earliest(*seen[place]) <= place


def test_a_place_far_out_needs_nothing_that_came_before():
    mixture = Mixture([5, 3, 2], 1)
    place = 10**12 + 7
    source, number = mixture.at(place)
    assert mixture.place_of(source, number) == place
    assert abs(number - place * [0.5, 0.3, 0.2][source]) < 1024
    assert mixture.at(place) == Mixture([5, 3, 2], 1).at(place) != Mixture([5, 3, 2], 2).at(place)


def test_a_source_without_a_share_is_never_drawn():
    mixture = Mixture([1, 0, 1], 3)
    assert {mixture.at(place)[0] for place in range(500)} == {0, 2}
    with pytest.raises(IndexError, match="no share"):
        mixture.place_of(1, 0)


def test_weights_and_temperature_and_size_give_the_shares_of_their_papers():
    two = [Ingredient("small", 100, weight=3), Ingredient("large", 10_000, weight=1)]
    assert shares(WEIGHTS, two, 1000) == pytest.approx([0.75, 0.25])
    assert shares(MixtureConfig(kind="proportional"), two, 1000) == pytest.approx([100 / 10_100, 10_000 / 10_100])
    # Square roots of the sizes at temperature 2: 10 to 100.
    assert shares(MixtureConfig(kind="temperature", temperature=2), two, 1000) == pytest.approx([10 / 110, 100 / 110])


def test_a_cap_on_epochs_holds_and_the_others_take_what_it_leaves():
    three = [Ingredient("a", 100, 6, max_epochs=2), Ingredient("b", 1000, 3), Ingredient("c", 1000, 1)]
    found = shares(WEIGHTS, three, 1000)
    assert [round(share * 1000) for share in found] == [200, 600, 200]
    assert sum(found) == pytest.approx(1)


def test_caps_that_cannot_give_enough_are_refused_with_what_they_give():
    with pytest.raises(DataError, match=r"give 300 samples .* takes 1,000") as error:
        shares(WEIGHTS, [Ingredient("a", 100, 1, max_epochs=2), Ingredient("b", 100, 1, max_epochs=1)], 1000)
    assert "max_epochs" in error.value.remedy
    with pytest.raises(DataError, match="no source"):
        shares(WEIGHTS, [Ingredient("a", 0), Ingredient("b", 10, weight=0)], 10)


def test_a_temperature_below_one_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        MixtureConfig(temperature=0.5)
