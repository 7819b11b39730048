"""One seed, many independent uses; permutations as functions."""

import itertools
import math

import numpy as np
import pytest

from preceptor.core.seeds import KeyedPermutation, derive, numpy_generator


def test_derive_is_fixed_for_ever() -> None:
    # A change here changes every run. Oracle: printf '[0,"data",3]' | sha256sum, of which the first 63 bits count.
    assert derive(0) == 0xD0BCA111F8628137 >> 1
    assert derive(0, "data", 3) == 0xFAE1111AE46ECCC7 >> 1


def test_derive_tells_names_apart() -> None:
    seeds = [
        derive(0),
        derive(1),
        derive(0, "a"),
        derive(0, "b"),
        derive(0, "a", "b"),
        derive(0, "ab"),
        derive(0, "b", "a"),
    ]
    seeds += [derive(0, 1), derive(0, "1"), derive(-1), derive(0, 1, 1), derive(0, 11)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_generators_repeat_and_differ() -> None:
    first, again, other = (numpy_generator(0, name).random(8) for name in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_permutation_is_fixed_for_ever() -> None:
    # A change here changes the order of the data, so no run could be resumed by the next version.
    assert [KeyedPermutation(10, 0)(place) for place in range(10)] == [7, 6, 9, 0, 1, 4, 5, 3, 2, 8]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 1000, 4096])
def test_a_permutation_takes_every_value_once(size: int) -> None:
    for key in range(3):
        permutation = KeyedPermutation(size, key)
        values = permutation.many(np.arange(size))
        assert values.dtype == np.int64
        assert np.array_equal(np.sort(values), np.arange(size))
        assert [permutation(place) for place in range(size)] == values.tolist()
        assert [permutation.inverse(value) for value in values.tolist()] == list(range(size))
    assert len(KeyedPermutation(size, 0)) == size


@pytest.mark.parametrize("size", [3, 4, 5])
def test_small_permutations_are_all_about_equally_likely(size: int) -> None:
    num_keys = 2400
    counts = dict.fromkeys(itertools.permutations(range(size)), 0)
    for key in range(num_keys):
        permutation = KeyedPermutation(size, key)
        counts[tuple(permutation(place) for place in range(size))] += 1
    expected = num_keys / math.factorial(size)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(counts) - 1
    # Six standard deviations of the chi-squared distribution; the keys are fixed, so this never flickers.
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def test_neighbours_are_scattered() -> None:
    size = 100_000
    values = KeyedPermutation(size, 7).many(np.arange(size)).astype(float)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(size), values)[0, 1]) < 0.02
    # Every tenth of the places draws about equally from every tenth of the values.
    table, _, _ = np.histogram2d(np.arange(size), values, bins=10)
    assert abs(table - size / 100).max() < 6 * math.sqrt(size / 100)


def test_keys_give_different_permutations() -> None:
    places = np.arange(1000)
    first, second = KeyedPermutation(1000, 1).many(places), KeyedPermutation(1000, 2).many(places)
    assert (first == second).sum() < 10


def test_a_huge_permutation_costs_nothing() -> None:
    permutation = KeyedPermutation((1 << 62) - 57, 3)
    for place in (0, 1, (1 << 62) - 58):
        assert permutation.inverse(permutation(place)) == place
        assert permutation.many(np.array([place])).tolist() == [permutation(place)]


def test_many_keeps_the_shape_and_accepts_nothing() -> None:
    permutation = KeyedPermutation(6, 0)
    assert permutation.many(np.arange(6).reshape(2, 3)).shape == (2, 3)
    assert permutation.many(np.array([], dtype=np.int64)).shape == (0,)
    assert permutation.many(np.arange(6, dtype=np.uint8)).tolist() == permutation.many(np.arange(6)).tolist()


def test_places_outside_are_refused() -> None:
    permutation = KeyedPermutation(6, 0)
    for place in (-1, 6):
        with pytest.raises(IndexError):
            permutation(place)
        with pytest.raises(IndexError):
            permutation.inverse(place)
        with pytest.raises(IndexError):
            permutation.many(np.array([0, place]))
    for size in (0, -1, (1 << 62) + 1):
        with pytest.raises(ValueError, match="size must be"):
            KeyedPermutation(size, 0)
    assert repr(permutation) == "KeyedPermutation(size=6, key=0)"
