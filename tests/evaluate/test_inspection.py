"""Attention maps and norms of tiny models of every family, against what they must be."""

import pytest
import torch

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.evaluate.inspection import LayerNorms, Norms, attention_maps, norms, token_labels
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.describe import family_of
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.tokenizer.config import MASK, TokenizerConfig
from preceptor.tokenizer.training import train

TEXT = "The cat sat on the mat, and the dog\nsat there too."
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "decoder": lambda size: DecoderConfig(vocab_size=size, **SHAPE, head_dim=8, attention_softcap=5.0),
    "encoder": lambda size: EncoderConfig(vocab_size=size, **SHAPE),
    "two_stream": lambda size: TwoStreamConfig(vocab_size=size, **SHAPE),
    "encoder_decoder": lambda size: EncoderDecoderConfig(vocab_size=size, **SHAPE, head_dim=8),
}
NUM_MAPS = {"decoder": 3, "encoder": 3, "two_stream": 3, "encoder_decoder": 9}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train([TEXT] * 4, TokenizerConfig(vocab_size=280, mask_token=True), tmp_path_factory.mktemp("tokenizer"))


def built(name, tokenizer):
    config = CONFIGS[name](tokenizer.vocab_size)
    torch.manual_seed(3)
    return family_of(config).module(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_attention_has_a_map_whose_rows_sum_to_one(name, tokenizer):
    maps = attention_maps(built(name, tokenizer), tokenizer, TEXT, "the dog" if name == "encoder_decoder" else "")
    assert len(maps) == NUM_MAPS[name] and len({each.name for each in maps}) == len(maps)
    for each in maps:
        assert each.weights_NTS.shape == (4, len(each.queries), len(each.keys))
        assert abs(each.weights_NTS.sum(axis=2) - 1).max() < 1e-5
    assert [each.layer for each in maps[:3]] == [0, 1, 2]


def test_a_prefix_is_among_what_is_looked_at(tokenizer):
    model = adapt(built("decoder", tokenizer), AdapterConfig(kind="prefix", num_virtual_tokens=2))
    for each in attention_maps(model, tokenizer, TEXT):
        assert each.keys == ("[prefix 1]", "[prefix 2]", *each.queries)
        assert each.weights_NTS.shape[1:] == (len(each.queries), len(each.keys))


def test_a_decoder_looks_back_only_and_an_encoder_both_ways(tokenizer):
    back, both = (
        attention_maps(built(name, tokenizer), tokenizer, TEXT)[0].weights_NTS for name in ("decoder", "encoder")
    )
    future = torch.ones(back.shape[1:], dtype=torch.bool).triu(1).numpy()
    assert (back[:, future] == 0).all() and (back[:, ~future] > 0).all() and (both > 0).all()


def test_an_encoder_decoder_looks_from_the_target_to_the_source(tokenizer):
    maps = attention_maps(built("encoder_decoder", tokenizer), tokenizer, TEXT, "the dog")
    cross = [each for each in maps if each.name.endswith("encoder_attn")]
    assert len(cross) == 3
    for each in cross:
        assert len(each.keys) == len(tokenizer.encode(TEXT)) + 1
        assert len(each.queries) == len(tokenizer.encode("the dog")) + 1


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_are_those_of_the_tensors(name, tokenizer):
    model = built(name, tokenizer)
    model.train()
    found = norms(model, tokenizer, TEXT)
    blocks = {"encoder_decoder": 6}.get(name, 3)
    assert len(found.layers) == blocks + 1 and found.loss > 0 and model.training
    for layer in found.layers:
        part = model.get_submodule(layer.name)
        together = torch.cat([parameter.detach().flatten() for parameter in part.parameters()])
        assert layer.weight == pytest.approx(float(together.norm()), rel=1e-5)
        assert layer.gradient > 0 and layer.activation > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_norms_of_gradients_are_those_that_backward_leaves(tokenizer):
    model = built("decoder", tokenizer).eval()
    found = norms(model, tokenizer, TEXT)
    ids = torch.tensor([[tokenizer.end_of_text_id, *tokenizer.encode(TEXT)]])
    loss = torch.nn.functional.cross_entropy(model.logits.__wrapped__(model, ids)[0, :-1], ids[0, 1:])
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    for layer in found.layers:
        together = torch.cat([p.grad.flatten() for p in model.get_submodule(layer.name).parameters()])
        assert layer.gradient == pytest.approx(float(together.norm()), rel=1e-4)
    states = model.model.embed_tokens(ids)
    assert found.layers[0].activation == pytest.approx(states.norm(dim=-1).mean().item(), rel=1e-5)


def said(*gradients):
    layers = tuple(LayerNorms(f"layers.{n}", 1.0, value, 1.0) for n, value in enumerate(gradients))
    return Norms(1.0, "each next token", layers).findings()


def test_what_is_out_of_line_is_named():
    (healthy,) = said(0.5, 1.0, 30.0)
    assert healthy.startswith("no part vanishes")
    (vanished,) = said(1e-5, 1.0, 2.0)
    assert vanished.startswith("layers.0: the gradient vanishes")
    (exploded,) = said(1.0, 1.0, 5e4)
    assert exploded.startswith("layers.2: the gradient explodes") and "50,000 times" in exploded
    assert "exactly 0" in said(0.0, 1.0, 1.0)[0] and "no finite number" in said(1.0, 1.0, float("inf"))[0]


def test_a_layer_made_huge_is_found(tokenizer):
    model = built("decoder", tokenizer)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(1e6)
    findings = norms(model, tokenizer, TEXT).findings()
    assert any(line.startswith("model.layers.2: the activation explodes") for line in findings)
    assert any(line.startswith("model.layers.2: the weight explodes") for line in findings)


def test_labels_show_what_cannot_be_seen(tokenizer):
    ids = [tokenizer.end_of_text_id, *tokenizer.encode("a b\n")]
    labels = token_labels(tokenizer, ids)
    assert labels[0] == tokenizer.end_of_text and "".join(labels[1:]) == "a·b⏎"


def test_an_encoder_is_shown_masks(tokenizer):
    found = norms(built("encoder", tokenizer), tokenizer, TEXT)
    assert "hidden" in found.asked and MASK in tokenizer.special_tokens


def test_what_cannot_be_read_is_refused(tokenizer):
    model = built("decoder", tokenizer)
    with pytest.raises(ConfigError, match="empty"):
        attention_maps(model, tokenizer, "  ")
    with pytest.raises(ConfigError, match="512 at most"):
        norms(model, tokenizer, TEXT * 200)
    small = family_of(CONFIGS["decoder"](5)).module(CONFIGS["decoder"](5))
    with pytest.raises(ArtifactError, match="knows 5 tokens"):
        norms(small, tokenizer, TEXT)
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, **SHAPE, lm_head=False)
    with pytest.raises(ArtifactError, match="no output layer"):
        norms(family_of(config).module(config), tokenizer, TEXT)
