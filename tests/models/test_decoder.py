"""What holds for a decoder without an oracle: isolation of packed documents, refusals, clear errors."""

import json

import pytest
import torch

from preceptor.core.errors import ArtifactError
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import load_model, save_model
from preceptor.nn.inputs import Inputs

CONFIG = DecoderConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=32,
    zero_init_outputs=False,
)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_changing_one_packed_document_leaves_the_other_bit_identical(positions):
    model = build(DecoderConfig(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "positions": positions})).eval()
    segments = torch.tensor([[0] * 9 + [1] * 12 + [-1] * 3])
    places = torch.cat((torch.arange(9), torch.arange(12), torch.arange(3))).unsqueeze(0)
    first = torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[0, :9] = (first[0, :9] + 7) % 50
    before, after = (model(Inputs(ids, places, segments)) for ids in (first, second))
    assert torch.equal(before[0, 9:], after[0, 9:])
    assert not torch.equal(before[0, :9], after[0, :9])
    alone = model(Inputs(first[:, 9:21]))
    torch.testing.assert_close(before[0, 9:21], alone[0], rtol=1e-5, atol=1e-6)


def test_the_future_does_not_reach_the_past():
    model = build(CONFIG).eval()
    first = torch.randint(0, 50, (1, 20), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[0, 12:] = (first[0, 12:] + 1) % 50
    assert torch.equal(model(Inputs(first))[0, :12], model(Inputs(second))[0, :12])


def test_zero_outputs_start_every_block_as_the_identity():
    config = DecoderConfig(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "zero_init_outputs": True})
    model = build(config)
    ids = torch.arange(10).unsqueeze(0)
    torch.testing.assert_close(model.hidden(Inputs(ids)), model.model.norm(model.model.embed_tokens(ids)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_key_value_heads": 3}, "must divide"),
        ({"head_dim": 15}, "even"),
        ({"dropout": 1.0}, "below 1"),
        ({"hidden_size": 0}, "at least 1"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        DecoderConfig(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, **change})


def test_a_missing_tensor_is_named_with_its_shape(tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(build(CONFIG), tmp_path, 0)
    state = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in state.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=rf"{name} is missing; expected shape \(48, 32\)"):
        load_model(tmp_path)
    state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="extra is not part"):
        load_model(tmp_path)


def test_a_torn_file_and_an_unknown_architecture_are_said(tmp_path):
    with pytest.raises(ArtifactError, match="does not hold a model"):
        load_model(tmp_path)
    save_model(build(CONFIG), tmp_path, 0)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="does not hold a model"):
        load_model(tmp_path)
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**table, "model_type": "no-such-model"}))
    with pytest.raises(ArtifactError, match="no-such-model"):
        load_model(tmp_path)


def test_a_shape_of_no_known_architecture_still_comes_back(tmp_path):
    config = DecoderConfig(
        **{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "gated": False, "hidden_act": "relu2"}
    )
    model = build(config).eval()
    save_model(model, tmp_path, 0)
    ids = torch.arange(10).unsqueeze(0)
    again = load_model(tmp_path)
    assert again.config == config
    assert torch.equal(again.logits(ids), model.logits(ids))
