import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.core.dealing import chunk_part, even_part
from preceptor.core.errors import ConfigError
from preceptor.objectives.batch import microbatches_of
from preceptor.parallel.layout import Piece, owned
from preceptor.parallel.mesh import ALONE
from preceptor.parallel.mesh_config import AXES, MeshConfig, MeshSizes, nearest, sizes_of

LENGTHS = st.integers(1, 4)


@given(st.tuples(LENGTHS, LENGTHS, LENGTHS, LENGTHS))
def test_every_process_has_a_place_of_its_own(lengths):
    sizes = MeshSizes(*lengths)
    places = [sizes.coordinates(rank) for rank in range(sizes.world)]
    assert len(set(places)) == sizes.world
    assert all(0 <= getattr(place, axis) < getattr(sizes, axis) for place in places for axis in AXES)


def test_neighbouring_ranks_are_neighbours_in_tensor():
    sizes = MeshSizes(pipeline=2, replicate=1, shard=2, tensor=2)
    assert [sizes.coordinates(rank).tensor for rank in range(4)] == [0, 1, 0, 1]
    assert [sizes.coordinates(rank).pipeline for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_what_is_left_over_is_copies():
    assert sizes_of(MeshConfig(tensor=2), 8) == MeshSizes(replicate=4, tensor=2)
    assert sizes_of(MeshConfig(), 1) == MeshSizes()


@given(LENGTHS, LENGTHS, LENGTHS, st.integers(1, 24))
def test_the_nearest_mesh_has_the_right_size(shard, tensor, pipeline, world):
    found = nearest(MeshConfig(shard=shard, tensor=tensor, pipeline=pipeline), world)
    assert found.world == world
    assert tensor % found.tensor == 0


def test_a_mesh_that_does_not_fit_is_refused_with_one_that_does():
    with pytest.raises(ConfigError) as refused:
        sizes_of(MeshConfig(tensor=4), 6)
    assert "tensor 4" in str(refused.value)
    assert "mesh.tensor = 2" in refused.value.remedy
    assert "mesh.replicate = 3" in refused.value.remedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"tensor": 0},
        {"replicate": -1},
        {"timeout_seconds": 0},
        {"sequence_parallel": True},
        {"schedule": "interleaved", "pipeline": 2},
        {"schedule": "interleaved", "stages_per_process": 2},
        {"stages_per_process": 2, "pipeline": 2},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"mesh|must|need|set"):
        MeshConfig(**wrong)


@pytest.mark.parametrize("part", [even_part, chunk_part])
@given(size=st.integers(0, 40), parts=st.integers(1, 9))
def test_parts_are_all_of_it_in_order(part, size, parts):
    found = [part(size, parts, place) for place in range(parts)]
    elements = [range(start, start + length) for start, length in found]
    assert list(itertools.chain(*elements)) == list(range(size))


@given(rows=st.integers(1, 40), most=st.integers(1, 9), shares=st.integers(1, 8))
def test_shares_of_a_step_have_all_rows_and_as_many_micro_batches(rows, most, shares):
    if rows < shares:
        with pytest.raises(ValueError, match=f"{rows} rows"):
            microbatches_of(rows, most, (0, shares))
        return
    found = [microbatches_of(rows, most, (number, shares)) for number in range(shares)]
    assert len({len(share) for share in found}) == 1
    assert [row for share in found for first, end in share for row in range(first, end)] == list(range(rows))
    assert all(0 < end - first <= most + (shares > 1) for share in found for first, end in share)


@given(st.data())
def test_pieces_overlap_where_both_hold_an_element(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=3))

    def piece():
        found = Piece.whole(shape)
        for dim, size in enumerate(shape):
            start = data.draw(st.integers(0, size))
            found = found.cut(dim, start, data.draw(st.integers(0, size - start)), "tensor")
        return found

    def elements(each):
        ranges = zip(each.starts, each.lengths, strict=True)
        return set(itertools.product(*(range(start, start + length) for start, length in ranges)))

    one, other = piece(), piece()
    common = one.overlap(other)
    both = elements(one) & elements(other)
    assert (common is not None) == bool(both)
    if common is not None:
        assert set(itertools.product(*(range(each.start, each.stop) for each in common))) == both
        assert all(0 <= each.start <= each.stop <= n for each, n in zip(one.within(common), one.lengths, strict=True))


def test_of_all_copies_one_is_owned():
    sizes = MeshSizes(replicate=2, shard=2, tensor=2)
    whole = Piece.whole((4,), frozenset({"replicate", "shard", "tensor"}))
    cut = whole.cut(0, 0, 2, "tensor")
    owners = []
    for rank in range(sizes.world):
        place = sizes.coordinates(rank)
        owners.append(owned({"whole": whole, "cut": cut}, {axis: getattr(place, axis) for axis in AXES}))
    assert [each["whole"] for each in owners].count(True) == 1
    assert [each["cut"] for each in owners].count(True) == 2


def test_alone_everything_is_ones_own():
    assert ALONE.summed([1.5, 2]) == [1.5, 2]
    assert ALONE.gathered("a") == ["a"]
    assert ALONE.dealt([1, 2, 3]) == [(1, True), (2, True), (3, True)]
    assert ALONE.share == (0, 1)
