"""Packed and not: the loss of two documents in one row is the sum of theirs alone, and neither sees the other."""

import numpy as np
import pytest
import torch

from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.causal import CausalObjective, language_model_loss
from preceptor.objectives.packing import PADDING_SEGMENT
from preceptor.tokenizer.stream import TokenStream

CONTEXT, VOCAB_SIZE, END = 32, 50, 0
CONFIG = DecoderConfig(
    vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=CONTEXT, zero_init_outputs=False,
    initializer_range=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build(CONFIG, torch.Generator().manual_seed(1)).double().eval()


def objective_of(documents):
    closed = [[*document, END] for document in documents]
    offsets = np.cumsum([0, *map(len, closed)]).astype(np.int64)
    flat = np.array([token for document in closed for token in document], np.uint16)
    return CausalObjective(TokenStream(flat, offsets, [str(n) for n in range(len(closed))], 100), CONTEXT, END)


def drawn(lengths, seed):
    draw = np.random.default_rng(seed)
    return [draw.integers(1, VOCAB_SIZE, length).tolist() for length in lengths]


@pytest.mark.parametrize("lengths", [(15, 15), (10, 3), (1, 29), (4, 9, 2, 12)])
def test_the_loss_of_packed_documents_is_the_sum_of_theirs(model, lengths):
    documents = drawn(lengths, sum(lengths))
    packed = objective_of(documents)
    assert packed.num_rows == 1
    batch = packed.collate([0])
    together = language_model_loss(model, batch)
    alone = [objective_of([document]) for document in documents]
    losses = [language_model_loss(model, each.collate([0])) for each in alone]
    assert together.tokens == sum(loss.tokens for loss in losses) == sum(lengths) + len(lengths)
    assert together.total.item() == pytest.approx(sum(loss.total.item() for loss in losses), rel=1e-10)
    segments, positions = batch.inputs.segments_BT[0], batch.inputs.positions_BT[0]
    for segment in set(segments.tolist()) - {PADDING_SEGMENT}:
        assert positions[segments == segment].tolist() == list(range(int((segments == segment).sum())))


def test_another_first_document_leaves_the_logits_of_the_second_bit_identical(model):
    (first, other), (second,) = drawn((13, 13), 1), drawn((11,), 2)
    seen = []
    for document in (first, other):
        batch = objective_of([document, second]).collate([0])
        labels = batch.labels_BT[0].tolist()
        start = labels.index(second[0], 14)
        assert labels[start : start + 12] == [*second, END] and labels[start + 12 :] == [IGNORED] * 6
        with torch.no_grad():
            seen.append(model(batch.inputs)[0, start : start + 12])
    assert torch.equal(*seen)
