"""LoRA of every kind against peft: logits, loss, gradients and merged weights, on models of every family."""

import pytest
import torch
from adapter_pairs import (
    TOLERANCE,
    drawn,
    ids,
    loaded_by_peft,
    logits,
    loss,
    made_by_peft,
    small_model,
    their_logits,
)

from preceptor.adapters.adapter_config import AdapterConfig, LayerPattern
from preceptor.adapters.attach import adapt, load_adapter, merge, save_adapter
from preceptor.adapters.low_rank_targets import low_rank_layers
from preceptor.adapters.peft_names import places
from preceptor.models.interchange import architecture_of, load_model, to_their_tensors

TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bert": ["query", "value", "dense"],
    "t5": ["q", "v", "o", "wi", "wo"],
}
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {r"0\..*": 2}, "alpha_pattern": {r"1\..*": 5}},
    "pissa": {"init_lora_weights": "pissa"},
}


def assert_same_gradients(ours, theirs):
    """Of every matrix that is one matrix on both sides."""
    layers, compared = low_rank_layers(ours), 0
    theirs_by_name = {
        name.removeprefix("base_model.model."): parameter for name, parameter in theirs.named_parameters()
    }
    for place in places(ours):
        if len(place.ours) > 1 or place.ours[0] not in layers:
            continue
        layer = layers[place.ours[0]]
        kind = "lora_embedding_{}.default" if hasattr(layer, "lora_embedding_A") else "lora_{}.default.weight"
        for letter, matrix in zip("AB", layer.matrices(), strict=True):
            expected = theirs_by_name[f"{place.theirs}.{kind.format(letter)}"].grad
            # What peft takes out of the base stands behind what it trains.
            rows, columns = expected.shape
            torch.testing.assert_close(matrix.grad[:rows, :columns], expected, **TOLERANCE)
            compared += 1
        if layer.lora_magnitude is not None:
            expected = theirs_by_name[f"{place.theirs}.lora_magnitude_vector.default.weight"].grad
            torch.testing.assert_close(layer.lora_magnitude.grad, expected, **TOLERANCE)
    assert compared


@pytest.mark.parametrize("shape", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_made_is_the_same_here(shape, kind, tmp_path):
    base = small_model(shape)
    theirs = made_by_peft(base, tmp_path / "base", tmp_path / "adapter", target_modules=TARGETS[shape], **KINDS[kind])
    ours = load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
    expected = their_logits(theirs, base.config.family)
    given = logits(ours)
    torch.testing.assert_close(given, expected, **TOLERANCE)
    assert (logits(base) - given).abs().max() > 0.01
    loss(expected).backward()
    for layer in low_rank_layers(ours).values():
        layer.requires_grad_(True)
        layer.base_layer.requires_grad_(False)
    mine = loss(logits(ours))
    mine.backward()
    torch.testing.assert_close(mine, loss(expected), **TOLERANCE)
    assert_same_gradients(ours, theirs)
    merged = merge(ours)
    torch.testing.assert_close(logits(merged).detach(), expected.detach(), **TOLERANCE)
    state = {name: tensor for name, tensor in merged.state_dict().items() if not name.startswith("heads.")}
    in_their_words = to_their_tensors(architecture_of(merged.config), merged.config, state)
    their_state = theirs.merge_and_unload().state_dict()
    for name, tensor in in_their_words.items():
        if name in their_state:
            torch.testing.assert_close(tensor, their_state[name], **TOLERANCE)


OURS = {
    "lora": AdapterConfig(rank=4, alpha=6),
    "rslora": AdapterConfig(rank=4, alpha=6, rank_stabilised=True),
    "dora": AdapterConfig(rank=4, alpha=6, magnitude=True),
    "pissa": AdapterConfig(rank=4, alpha=6, start="pissa"),
    "patterns": AdapterConfig(
        rank=4,
        alpha=6,
        layers=(LayerPattern(pattern="*layers.0.*", rank=2), LayerPattern(pattern="down_proj", alpha=5)),
    ),
    "few": AdapterConfig(rank=4, alpha=6, target_modules=("q_proj", "v_proj", "*layers.1.mlp.*")),
}


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(shape, kind) for shape in TARGETS for kind in OURS]
    + [("neox", "few"), ("neox", "dora"), ("modernbert", "few"), ("modernbert", "dora")],
)
def test_peft_loads_what_is_saved_here(shape, kind, tmp_path):
    config = OURS[kind]
    base, model = small_model(shape), small_model(shape)
    drawn(adapt(model, config, torch.Generator().manual_seed(3)))
    (tmp_path / "adapter").mkdir()
    save_adapter(model, config, tmp_path / "adapter", "a-base")
    theirs = loaded_by_peft(base, tmp_path / "base", tmp_path / "adapter")
    expected = their_logits(theirs, base.config.family).detach()
    torch.testing.assert_close(logits(model).detach(), expected, **TOLERANCE)
    again = load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again).detach(), logits(model).detach(), **TOLERANCE)
    if kind != "pissa":
        few, many = low_rank_layers(again), low_rank_layers(model)
        assert {n: la.shape.rank for n, la in few.items()} == {n: la.shape.rank for n, la in many.items()}
        for name, layer in many.items():
            for mine, loaded in zip(layer.matrices(), few[name].matrices(), strict=True):
                assert torch.equal(mine, loaded)


