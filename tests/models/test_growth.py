"""New parts of a trained model: heads, blocks, tokens, output layers; saved, and read again in a fresh process."""

import json
import subprocess
import sys

import pytest
import torch
from oracle import randomise
from safetensors.torch import load_file, save_file

from preceptor.core.errors import ArtifactError
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.growth import add_block, grow_vocabulary, with_output_layer
from preceptor.models.heads import HeadConfig, attach_head, head_scores, label_numbers, span_head
from preceptor.models.interchange import architecture_of, load_model, save_model
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "decoder": DecoderConfig(**SMALL, num_key_value_heads=1, head_dim=16, zero_init_outputs=False),
    "encoder": EncoderConfig(**SMALL),
    "two_stream": TwoStreamConfig(**SMALL),
    "encoder_decoder": EncoderDecoderConfig(**SMALL, head_dim=16),
}
HEADS = {
    "topic": HeadConfig(labels=("sport", "art"), dense=True, dropout=0.1),
    "several": HeadConfig(labels=("a", "b", "c"), multi_label=True),
    "number": HeadConfig(kind="regression", labels=("x",)),
    "tags": HeadConfig(kind="tagger", labels=("o", "b", "i")),
    "answer": span_head(),
}
TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(3))
READER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from preceptor.models.heads import head_scores
from preceptor.models.interchange import load_model
from preceptor.nn.inputs import Inputs
folder = Path(sys.argv[1])
model, tokens = load_model(folder), torch.tensor(eval(sys.argv[2]))
inputs = Inputs(tokens, source=Inputs(tokens) if model.config.family == "encoder_decoder" else None)
with torch.no_grad():
    found = {name: head_scores(model, name, inputs) for name in model.heads} | {"logits": model(inputs)}
