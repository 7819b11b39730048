"""LoRA against peft, on a base that transformers loads."""

import json
import warnings

import pytest
import torch

from preceptor.adapters.adapter import trainable
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import load_adapter, merge, save_adapter
from preceptor.adapters.low_rank import LowRankLinear
from preceptor.adapters.low_rank_product import low_rank_linear
from preceptor.adapters.low_rank_targets import attach
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.decoder import Decoder, build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import load_model, save_model
from preceptor.nn.inputs import Inputs

CONFIG = DecoderConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=32,
    zero_init_outputs=False,
    initializer_range=0.2,
)
LORA = AdapterConfig(rank=4, alpha=12)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def adapted(model: Decoder) -> Decoder:
    attach(model, LORA, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRankLinear):
                module.lora_B.normal_(0, 0.3, generator=generator)
    return model.eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 61, (2, 15), generator=torch.Generator().manual_seed(5))


def peft_model(base, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


def test_an_adapter_starts_at_nothing_and_only_it_trains():
    model = build(CONFIG).eval()
    before = model.logits(tokens())
    attach(model, LORA)
    torch.testing.assert_close(model.logits(tokens()), before, rtol=0, atol=0)
    model.loss_sum(Inputs(tokens()[:, :-1]), tokens()[:, 1:])[0].backward()
    assert {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.grad is not None} == {
        "lora_A",
        "lora_B",
    }
    few, many = trainable(model)
    assert few == sum(m.lora_A.numel() + m.lora_B.numel() for m in model.modules() if isinstance(m, LowRankLinear))
    assert few < many


def test_peft_loads_what_we_save_and_gives_the_same_logits(tmp_path):
    model = build(CONFIG)
    save_model(model, tmp_path / "base" if (tmp_path / "base").mkdir() is None else tmp_path, 0)
    adapted(model)
    (tmp_path / "adapter").mkdir()
    save_adapter(model, LORA, tmp_path / "adapter", "a-base")
    theirs = peft_model(tmp_path / "base", tmp_path / "adapter").eval()
    torch.testing.assert_close(model.logits(tokens()), theirs(tokens()).logits.detach(), **TOLERANCE)


def test_we_load_what_peft_saves(tmp_path):
    model = build(CONFIG)
    for name in ("base", "adapter", "again"):
        (tmp_path / name).mkdir()
    save_model(model, tmp_path / "base", 0)
    adapted(model)
    save_adapter(model, LORA, tmp_path / "adapter", "a-base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model(tmp_path / "base", tmp_path / "adapter").save_pretrained(tmp_path / "again")
    again = load_adapter(load_model(tmp_path / "base"), tmp_path / "again")
    torch.testing.assert_close(again.logits(tokens()), model.logits(tokens()), rtol=0, atol=0)


def test_merged_equals_attached():
    model = adapted(build(CONFIG))
    attached = model.logits(tokens())
    merge(model)
    assert not any(isinstance(module, LowRankLinear) for module in model.modules())
    torch.testing.assert_close(model.logits(tokens()), attached, **TOLERANCE)


def test_a_target_that_is_no_layer_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match="query") as raised:
        attach(build(CONFIG), AdapterConfig(target_modules=("query",)))
    assert "q_proj" in str(raised.value)


def test_an_adapter_of_another_model_or_a_torn_one_is_refused(tmp_path):
    model = adapted(build(CONFIG))
    save_adapter(model, LORA, tmp_path, "a-base")
    other = DecoderConfig(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "num_hidden_layers": 1})
    with pytest.raises(ArtifactError, match="does not fit"):
        load_adapter(build(other), tmp_path)
    table = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**table, "peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ArtifactError, match="PREFIX_TUNING"):
        load_adapter(build(CONFIG), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(table))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(ArtifactError, match="does not hold"):
        load_adapter(build(CONFIG), tmp_path)


@pytest.mark.parametrize("bias", [False, True])
def test_the_change_in_one_go_is_the_composed_one(bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 7, bias=bias, dtype=torch.float64).requires_grad_(False)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (2, 5), (7, 2)))
    expected = layer(x) + 1.5 * (x @ a.t() @ b.t())
    torch.testing.assert_close(low_rank_linear(x, layer, a, b, 1.5), expected)
    assert torch.autograd.gradcheck(lambda *each: low_rank_linear(each[0], layer, each[1], each[2], 1.5), (x, a, b))


def test_in_bfloat16_the_gradients_are_those_of_float32_roughly():
    layer = torch.nn.Linear(16, 24).requires_grad_(False)
    x, a, b = (torch.randn(*shape, requires_grad=True) for shape in ((4, 16), (2, 16), (24, 2)))
    low_rank_linear(x, layer, a, b, 1.5).sum().backward()
    exact = [each.grad.clone() for each in (x, a, b)]
    x.grad = a.grad = b.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        given = low_rank_linear(x, layer, a, b, 1.5)
    assert given.dtype == torch.bfloat16
    given.sum().backward()
    for each, expected in zip((x, a, b), exact, strict=True):
        assert each.grad.dtype == torch.float32
        assert (each.grad - expected).norm() < 0.05 * expected.norm()