@pytest.mark.parametrize(("shape", "theirs_name"), [("llama", "embed_tokens"), ("bert", "word_embeddings")])
@pytest.mark.parametrize("dora", [False, True])
def test_embeddings(shape, theirs_name, dora, tmp_path):
    base = small_model(shape)
    targets = [theirs_name, TARGETS[shape][0]]
    theirs = made_by_peft(base, tmp_path / "base", tmp_path / "adapter", target_modules=targets, use_dora=dora)
    ours = load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
    expected = their_logits(theirs, base.config.family)
    torch.testing.assert_close(logits(ours), expected, **TOLERANCE)
    loss(expected).backward()
    for layer in low_rank_layers(ours).values():
        layer.requires_grad_(True)
    loss(logits(ours)).backward()
    assert_same_gradients(ours, theirs)


def test_what_transformers_has_no_layers_for_is_read_back_here(tmp_path):
    config = AdapterConfig(rank=4, alpha=6)
    base, model = small_model("xlnet"), small_model("xlnet")
    drawn(adapt(model, config, torch.Generator().manual_seed(3)))
    save_adapter(model, config, tmp_path, "a-base")
    again = load_adapter(small_model("xlnet"), tmp_path)
    assert (base.logits(ids()) - model.logits(ids())).abs().max() > 0.01
    torch.testing.assert_close(again.logits(ids()), model.logits(ids()), rtol=0, atol=0)


def test_a_tied_embedding_is_changed_on_both_sides_and_stays_tied_when_merged(tmp_path):
    base, model = small_model("llama, tied"), small_model("llama, tied")
    config = AdapterConfig(rank=4, alpha=6, target_modules=("embed_tokens", "q_proj"))
    drawn(adapt(model, config, torch.Generator().manual_seed(3)))
    (tmp_path / "adapter").mkdir()
    save_adapter(model, config, tmp_path / "adapter", "a-base")
    theirs = loaded_by_peft(base, tmp_path / "base", tmp_path / "adapter")
    attached = logits(model).detach()
    torch.testing.assert_close(attached, their_logits(theirs, "decoder").detach(), **TOLERANCE)
    again = load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again).detach(), attached, rtol=0, atol=0)
    merged = merge(model)
    assert merged.output_weight_VD is merged.input_embedding.weight
    torch.testing.assert_close(logits(merged).detach(), attached, **TOLERANCE)
    assert merged.logits(ids()).shape[-1] == base.config.vocab_size