save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "said.safetensors")
"""


def inputs_of(model):
    return Inputs(TOKENS, source=Inputs(TOKENS) if model.config.family == "encoder_decoder" else None)


def in_a_fresh_process(model, folder):
    """What a process of its own says with the model once it is saved."""
    folder.mkdir()
    save_model(model, folder)
    subprocess.run([sys.executable, "-c", READER, str(folder), str(TOKENS.tolist())], check=True)
    return load_file(folder / "said.safetensors")


@pytest.fixture(params=CONFIGS)
def model(request):
    config = CONFIGS[request.param]
    built = architecture_of(config).family.build(config, torch.Generator().manual_seed(1))
    return randomise(built).eval()


def test_new_parts_are_read_again_in_a_fresh_process(model, tmp_path):
    for name, config in HEADS.items():
        attach_head(model, name, config, torch.Generator().manual_seed(len(name)))
    grown = grow_vocabulary(model, [[1, 2], []], torch.Generator().manual_seed(0))
    if model.config.family != "encoder_decoder":
        grown = add_block(grown, 1, "copy")
    inputs = inputs_of(grown)
    with torch.no_grad():
        expected = {name: head_scores(grown, name, inputs) for name in HEADS} | {"logits": grown(inputs)}
    said = in_a_fresh_process(grown, tmp_path / "saved")
    assert said.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(said[name], tensor), name
    saved = load_model(tmp_path / "saved")
    assert {name: head.config for name, head in saved.heads.items()} == HEADS


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_block_that_starts_as_the_identity_changes_nothing_and_learns(place):
    config = CONFIGS["decoder"]
    model = randomise(architecture_of(config).family.build(config, torch.Generator().manual_seed(1))).eval()
    grown = add_block(model, place)
    assert grown.config.num_hidden_layers == 3
    torch.testing.assert_close(grown(Inputs(TOKENS)), model(Inputs(TOKENS)), rtol=1e-6, atol=1e-6)
    grown(Inputs(TOKENS)).square().sum().backward()
    new = dict(grown.named_parameters())[f"model.layers.{place}.mlp.down_proj.weight"]
    assert not new.any() and new.grad.abs().sum() > 0


@pytest.mark.parametrize(("place", "like"), [(0, 0), (1, 0), (2, 1)])
def test_a_copied_block_is_that_below_or_the_first(place, like):
    config = CONFIGS["decoder"]
    model = randomise(architecture_of(config).family.build(config, torch.Generator().manual_seed(1)))
    before, after = model.state_dict(), add_block(model, place, "copy").state_dict()
    order = [*range(place), like, *range(place, 2)]
    for name, tensor in after.items():
        parts = name.split(".")
        if "layers" in parts:
            at = parts.index("layers") + 1
            parts[at] = str(order[int(parts[at])])
        assert torch.equal(tensor, before[".".join(parts)]), name


def test_a_block_above_a_first_one_without_a_norm():
    config = CONFIGS["encoder"]
    model = randomise(architecture_of(config).family.build(config, torch.Generator().manual_seed(1))).eval()
    grown = add_block(model, 1)
    torch.testing.assert_close(grown(Inputs(TOKENS)), model(Inputs(TOKENS)), rtol=1e-6, atol=1e-6)
    before, after = model.state_dict(), add_block(model, 1, "copy").state_dict()
    for name, tensor in before.items():
        if name.startswith("layers.1."):
            assert torch.equal(after[name], tensor) and torch.equal(after[name.replace("1", "2", 1)], tensor)


def test_blocks_that_cannot_be_added_are_refused():
    decoder, encoder = (
        architecture_of(CONFIGS[name]).family.build(CONFIGS[name], torch.Generator()) for name in ("decoder", "encoder")
    )
    with pytest.raises(ValueError, match="between 0 and 2"):
        add_block(decoder, 3)
    for config in (EncoderConfig(**SMALL, norm_placement="after"), CONFIGS["two_stream"]):
        with pytest.raises(ValueError, match="use copy"):
            add_block(architecture_of(config).family.build(config, torch.Generator()), 1)
    with pytest.raises(ValueError, match="none can stand before it"):
        add_block(encoder, 0)
    sided = CONFIGS["encoder_decoder"]
    with pytest.raises(ValueError, match="encoder_decoder"):
        add_block(architecture_of(sided).family.build(sided, torch.Generator()), 1)


def test_new_tokens_start_from_their_pieces_and_old_ones_stay(model):
    grown = grow_vocabulary(model, [[1, 2, 7], []], torch.Generator().manual_seed(0))
    old, new = model.input_embedding.weight, grown.input_embedding.weight
    assert new.shape[0] == grown.config.vocab_size == 52
    assert torch.equal(new[:50], old)
    torch.testing.assert_close(new[50], old[[1, 2, 7]].mean(0))
    # Not the mean itself, so that two new tokens differ, but near it.
    distance = (new[51] - old.mean(0)).norm()
    assert 0 < distance < 0.1 * (old - old.mean(0)).norm(dim=1).mean()
    inputs = inputs_of(model)
    assert torch.equal(grown(inputs)[..., :50], model(inputs))
    with pytest.raises(ValueError, match="50 is no token"):
        grow_vocabulary(model, [[50]], torch.Generator())


@pytest.mark.parametrize("family", ["decoder", "two_stream"])
def test_an_output_layer_is_untied_and_tied_again(family):
    config = CONFIGS[family]
    model = randomise(architecture_of(config).family.build(config, torch.Generator().manual_seed(1))).eval()
    tied = with_output_layer(model, tied=True, generator=torch.Generator())
    untied = with_output_layer(tied, tied=False, generator=torch.Generator())
    assert torch.equal(untied(Inputs(TOKENS)), tied(Inputs(TOKENS)))
    assert untied.output_weight_VD is not untied.input_embedding.weight
    assert tied.output_weight_VD is tied.input_embedding.weight


@pytest.mark.parametrize("damage", ["torn", "missing", "not json"])
def test_heads_that_cannot_be_read_are_told(tmp_path, damage):
    config = CONFIGS["encoder"]
    model = architecture_of(config).family.build(config, torch.Generator())
    attach_head(model, "topic", HEADS["topic"])
    save_model(model, tmp_path)
    weights = tmp_path / "heads.safetensors"
    if damage == "torn":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "missing":
        weights.unlink()
    else:
        (tmp_path / "heads.json").write_text("{")
    with pytest.raises(ArtifactError, match="heads cannot be read") as caught:
        load_model(tmp_path)
    assert "heads.json" in caught.value.remedy


def test_a_head_of_another_shape_is_told(tmp_path):
    config = CONFIGS["encoder"]
    model = architecture_of(config).family.build(config, torch.Generator())
    attach_head(model, "topic", HeadConfig(labels=("a", "b")))
    save_model(model, tmp_path)
    save_file(
        {"topic.output.weight": torch.zeros(3, 32), "topic.output.bias": torch.zeros(3)}, tmp_path / "heads.safetensors"
    )
    with pytest.raises(ArtifactError, match="heads cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "at least one"),
        ({"labels": ("a", "a")}, "differ"),
        ({"kind": "span", "labels": ("a",)}, "start"),
        ({"kind": "tagger", "labels": ("a",), "multi_label": True}, "classifier"),
        ({"labels": ("a",), "dropout": 1.0}, "dropout"),
    ],
)
def test_heads_that_say_nothing_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        HeadConfig(**wrong)


def test_labels_are_numbered_and_unknown_ones_named():
    assert label_numbers(HEADS["tags"], ["i", "o"]) == [2, 0]
    with pytest.raises(ValueError, match="'x' is not one of the labels o, b, i"):
        label_numbers(HEADS["tags"], ["x"])
    model = architecture_of(CONFIGS["encoder"]).family.build(CONFIGS["encoder"], torch.Generator())
    with pytest.raises(ValueError, match="word without marks"):
        attach_head(model, "my head", HEADS["topic"])


def test_transformers_reads_a_model_that_was_saved_with_heads(tmp_path):
    from transformers import AutoModelForCausalLM

    config = CONFIGS["decoder"]
    model = architecture_of(config).family.build(config, torch.Generator().manual_seed(1)).eval()
    attach_head(model, "topic", HEADS["topic"])
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, model(Inputs(TOKENS)), rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "heads.json").read_text())["topic"]["labels"] == ["sport", "art"]
