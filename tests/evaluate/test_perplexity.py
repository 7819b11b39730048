"""Every token is predicted exactly once, from the right context, whatever the batch and whatever the length."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from preceptor.evaluate import perplexity
from preceptor.evaluate.perplexity import document_losses, windows

END_OF_TEXT = 0


def random_documents(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 40, length).tolist() for length in lengths]


def one_by_one(model, document, context):
    """Losses and hits of a document, each token from one call of the model of its own."""
    labels = [*document, END_OF_TEXT]
    inputs = [END_OF_TEXT, *document]
    losses, hits = [], []
    for place, label in enumerate(labels):
        (window,) = [w for w in windows(len(labels), context) if w.first <= place < w.end]
        logits = model.logits(torch.tensor([inputs[window.start : place + 1]]))[0, -1]
        losses.append(-torch.log_softmax(logits.double(), 0)[label].item())
        hits.append(int(logits.argmax()) == label)
    return sum(losses), sum(hits)


@given(st.integers(1, 300), st.integers(1, 64))
def test_windows_score_every_label_once_with_half_the_context_before_it(length, context):
    spans = windows(length, context)
    scored = [place for window in spans for place in range(window.first, window.end)]
    assert scored == list(range(length))
    for window in spans:
        assert 0 <= window.start <= window.first < window.end
        assert window.end - window.start <= context
        assert window.first - window.start >= min(window.first, context - max(1, context // 2))


def test_a_context_of_nothing_is_refused():
    with pytest.raises(ValueError, match="context"):
        windows(5, 0)


@pytest.mark.parametrize("context", [4, 16, 64])
def test_losses_are_those_of_one_token_at_a_time(model, stream_of, context):
    documents = random_documents([1, 3, 15, 16, 17, 40, 5])
    found = document_losses(model, stream_of(documents), END_OF_TEXT, context)
    expected = [one_by_one(model, document, context) for document in documents]
    np.testing.assert_allclose(found.nats, [nats for nats, _ in expected], rtol=1e-5)
    assert found.correct.tolist() == [hits for _, hits in expected]
    assert found.tokens.tolist() == [len(document) + 1 for document in documents]


def test_the_batch_makes_no_difference(model, stream_of, monkeypatch):
    stream = stream_of(random_documents([30, 2, 9, 70, 1, 25, 8], seed=3))
    results = []
    for size in (1, 50, 100_000):
        monkeypatch.setattr(perplexity, "_TOKENS_PER_BATCH", size)
        results.append(document_losses(model, stream, END_OF_TEXT, 16))
    for other in results[1:]:
        np.testing.assert_allclose(other.nats, results[0].nats, rtol=1e-5)
        assert other.correct.tolist() == results[0].correct.tolist()


def test_a_documents_losses_do_not_depend_on_its_neighbours(model, stream_of):
    first, *others = random_documents([20, 9, 33])
    alone = document_losses(model, stream_of([first]), END_OF_TEXT, 16)
    among = document_losses(model, stream_of([others[0], first, others[1]]), END_OF_TEXT, 16)
    assert among.nats[1] == pytest.approx(alone.nats[0], rel=1e-6)


def test_nothing_is_dropped_out_and_the_mode_is_given_back(model, stream_of):
    stream = stream_of(random_documents([10, 20]))
    expected = document_losses(model, stream, END_OF_TEXT, 16)
    model.train()
    try:
        assert document_losses(model, stream, END_OF_TEXT, 16).nats.tolist() == expected.nats.tolist()
        assert model.training
    finally:
        model.eval()


class _Largest(TorchDispatchMode):
    """The number of values in the largest tensor that any operation makes."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.values = max(self.values, out.numel())
        return out


def test_memory_does_not_grow_with_the_text(model, stream_of, monkeypatch):
    monkeypatch.setattr(perplexity, "_TOKENS_PER_BATCH", 128)
    largest = []
    for copies in (8, 64):
        with _Largest() as watch:
            document_losses(model, stream_of(random_documents([31] * copies)), END_OF_TEXT, 32)
        largest.append(watch.values)
    assert largest[0] == largest[1] < 64 * 32 * 40
