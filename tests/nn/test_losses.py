"""The chunked loss against PyTorch's own."""

import pytest
import torch
from torch.nn import functional as F

from preceptor.nn import losses


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 7)


def case():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 11, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(29, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 29, (3, 11), generator=generator)
    labels[0, 3:9] = losses.IGNORED
    return hidden, weight, labels


def test_loss_and_gradients_equal_the_whole_computation():
    hidden, weight, labels = case()
    total, correct, count = losses.cross_entropy_sum(hidden, weight, labels)
    (total * 0.25).backward()
    gradients = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logits = hidden @ weight.t()
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    (expected * 0.25).backward()
    kept = labels != losses.IGNORED
    assert count == int(kept.sum())
    assert int(correct) == int((logits.argmax(-1) == labels)[kept].sum())
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[0], hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[1], weight.grad, rtol=1e-5, atol=1e-6)


def test_token_losses_sum_to_the_loss_and_are_zero_where_not_supervised():
    hidden, weight, labels = case()
    each, hits = losses.token_losses(hidden, weight, labels)
    total, correct, _ = losses.cross_entropy_sum(hidden, weight, labels)
    torch.testing.assert_close(each.sum(), total.detach(), rtol=1e-5, atol=1e-5)
    assert int(hits.sum()) == int(correct)
    assert (each[labels == losses.IGNORED] == 0).all()


def test_a_batch_without_labels_gives_zero_and_no_error():
    hidden, weight, labels = case()
    total, _, count = losses.cross_entropy_sum(hidden, weight, torch.full_like(labels, losses.IGNORED))
    assert total.item() == 0 and count == 0


def test_a_frozen_output_layer_gets_no_gradient():
    hidden, weight, labels = case()
    weight.requires_grad_(False)
    losses.cross_entropy_sum(hidden, weight, labels)[0].backward()
    assert weight.grad is None and hidden.grad is not None
