"""Weights in 8 and 4 bits, against transformers' reading of the same folder."""

import json
import sys

import pytest
import torch
from oracle import transformers_model

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.bitsandbytes_files import quantise_folder, restored
from preceptor.models.decoder import Decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import load_model, save_model


@pytest.fixture
def model():
    torch.manual_seed(4)
    shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "head_dim": 16}
    return Decoder(DecoderConfig(**shape, initializer_range=0.1, zero_init_outputs=False)).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bits", "bound", "near"), [(8, 0.3, 0.3), (4, 3.0, 1e-4)])
def test_transformers_and_we_read_the_same_weights(tmp_path, model, bits, bound, near):
    # In several files, as large models are.
    save_model(model, tmp_path, 0, max_shard_bytes=80_000)
    quantise_folder(tmp_path, bits)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ids = torch.arange(60)[None] * 4
    ours, theirs = load_model(tmp_path), transformers_model(tmp_path)
    layer = theirs.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == {8: "Linear8bitLt", 4: "Linear4bit"}[bits]
    for module in theirs.modules():
        # On processors with AVX512-BF16, bitsandbytes would compute in bfloat16, and refuse matrices of 88 rows.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    assert 0 < (ours.logits(ids) - model.logits(ids)).abs().max() < bound
    with torch.no_grad():
        # In 8 bits they round what a layer reads as well.
        assert (theirs(ids).logits.float() - ours.logits(ids)).abs().max() < near
    num_bytes = sum(path.stat().st_size for path in tmp_path.glob("model-*.safetensors"))
    save_model(model, tmp_path, 0)
    assert num_bytes < 0.7 * (tmp_path / "model.safetensors").stat().st_size


def test_a_row_of_zeros_comes_back_as_zeros(tmp_path, model):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3] = 0
    save_model(model, tmp_path, 0)
    quantise_folder(tmp_path, 8)
    assert load_model(tmp_path).model.layers[0].mlp.up_proj.weight[3].eq(0).all()


def test_architectures_whose_layers_have_other_names_are_refused(tmp_path):
    config = DecoderConfig(
        vocab_size=300, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_hidden_layers=1,
        norm="layernorm", positions="learned", gated=False, attention_bias="all", mlp_bias=True, qk_norm="none",
    )  # fmt: skip
    save_model(Decoder(config), tmp_path, 0)
    with pytest.raises(ArtifactError, match="no layout for models of type gpt2"):
        quantise_folder(tmp_path, 4)


def test_other_ways_to_quantise_are_refused(tmp_path, model):
    save_model(model, tmp_path, 0)
    quantise_folder(tmp_path, 4)
    table = json.loads((tmp_path / "config.json").read_text())
    table["quantization_config"]["quant_method"] = "gptq"
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match="quantised by 'gptq'"):
        load_model(tmp_path)
    state = {"a.weight": torch.zeros(2, 1, dtype=torch.uint8), "a.weight.absmax": torch.ones(1)}
    with pytest.raises(ValueError, match="not NF4"):
        restored({"quantization_config": {"quant_method": "bitsandbytes"}}, state)


def test_without_bitsandbytes_it_says_what_to_install(tmp_path, model, monkeypatch):
    save_model(model, tmp_path, 0)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="not installed") as refused:
        quantise_folder(tmp_path, 4)
    assert "--as gguf --bits 4" in str(refused.value)
