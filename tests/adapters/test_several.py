"""Several adapters over one base, merged adapters, and adapters that are refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapter_pairs import TOLERANCE, drawn, logits, small_model

from preceptor.adapters.adapter import trainable_table
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt, load_adapter, merge, save_adapter, virtual_ids
from preceptor.adapters.low_rank_targets import adapter_rate_scales, low_rank_layers
from preceptor.adapters.merging import unmerge
from preceptor.adapters.several import adapter_names, attach_more, blend, switch
from preceptor.core.errors import ArtifactError, ConfigError, MismatchError
from preceptor.models.decoder import Decoder
from preceptor.models.growth import grow_vocabulary
from preceptor.models.heads import HeadConfig, attach_head
from preceptor.models.interchange import from_config_json, load_model, save_model
from preceptor.models.sizes import named

CONFIGS = {
    "a": AdapterConfig(rank=4, alpha=6),
    "b": AdapterConfig(rank=2, alpha=3, target_modules=("q_proj", "down_proj")),
    "dora": AdapterConfig(rank=2, alpha=3, target_modules=("v_proj",), magnitude=True),
}


@pytest.fixture
def folders(tmp_path):
    found = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        folder = tmp_path / name
        folder.mkdir()
        model = drawn(adapt(small_model("llama"), config, torch.Generator().manual_seed(seed)), seed)
        save_adapter(model, config, folder, "a-base")
        found[name] = (folder, logits(model).detach())
    return found


def test_adapters_by_name_share_a_base_that_stays_as_it_is(folders):
    model = small_model("llama")
    bare, before = logits(model).detach(), {name: p.clone() for name, p in model.named_parameters()}
    for name, (folder, expected) in folders.items():
        attach_more(model, folder, name)
        torch.testing.assert_close(logits(model).detach(), expected, rtol=0, atol=0)
    assert adapter_names(model) == ["a", "b", "dora"]
    for name in ("b", "dora", "a"):
        torch.testing.assert_close(logits(switch(model, name)).detach(), folders[name][1], rtol=0, atol=0)
    switch(model, None)
    assert not low_rank_layers(model)
    torch.testing.assert_close(logits(model).detach(), bare, rtol=0, atol=0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(ConfigError, match="none-such"):
        switch(model, "none-such")


def test_a_blend_is_the_weighted_sum_of_the_changes(folders):
    model = small_model("llama")
    bases = {name: p.clone() for name, p in model.named_parameters()}
    deltas = {}
    for name in ("a", "b"):
        attach_more(model, folders[name][0], name)
        deltas[name] = {n: la.combined_weight() - la.base_layer.weight for n, la in low_rank_layers(model).items()}
    blend(model, {"a": 0.7, "b": -0.4}, "mix")
    assert {la.shape.rank for la in low_rank_layers(model).values()} == {4, 6}
    for name, layer in low_rank_layers(model).items():
        expected = bases[f"{name}.weight"] + 0.7 * deltas["a"][name]
        if name in deltas["b"]:
            expected = expected - 0.4 * deltas["b"][name]
        torch.testing.assert_close(layer.combined_weight(), expected, **TOLERANCE)
    mixed = logits(model).detach()
    switch(model, "a")
    torch.testing.assert_close(logits(switch(model, "mix")).detach(), mixed, rtol=0, atol=0)
    torch.testing.assert_close(logits(blend(model, {"a": 1.0})).detach(), folders["a"][1], **TOLERANCE)
    attach_more(model, folders["dora"][0], "dora")
    with pytest.raises(ConfigError, match="magnitudes"):
        blend(model, {"dora": 1.0})


def test_several_need_names(folders):
    model = load_adapter(small_model("llama"), folders["a"][0])
    with pytest.raises(ConfigError, match="without a name"):
        attach_more(model, folders["b"][0], "b")


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("dora", [False, True])
def test_unmerging_gives_the_base_back_to_the_bit(shape, dora):
    model = drawn(adapt(small_model(shape), AdapterConfig(rank=4, alpha=6, magnitude=dora)))
    attached, before = logits(model).detach(), {name: t.clone() for name, t in model.state_dict().items()}
    merge(model)
    assert not low_rank_layers(model)
    torch.testing.assert_close(logits(model).detach(), attached, **TOLERANCE)
    assert sum(not torch.equal(t, model.state_dict().get(n.replace(".base_layer", ""), t)) for n, t in before.items())
    unmerge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(logits(model).detach(), attached, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="nothing was merged"):
        unmerge(model)


def test_pissa_starts_where_the_base_was_and_leaves_it_the_rest():
    model = small_model("llama")
    before = logits(model).detach()
    weights = {name: p.clone() for name, p in model.named_parameters()}
    adapt(model, AdapterConfig(rank=4, alpha=6, start="pissa"))
    torch.testing.assert_close(logits(model).detach(), before, **TOLERANCE)
    for name, layer in low_rank_layers(model).items():
        values = torch.linalg.svdvals(weights[f"{name}.weight"])
        torch.testing.assert_close(
            torch.linalg.svdvals(layer.base_layer.weight)[: len(values) - 4], values[4:], **TOLERANCE
        )
        assert layer.lora_B.abs().sum() > 0


def test_heads_train_and_travel_with_the_adapter(tmp_path):
    base = small_model("bert")
    save_model(base, tmp_path)
    attach_head(base, "kind", HeadConfig(labels=("a", "b")), torch.Generator().manual_seed(0))
    adapt(base, AdapterConfig(rank=2))
    assert {n for n, p in base.named_parameters() if p.requires_grad and "lora_" not in n} == {
        "heads.kind.output.weight",
        "heads.kind.output.bias",
    }
    (tmp_path / "adapter").mkdir()
    save_adapter(base, AdapterConfig(rank=2), tmp_path / "adapter", "a-base")
    again = load_adapter(load_model(tmp_path), tmp_path / "adapter")
    assert again.heads["kind"].config.labels == ("a", "b")
    assert torch.equal(again.heads["kind"].output.weight, base.heads["kind"].output.weight)
    assert virtual_ids(again) == []


def test_an_adapter_of_another_base_is_refused_by_its_id(folders):
    folder, expected = folders["a"]
    with pytest.raises(MismatchError, match="another-base"):
        load_adapter(small_model("llama"), folder, "another-base")
    given = logits(load_adapter(small_model("llama"), folder, "a-base")).detach()
    torch.testing.assert_close(given, expected, rtol=0, atol=0)
    with pytest.raises(ArtifactError, match="does not fit"):
        load_adapter(small_model("bert"), folder)
    table = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(table | {"bias": "all"}))
    with pytest.raises(ArtifactError, match="bias"):
        load_adapter(small_model("llama"), folder)


def test_no_path_of_a_machine_is_saved(tmp_path):
    model = adapt(small_model("llama"), AdapterConfig())
    save_adapter(model, AdapterConfig(), tmp_path, str(tmp_path / "my-base"))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "my-base"


def test_added_tokens_and_a_changed_embedding_survive_in_a_fresh_process(tmp_path):
    grown = grow_vocabulary(small_model("llama, tied"), [[3, 4], []], torch.Generator().manual_seed(0))
    save_model(grown, tmp_path)
    config = AdapterConfig(rank=2, target_modules=("embed_tokens", "v_proj"))
    drawn(adapt(grown, config))
    (tmp_path / "adapter").mkdir()
    save_adapter(grown, config, tmp_path / "adapter", "a-base")
    tokens = torch.tensor([[5, 61, 62, 7]])
    program = (
        "import sys, torch; from pathlib import Path; from preceptor.adapters.attach import load_adapter;"
        "from preceptor.models.interchange import load_model; folder = Path(sys.argv[1]);"
        "model = load_adapter(load_model(folder), folder / 'adapter');"
        "torch.save(model.logits(torch.tensor([[5, 61, 62, 7]])), folder / 'logits.pt')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    loaded = torch.load(Path(tmp_path) / "logits.pt", weights_only=True)
    torch.testing.assert_close(loaded, grown.eval().logits(tokens), rtol=0, atol=0)


def test_lora_of_gpt3_trains_what_the_paper_says():
    size = named("gpt3-175b")
    _, config = from_config_json({"model_type": size.model_type, **size.config}, Path(size.name))
    with torch.device("meta"):
        model = Decoder(config)
        adapt(model, AdapterConfig(rank=4, target_modules=("q_proj", "v_proj")))
    assert trainable_table(model).startswith("trainable params: 18,874,368 || all params: 17")
    assert trainable_table(model).endswith("|| trainable%: 0.0108")


def test_every_b_learns_faster_by_the_ratio():
    config = AdapterConfig(rank=2, rate_ratio=16, target_modules=("embed_tokens", "v_proj"))
    model = adapt(small_model("llama"), config)
    scales = adapter_rate_scales(model, config)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.endswith("_B")} == scales.keys()
    assert set(scales.values()) == {16}
    assert adapter_rate_scales(model, AdapterConfig()) == {}
