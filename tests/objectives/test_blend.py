"""Blended rows: each row of one source, each source at its share, and every row found again from its step."""

import numpy as np
import pytest

from preceptor.data.mixture import Mixture
from preceptor.objectives.batch import Batches, Blend
from preceptor.objectives.causal import CausalObjective
from preceptor.tokenizer.stream import TokenStream

SIZES = [(0, 40), (1, 25), (0, 9), (2, 70), (1, 3), (2, 12), (2, 31)] * 5


def objective(by_source=True):
    offsets = np.cumsum([0, *(size for _, size in SIZES)]).astype(np.int64)
    sources = np.array([source for source, _ in SIZES], np.uint16)
    stream = TokenStream(
        np.arange(offsets[-1], dtype=np.uint16),
        offsets,
        np.array([f"{n:016x}" for n in range(len(SIZES))], "S16"),
        0,
        sources=sources,
        collections=["a", "b", "c"],
    )
    return CausalObjective(stream, 16, 0, by_source=by_source)


def test_a_row_holds_one_source_only_and_no_token_is_lost():
    blended = objective()
    ranges = blended.source_ranges()
    assert sum(count for _, count in ranges) == blended.num_rows
    tokens = []
    for source, (first, count) in enumerate(ranges):
        for row in range(first, first + count):
            for piece in blended.plan.row(row):
                start, length = int(blended.plan.starts[piece]), int(blended.plan.lengths[piece])
                document = np.searchsorted(blended.stream.offsets, start, "right") - 1
                assert blended.stream.sources[document] == source
                tokens += range(start, start + length)
    assert sorted(tokens) == list(range(blended.stream.num_tokens))


@pytest.mark.parametrize("by_source", [False, True])
def test_the_steps_of_a_row_are_those_that_drew_it(by_source):
    made = objective(by_source)
    blend = Blend(Mixture([1, 5, 2], 9), made.source_ranges()) if by_source else None
    batches = Batches(made, 4, 3, 3, blend)
    drawn = [batches.rows(step) for step in range(400)]
    for row in range(made.num_rows):
        assert batches.steps_of(row, 400) == [step for step, rows in enumerate(drawn) for each in rows if each == row]


def test_a_small_source_is_repeated_in_epochs_of_its_own_and_its_share_holds():
    made = objective()
    batches = Batches(made, 4, 8, 8, Blend(Mixture([1, 5, 2], 9), made.source_ranges()))
    rows = [row for step in range(512) for row in batches.rows(step)]
    for (first, count), share in zip(made.source_ranges(), (1 / 8, 5 / 8, 2 / 8), strict=True):
        own = [row for row in rows if first <= row < first + count]
        assert abs(len(own) - share * len(rows)) <= 1
        times = np.bincount(np.array(own) - first, minlength=count)
        assert times.max() - times.min() <= 1
