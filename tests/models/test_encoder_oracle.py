"""Our encoder against transformers', for every architecture, built from configuration with random weights."""

import json

import pytest
import torch
from oracle import TOLERANCE, assert_same_gradients, randomise, save_pretrained, transformers_model
from torch.nn import functional as F

from preceptor.core.errors import ArtifactError
from preceptor.models.encoder import build
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.interchange import architecture_of, load_model, save_model
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED

VOCAB_SIZE = 97
PADDING = 0
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
BERT = {
    "positions": "learned",
    "type_vocab_size": 2,
    "norm_placement": "after",
    "norm_bias": True,
    "gated": False,
    "attention_bias": True,
    "mlp_bias": True,
    "lm_head_bias": True,
    "norm_eps": 1e-12,
}
MODERN = {"sliding_window": 4, "full_attention_every": 3, "rope_theta": 1e5, "rope_theta_local": 1e3}
SHAPES = {
    "bert": ("bert", BERT),
    "bert, relu": ("bert", BERT | {"hidden_act": "relu"}),
    "roberta": ("roberta", BERT | {"position_offset": 2, "type_vocab_size": 1, "norm_eps": 1e-5}),
    "distilbert": ("distilbert", BERT | {"type_vocab_size": 0}),
    "distilbert, untied": ("distilbert", BERT | {"type_vocab_size": 0, "tie_word_embeddings": False}),
    "modernbert": ("modernbert", MODERN),
    "modernbert, biases": ("modernbert", MODERN | {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
}


@pytest.fixture(params=SHAPES, scope="module")
def pair(request, tmp_path_factory):
    model_type, fields = SHAPES[request.param]
    config = EncoderConfig(**{**SMALL, **fields})
    assert architecture_of(config).model_type == model_type
    folder = tmp_path_factory.mktemp("model")
    ours = randomise(build(config, torch.Generator().manual_seed(1)))
    save_model(ours, folder)
    return ours, transformers_model(folder, "AutoModelForMaskedLM"), folder


def tokens(rows=3, length=21, seed=3):
    # Not 0 or 1: transformers finds RoBERTa's positions by counting what is not padding.
    return torch.randint(2, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def masked_labels(ids):
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    return torch.where(chosen, ids.flip(1), IGNORED)


def token_types(ours, ids):
    if ours.config.type_vocab_size < 2:
        return None, {}
    types = (torch.arange(ids.shape[1]) > 9).long().expand_as(ids)
    return types, {"token_type_ids": types}


def test_logits_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    types, more = token_types(ours, tokens())
    given = ours(Inputs(tokens(), token_types_BT=types)).detach()
    torch.testing.assert_close(given, theirs(tokens(), **more).logits.detach(), **TOLERANCE)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_loss_and_every_gradient_with_padding(pair):
    ours, theirs, _ = pair
    ids = tokens()
    real = torch.arange(21) < torch.tensor([[21], [13], [8]])
    types, more = token_types(ours, ids)
    labels = masked_labels(ids).masked_fill(~real, IGNORED)
    # The kind of the first text must be learned from too, or its row of the table has no gradient to compare.
    inputs = Inputs(ids, None, torch.where(real, 0, -1), types)
    loss, _, count = ours.loss_sum(inputs, labels)
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    padded = ids.masked_fill(~real, 1) if architecture_of(ours.config).model_type == "roberta" else ids
    logits = theirs(padded, attention_mask=real.long(), **more).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    expected.backward()
    torch.testing.assert_close(loss / count, expected, **TOLERANCE)
    torch.testing.assert_close(ours(inputs).detach()[real], logits.detach()[real], **TOLERANCE)
    assert_same_gradients(ours, theirs)


def packed():
    """Three documents in one row, and each alone in a batch with padding."""
    lengths = [9, 4, 8]
    ids = tokens(1, 21)
    places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).unsqueeze(0)
    alone = torch.ones(3, 9, dtype=torch.long)
    real = torch.arange(9) < torch.tensor(lengths).unsqueeze(1)
    alone[real] = ids[0]
    return Inputs(ids, places, segments), alone, real


def test_packed_documents_are_as_if_alone(pair):
    ours, theirs, _ = pair
    inputs, alone, real = packed()
    labels = masked_labels(inputs.tokens_BT)
    padded_labels = torch.full(alone.shape, IGNORED)
    padded_labels[real] = labels[0]
    logits = theirs(alone, attention_mask=real.long()).logits
    torch.testing.assert_close(ours(inputs).detach()[0], logits.detach()[real], **TOLERANCE)
    loss, _, count = ours.loss_sum(inputs, labels)
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    F.cross_entropy(logits.flatten(0, 1), padded_labels.flatten()).backward()
    assert_same_gradients(ours, theirs)


def test_changing_one_packed_document_leaves_the_other_bit_identical(pair):
    ours, _, _ = pair
    inputs, _, _ = packed()
    labels = masked_labels(inputs.tokens_BT).masked_fill(inputs.segments_BT == 0, IGNORED)
    other = inputs._replace(tokens_BT=inputs.tokens_BT.where(inputs.segments_BT != 0, (inputs.tokens_BT + 7) % 90 + 2))
    seen = []
    for each in (inputs, other):
        ours.zero_grad()
        ours.loss_sum(each, labels)[0].backward()
        gradients = [parameter.grad.clone() for parameter in ours.parameters() if parameter.grad is not None]
        seen.append((ours(each).detach()[0, 9:], gradients))
    assert torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(ours(inputs)[0, :9], ours(other)[0, :9])
    assert all(torch.equal(a, b) for a, b in zip(seen[0][1], seen[1][1], strict=True))


def test_round_trips_are_bit_identical(pair, tmp_path):
    ours, theirs, folder = pair
    save_pretrained(theirs, tmp_path)
    for each in (folder, tmp_path):
        again = load_model(each)
        assert again.config == ours.config
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_model_without_its_output_layer(name, tmp_path):
    _, fields = SHAPES[name]
    has_pooler = name in ("bert", "roberta")
    ours = randomise(build(EncoderConfig(**{**SMALL, **fields, "lm_head": False, "pooler": has_pooler})))
    save_model(ours, tmp_path)
    theirs = transformers_model(tmp_path, "AutoModel")
    expected = theirs(tokens())
    hidden = ours.hidden(Inputs(tokens())).detach()
    torch.testing.assert_close(hidden, expected.last_hidden_state.detach(), **TOLERANCE)
    if has_pooler:
        torch.testing.assert_close(ours.pooled(hidden[:, 0]).detach(), expected.pooler_output.detach(), **TOLERANCE)
    (tmp_path / "again").mkdir()
    save_pretrained(theirs, tmp_path / "again")
    again = load_model(tmp_path / "again")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in ours.state_dict().items())
    with pytest.raises(ValueError, match="lm_head"):
        ours(Inputs(tokens()))


def test_a_head_that_is_not_known_is_said(tmp_path):
    save_model(build(EncoderConfig(**SMALL, **BERT)), tmp_path)
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(table | {"architectures": ["BertForMultipleChoice"]}))
    with pytest.raises(ArtifactError, match="BertForMultipleChoice"):
        load_model(tmp_path)
