"""Packing loses no token and mixes no documents, for any lengths."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.nn.losses import IGNORED
from preceptor.objectives.packing import PADDING_SEGMENT, collate_rows, plan_rows

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def stream(lengths):
    """Documents whose tokens tell who they are and where: document * 100 + place; 0 closes each."""
    documents = [[100 * (i + 1) + place for place in range(n - 1)] + [0] for i, n in enumerate(lengths)]
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    return np.array([token for document in documents for token in document], np.uint32), offsets


@given(LENGTHS, st.integers(1, 24))
@settings(deadline=None, max_examples=150)
def test_every_token_is_supervised_exactly_once(lengths, row_length):
    tokens, offsets = stream(lengths)
    plan = plan_rows(offsets, row_length)
    batch = collate_rows(plan, range(plan.num_rows), tokens, 0)
    labels = batch.labels_BT[batch.labels_BT != IGNORED]
    assert sorted(labels.tolist()) == sorted(tokens.tolist())
    assert plan.fill == labels.numel() / batch.labels_BT.numel()


@given(LENGTHS, st.integers(2, 24))
@settings(deadline=None, max_examples=150)
def test_each_token_follows_its_own_predecessor_within_its_own_segment(lengths, row_length):
    tokens, offsets = stream(lengths)
    plan = plan_rows(offsets, row_length)
    batch = collate_rows(plan, range(plan.num_rows), tokens, 0)
    real = batch.inputs.segments_BT != PADDING_SEGMENT
    assert torch.equal(real, batch.labels_BT != IGNORED)
    for row in range(real.shape[0]):
        for place in range(int(real[row].sum())):
            before, label = int(batch.tokens_BT[row, place]), int(batch.labels_BT[row, place])
            position = int(batch.inputs.positions_BT[row, place])
            if label > 0 and label % 100 > 0:
                assert before == label - 1
            if label > 0 and label % 100 == 0:
                assert before == 0 and position == 0
            if position:
                assert batch.inputs.segments_BT[row, place] == batch.inputs.segments_BT[row, place - 1]
                assert position == int(batch.inputs.positions_BT[row, place - 1]) + 1
            elif place:
                assert batch.inputs.segments_BT[row, place] != batch.inputs.segments_BT[row, place - 1]


def test_long_and_short_documents_fill_rows_without_padding_where_they_can():
    plan = plan_rows(np.cumsum([0, 16, 10, 6, 8, 8, 40]).astype(np.int64), 16)
    assert plan.fill == 88 / 96
    assert plan.num_rows == 6


def test_unsupervised_tokens_are_read_but_not_learned():
    tokens, offsets = stream([5, 4])
    supervised = np.array([False, False, True, True, True, False, True, True, True])
    batch = collate_rows(plan_rows(offsets, 9), [0], tokens, 0, supervised)
    assert int((batch.labels_BT != IGNORED).sum()) == 6
    assert batch.tokens_BT[0, 1] == tokens[0]
