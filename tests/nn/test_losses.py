"""The chunked loss against PyTorch's own on all logits."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from preceptor.nn import losses

WIDTH, VOCABULARY = 16, 29
OPTIONS = [
    pytest.param(*values, id=f"bias={values[0]}-softcap={values[1]}-smoothing={values[2]}-z={values[3]}")
    for values in itertools.product((False, True), (None, 3.0), (0.0, 0.1), (0.0, 0.02))
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 7)


def case(dtype=torch.float64, rows=3, tokens=11, width=WIDTH, vocabulary=VOCABULARY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, tokens, width), (vocabulary, width), (vocabulary,))
    )
    labels = torch.randint(0, vocabulary, (rows, tokens), generator=generator)
    labels[0, 3:9] = losses.IGNORED
    return hidden, weight, bias, labels


def whole(hidden, weight, labels, bias_V=None, softcap=None, label_smoothing=0.0, z_loss=0.0):
    logits = F.linear(hidden, weight, bias_V).flatten(0, 1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    loss = F.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=label_smoothing)
    return loss + z_loss * logits.logsumexp(1)[labels.flatten() != losses.IGNORED].square().sum()


def gradients_of(loss, *leaves):
    gradients = torch.autograd.grad(loss, leaves)
    return [gradient.double() for gradient in gradients]


def largest_difference(ours, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("has_bias", "softcap", "smoothing", "z_loss"), OPTIONS)
def test_loss_and_gradients_equal_the_whole_computation(dtype, has_bias, softcap, smoothing, z_loss):
    hidden, weight, bias, labels = case(dtype)
    leaves = (hidden, weight, bias) if has_bias else (hidden, weight)
    options = {"bias_V": bias if has_bias else None, "softcap": softcap}
    options |= {"label_smoothing": smoothing, "z_loss": z_loss}
    total, correct, count = losses.cross_entropy_sum(hidden, weight, labels, **options)
    expected = whole(hidden, weight, labels, **options)
    kept = labels != losses.IGNORED
    hits = F.linear(hidden, weight, options["bias_V"]).argmax(-1) == labels
    assert total.dtype == dtype and total.dim() == 0
    assert count == int(kept.sum()) and int(correct) == int(hits[kept].sum())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert total.item() == pytest.approx(expected.item(), rel=tolerance)
    ours, theirs = gradients_of(total * 0.25, *leaves), gradients_of(expected * 0.25, *leaves)
    assert largest_difference(ours, theirs) < tolerance


@pytest.mark.parametrize(("has_bias", "softcap", "smoothing", "z_loss"), OPTIONS)
def test_gradients_are_those_of_finite_differences(has_bias, softcap, smoothing, z_loss):
    hidden, weight, bias, labels = case(rows=2, tokens=10, width=3, vocabulary=5)

    def loss(hidden, weight, bias):
        options = {"bias_V": bias if has_bias else None, "softcap": softcap}
        return losses.cross_entropy_sum(hidden, weight, labels, **options, label_smoothing=smoothing, z_loss=z_loss)[0]

    leaves = (hidden, weight, bias if has_bias else bias.detach())
    assert torch.autograd.gradcheck(loss, leaves)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(9, 20),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from([None, 4.0]),
    st.integers(0, 99),
)
def test_the_size_of_a_chunk_changes_nothing(rows, tokens, width, vocabulary, chunk, softcap, seed):
    hidden, weight, bias, labels = case(torch.float32, rows, tokens, width, vocabulary, seed)
    results = []
    for chunk_tokens, chunk_bytes in ((10_000, 2**40), (chunk, 2**40), (10_000, chunk * vocabulary * 4), (10_000, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "CHUNK_TOKENS", chunk_tokens)
            patch.setattr(losses, "CHUNK_BYTES", chunk_bytes)
            options = {"bias_V": bias, "softcap": softcap}
            total, correct, _ = losses.cross_entropy_sum(hidden, weight, labels, **options, z_loss=0.01)
            results.append((total.double(), int(correct), gradients_of(total, hidden, weight, bias)))
    for total, correct, gradients in results[1:]:
        assert correct == results[0][1]
        torch.testing.assert_close(total, results[0][0], rtol=1e-6, atol=1e-6)
        for ours, expected in zip(gradients, results[0][2], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6 * max(1.0, float(expected.abs().max())))


def test_chunks_keep_to_their_bytes(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 100)
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * VOCABULARY * 6)
    _, weight, bias, _ = case(torch.float32)
    for options, dtype, expected in (
        (losses._Options(), torch.float32, 6),
        (losses._Options(softcap=3.0), torch.float32, 3),
        (losses._Options(), torch.bfloat16, 4),
    ):
        chunks = losses._Pass(weight, bias, options, dtype).chunks(20)
        assert {chunk.stop - chunk.start for chunk in chunks[:-1]} == {expected}
        assert [token for chunk in chunks for token in range(chunk.start, chunk.stop)] == list(range(20))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("has_bias", [False, True])
def test_token_losses_are_those_of_each_token(has_bias, softcap):
    hidden, weight, bias, labels = case()
    options = {"bias_V": bias if has_bias else None, "softcap": softcap}
    each, hits = losses.token_losses(hidden, weight, labels, **options)
    logits = F.linear(hidden, weight, options["bias_V"])
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(each, expected.detach(), rtol=1e-12, atol=1e-12)
    total, correct, _ = losses.cross_entropy_sum(hidden, weight, labels, **options)
    torch.testing.assert_close(each.sum(), total.detach(), rtol=1e-12, atol=1e-12)
    assert int(hits.sum()) == int(correct)
    ignored = labels == losses.IGNORED
    assert (each[ignored] == 0).all() and not hits[ignored].any()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_to_the_truth_as_pytorch_itself(autocast):
    exact = case(torch.float32, rows=4, tokens=64)
    leaves = exact[:3] if autocast else case(torch.bfloat16, rows=4, tokens=64)[:3]
    labels = exact[3]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total = losses.cross_entropy_sum(*leaves[:2], labels, bias_V=leaves[2])[0]
        theirs = whole(*leaves[:2], labels, leaves[2])
    assert total.dtype == torch.float32
    ours = torch.autograd.grad(total * 0.01, leaves)
    assert [gradient.dtype for gradient in ours] == [leaf.dtype for leaf in leaves]
    truth = whole(*(leaf.detach().double() for leaf in leaves[:2]), labels, leaves[2].detach().double())
    assert total.item() == pytest.approx(truth.item(), rel=2e-3)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = gradients_of(whole(*doubles[:2], labels, doubles[2]) * 0.01, *doubles)
    reached = gradients_of(theirs * 0.01, *leaves)
    for gradient, reference, true in zip(ours, reached, expected, strict=True):
        our_error, their_error = ((each.double() - true).norm() / true.norm() for each in (gradient, reference))
        assert our_error < 1.1 * their_error + 1e-3


def test_autocast_leaves_float64_alone():
    hidden, weight, _, labels = case()
    with torch.autocast("cpu", torch.bfloat16):
        total = losses.cross_entropy_sum(hidden, weight, labels)[0]
    assert total.item() == pytest.approx(whole(hidden, weight, labels).item(), rel=1e-12)


def test_many_chunks_of_bfloat16_add_up_in_float32(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 1)
    hidden = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    losses.cross_entropy_sum(hidden, weight, torch.zeros(1, 4096, dtype=torch.long))[0].backward()
    assert weight.grad.flatten().tolist() == [-2048, 2048]  # a sum in bfloat16 stops growing at 128


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(wanted):
    *leaves, labels = case()
    expected = gradients_of(losses.cross_entropy_sum(*leaves[:2], labels, bias_V=leaves[2])[0], *leaves)
    for leaf, wants in zip(leaves, wanted, strict=True):
        leaf.requires_grad_(wants)
    losses.cross_entropy_sum(*leaves[:2], labels, bias_V=leaves[2])[0].backward()
    for leaf, wants, gradient in zip(leaves, wanted, expected, strict=True):
        assert (leaf.grad is not None) == wants
        assert not wants or torch.equal(leaf.grad, gradient)


def test_without_gradients_none_are_computed(monkeypatch):
    hidden, weight, _, labels = case()
    expected = losses.cross_entropy_sum(hidden, weight, labels)[0]
    monkeypatch.setattr(losses._Pass, "gradient", lambda *_: pytest.fail("a gradient was computed"))
    with torch.no_grad():
        total = losses.cross_entropy_sum(hidden, weight, labels)[0]
    assert torch.equal(total, expected.detach()) and not total.requires_grad


def test_a_batch_without_labels_gives_zero_and_gradients_of_zero():
    hidden, weight, bias, labels = case()
    nothing = torch.full_like(labels, losses.IGNORED)
    total, correct, count = losses.cross_entropy_sum(hidden, weight, nothing, bias_V=bias, z_loss=0.1, softcap=2.0)
    assert total.item() == 0 and int(correct) == 0 and count == 0
    total.backward()
    for leaf in (hidden, weight, bias):
        assert leaf.grad.shape == leaf.shape and not leaf.grad.any()
    each, hits = losses.token_losses(hidden, weight, nothing)
    assert not each.any() and not hits.any()


def test_a_tied_weight_collects_the_gradients_of_both_uses():
    _, weight, _, labels = case()
    tokens = torch.randint(0, VOCABULARY, labels.shape, generator=torch.Generator().manual_seed(1))
    hidden = F.embedding(tokens, weight).tanh()
    ours = gradients_of(losses.cross_entropy_sum(hidden, weight, labels)[0], weight)
    expected = gradients_of(whole(F.embedding(tokens, weight).tanh(), weight, labels), weight)
    assert largest_difference(ours, expected) < 1e-12


def test_gradients_of_two_batches_add_up_and_do_not_share_memory():
    hidden, weight, _, labels = case()
    for scale in (0.5, 2.0):
        (losses.cross_entropy_sum(hidden, weight, labels)[0] * scale).backward()
    expected = gradients_of(whole(hidden, weight, labels) * 2.5, hidden, weight)
    assert largest_difference([hidden.grad, weight.grad], expected) < 1e-12


def test_a_retained_graph_gives_its_gradients_again():
    hidden, weight, _, labels = case()
    total = losses.cross_entropy_sum(hidden, weight, labels, label_smoothing=0.1, softcap=3.0)[0]
    first = torch.autograd.grad(total * 3, (hidden, weight), retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(total, (hidden, weight))
    assert largest_difference([3 * gradient for gradient in second], kept) < 1e-12
    assert all(torch.equal(gradient, copy) for gradient, copy in zip(first, kept, strict=True))


@pytest.mark.parametrize("label", [VOCABULARY, -1, -101, 10**9])
def test_a_label_outside_the_vocabulary_is_refused(label):
    hidden, weight, _, labels = case()
    labels[1, 2] = label
    for loss in (losses.cross_entropy_sum, losses.token_losses):
        with pytest.raises(ValueError, match=rf"label {label} is not in a vocabulary of {VOCABULARY}.*-100"):
            loss(hidden, weight, labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"softcap": 0.0}, "softcap must be above 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1"),
        ({"z_loss": -1.0}, "z_loss must be 0 or above"),
        ({"bias_V": torch.zeros(3)}, "bias of shape"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    hidden, weight, _, labels = case()
    with pytest.raises(ValueError, match=words):
        losses.cross_entropy_sum(hidden, weight, labels, **options)


def test_shapes_that_do_not_fit_are_refused():
    hidden, weight, _, labels = case()
    with pytest.raises(ValueError, match="do not fit labels"):
        losses.cross_entropy_sum(hidden, weight, labels[:, 1:])
    with pytest.raises(ValueError, match="do not fit labels"):
        losses.cross_entropy_sum(hidden, weight[:, 1:], labels)


# PyTorch's compiler itself looks at the gradient of an intermediate result when a graph is interrupted.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_caller_gets_the_same_loss_and_gradients():
    hidden, weight, bias, labels = case(torch.float32)

    def loss(hidden, weight, bias):
        options = {"bias_V": bias, "softcap": 3.0}
        total, correct, count = losses.cross_entropy_sum(hidden.tanh(), weight, labels, **options, z_loss=0.1)
        each, hits = losses.token_losses(hidden.tanh(), weight, labels, **options)
        return total * 2, correct, count, each * 2, hits

    total, *expected = loss(hidden, weight, bias)
    gradients = gradients_of(total, hidden, weight, bias)
    compiled, *reached = torch.compile(loss, backend="aot_eager")(hidden, weight, bias)
    torch.testing.assert_close([compiled, *reached], [total, *expected])
    torch.testing.assert_close(gradients_of(compiled, hidden, weight, bias), gradients)
