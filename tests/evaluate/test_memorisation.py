"""Recitation and loss gap: a model that knows its documents by heart is found out, an honest one is cleared."""

import json

import numpy as np
import pytest
import torch

from preceptor.evaluate.memorisation import CONTINUATION_TOKENS, PREFIX_TOKENS, loss_gap, recitation_gap, recite
from preceptor.evaluate.perplexity import DocumentLosses, document_losses, sample_documents
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.nn.inputs import Inputs

END_OF_TEXT = 0
LONG = PREFIX_TOKENS + CONTINUATION_TOKENS


def random_documents(count, length=LONG + 6, seed=0):
    return np.random.default_rng(seed).integers(1, 40, (count, length)).tolist()


def by_heart(documents):
    """A model that continues known starts with the truth and unknown ones with a token that no document holds."""
    known = {tuple(document[:PREFIX_TOKENS]): document[PREFIX_TOKENS:LONG] for document in documents}

    def continue_greedily(prompts):
        assert all(prompt[0] == END_OF_TEXT and len(prompt) == PREFIX_TOKENS + 1 for prompt in prompts)
        return [known.get(tuple(prompt[1:]), [99] * CONTINUATION_TOKENS) for prompt in prompts]

    return continue_greedily


def test_what_is_known_by_heart_is_recited_and_what_is_not_is_not(stream_of):
    known, unknown = random_documents(20), random_documents(20, seed=1)
    model = by_heart(known)
    found = recite(stream_of(known), model, END_OF_TEXT, 20, seed=0)
    assert found.exact.value == 1.0 and found.matching_tokens.value == CONTINUATION_TOKENS
    other = recite(stream_of(unknown), model, END_OF_TEXT, 20, seed=0)
    assert other.exact.value == 0.0 and other.matching_tokens.value == 0.0
    assert other.exact.high > 0.1, "20 documents do not prove that none is recited"


@pytest.mark.parametrize(
    ("given", "matching", "exact"),
    [
        (lambda truth: truth, 32, 1.0),
        (lambda truth: [*truth[:5], 99, *truth[6:]], 5, 0.0),
        (lambda truth: truth[:7], 7, 0.0),
        (lambda truth: [], 0, 0.0),
        (lambda truth: [99, *truth[1:]], 0, 0.0),
    ],
)
def test_matching_tokens_end_at_the_first_that_differs(stream_of, given, matching, exact):
    documents = random_documents(1)
    truth = documents[0][PREFIX_TOKENS:LONG]
    found = recite(stream_of(documents), lambda prompts: [given(truth)], END_OF_TEXT, 5, seed=0)
    assert (found.matching_tokens.value, found.exact.value, found.matches) == (matching, exact, [matching])


def test_documents_too_short_to_continue_are_left_out(stream_of):
    short, enough = random_documents(3, LONG - 1), random_documents(2, LONG)
    asked = []
    recite(stream_of([*short, *enough]), lambda p: asked.extend(p) or [[]] * len(p), END_OF_TEXT, 9, seed=0)
    assert sorted(prompt[1:] for prompt in asked) == sorted(document[:PREFIX_TOKENS] for document in enough)
    assert recite(stream_of(short), by_heart([]), END_OF_TEXT, 9, seed=0) is None


def test_the_seed_decides_which_documents_are_asked(stream_of):
    documents = random_documents(50)

    def asked(seed):
        prompts = []
        recite(stream_of(documents), lambda p: prompts.extend(map(tuple, p)) or [[]] * len(p), END_OF_TEXT, 10, seed)
        return prompts

    assert asked(1) == asked(1) != asked(2)
    assert len(set(asked(1))) == 10


def test_the_gap_of_recitation_sees_one_and_only_one(stream_of):
    known, unknown = random_documents(30), random_documents(30, seed=1)
    model = by_heart(known[:15])
    train, validation = (recite(stream_of(part), model, END_OF_TEXT, 30, seed=0) for part in (known, unknown))
    gaps = recitation_gap(train, validation)
    assert gaps["exact"].value == pytest.approx(0.5) and gaps["exact"].low > 0
    assert gaps["matching_tokens"].value == pytest.approx(16.0) and gaps["matching_tokens"].low > 0
    none = recitation_gap(validation, validation)
    assert none["exact"].low <= 0 <= none["exact"].high
    json.dumps(train.facts(), allow_nan=False)


def test_a_model_trained_too_long_on_too_little_shows_both_gaps(stream_of):
    """The whole check on a real model: 12 documents learned by heart, 12 others never seen."""
    documents, unseen = random_documents(12), random_documents(12, seed=1)
    config = DecoderConfig(
        vocab_size=40,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        zero_init_outputs=False,
    )
    model = build(config, torch.Generator().manual_seed(0))
    labels_BT = torch.tensor([[*document, END_OF_TEXT] for document in documents])
    tokens_BT = torch.cat([torch.zeros(12, 1, dtype=torch.int64), labels_BT[:, :-1]], 1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    for _ in range(120):
        loss, _, count = model.loss_sum(Inputs(tokens_BT), labels_BT)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()

    def continue_greedily(prompts):
        rows_BT = torch.tensor(prompts)
        for _ in range(CONTINUATION_TOKENS):
            rows_BT = torch.cat([rows_BT, model.logits(rows_BT)[:, -1:].argmax(-1)], 1)
        return rows_BT[:, PREFIX_TOKENS + 1 :].tolist()

    streams = stream_of(documents), stream_of(unseen)
    train, validation = (recite(stream, continue_greedily, END_OF_TEXT, 12, seed=0) for stream in streams)
    assert train.exact.value > 0.9 and validation.exact.value == 0.0
    gap = loss_gap(*(document_losses(model, stream, END_OF_TEXT, 128) for stream in streams))
    assert gap.low > 1.0


def test_the_loss_gap_is_weighed_by_tokens():
    train = DocumentLosses(np.array([10.0, 2.0]), np.array([10, 2]), np.array([0, 0]))
    validation = DocumentLosses(np.array([9.0, 30.0]), np.array([3, 10]), np.array([0, 0]))
    assert loss_gap(train, validation).value == pytest.approx(39 / 13 - 12 / 12)


def test_a_sample_of_documents_has_about_as_many_tokens_as_asked_for(stream_of):
    stream = stream_of(random_documents(50, length=9))
    chosen = sample_documents(stream, 95, seed=3)
    assert len(chosen) == len(set(chosen)) == 10
    assert chosen == sample_documents(stream, 95, seed=3) != sample_documents(stream, 95, seed=4)
    assert sample_documents(stream, 10**9, seed=0) == list(range(50))


def test_the_losses_of_chosen_documents_are_theirs(stream_of, model):
    stream = stream_of([[1, 2, 3], [4] * 20, [5, 6]])
    everything = document_losses(model, stream, END_OF_TEXT, 8)
    some = document_losses(model, stream, END_OF_TEXT, 8, documents=[2, 1])
    np.testing.assert_allclose(some.nats, everything.nats[[2, 1]], rtol=1e-6)
    assert some.tokens.tolist() == [3, 21]
