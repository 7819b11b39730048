"""Starting weights: each scheme's spread against its formula, and what holds over widths."""

import math

import pytest
import torch

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.low_rank_targets import attach
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder import build as build_encoder
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.heads import HeadConfig, attach_head
from preceptor.models.initialisation import learning_rate_scales
from preceptor.models.language_model import LanguageModel
from preceptor.nn.inputs import Inputs
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig

WIDTH, LAYERS, VOCABULARY = 64, 4, 512
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}


def decoder(**values):
    more = {"head_dim": 16, "num_key_value_heads": 4, "zero_init_outputs": False}
    return build(DecoderConfig(**(SHAPE | more | values)), torch.Generator().manual_seed(0))


def encoder(**values):
    return build_encoder(EncoderConfig(**(SHAPE | values)), torch.Generator().manual_seed(0))


def spreads(model, *names):
    weights = dict(model.named_parameters())
    return [weights[name].std().item() for name in names]


def query(layer):
    return f"model.layers.{layer}.self_attn.q_proj.weight"


def test_the_defaults_draw_what_they_always_drew():
    model, generator = decoder(), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        scale = 1 / math.sqrt(2 * LAYERS) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        assert torch.equal(parameter, torch.empty_like(parameter).normal_(0, 0.02 * scale, generator=generator)), name


_XAVIER = math.sqrt(2 / (2 * WIDTH))
_CUT_AT_2, _CUT_AT_3 = 0.8796, 0.9866
"""The deviation of a standard normal distribution that is cut off at two and at three."""


@pytest.mark.parametrize(
    ("scheme", "embedding", "inner", "output"),
    [
        ("gpt2", 0.02, 0.02, 0.02 / math.sqrt(2 * LAYERS)),
        ("normal", 0.02, 0.02, 0.02),
        ("bert", 0.02 * _CUT_AT_2, 0.02 * _CUT_AT_2, 0.02 * _CUT_AT_2),
        ("modernbert", 0.02 * _CUT_AT_3, 0.02 * _CUT_AT_3, 0.02 * _CUT_AT_3 / math.sqrt(2 * LAYERS)),
        ("small", math.sqrt(0.4 / WIDTH), math.sqrt(0.4 / WIDTH), 2 / (LAYERS * math.sqrt(WIDTH))),
        ("xavier", WIDTH**-0.5, _XAVIER, _XAVIER),
        ("depth", WIDTH**-0.5, _XAVIER / math.sqrt(LAYERS), _XAVIER / math.sqrt(LAYERS)),
    ],
)
def test_each_scheme_spreads_weights_as_its_paper_says(scheme, embedding, inner, output):
    last = f"model.layers.{LAYERS - 1}.self_attn.o_proj.weight"
    found = spreads(decoder(initialisation=scheme), "model.embed_tokens.weight", query(LAYERS - 1), last)
    assert found == pytest.approx([embedding, inner, output], rel=0.04)
    zeroed = spreads(decoder(initialisation=scheme, zero_init_outputs=True), query(LAYERS - 1), last)
    assert zeroed == [pytest.approx(inner, rel=0.04), 0.0]


@pytest.mark.parametrize(("scheme", "limit"), [("bert", 0.04), ("modernbert", 0.06)])
def test_cut_off_normals_end_where_they_should(scheme, limit):
    model = encoder(initialisation=scheme, norm_bias=True, attention_bias=True, pooler=True)
    largest = model.embed_tokens.weight.abs().max().item()
    assert 0.9 * limit < largest <= limit
    late = 0.02 * _CUT_AT_3 / math.sqrt(2 * LAYERS) if scheme == "modernbert" else 0.02 * _CUT_AT_2
    assert spreads(model, "lm_head.dense.weight") == pytest.approx([late], rel=0.04)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_an_encoders_outputs_may_start_at_zero():
    model = encoder(zero_init_outputs=True)
    assert not model.layers[0].self_attn.o_proj.weight.any() and not model.layers[0].mlp.down_proj.weight.any()
    assert model.layers[0].mlp.up_proj.weight.any()


# --- width ---

ROWS, TOKENS, STEPS = 8, 32, 6
BASE = {"width_base": WIDTH, "initializer_range": 1 / math.sqrt(WIDTH), "initialisation": "normal"}


def wide(family, width, *, heads_grow, **values):
    """A model of some width, whose heads are 16 wide, or four in number."""
    head_dim = width // 4 if heads_grow else 16
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": width // head_dim,
        "vocab_size": 64,
    }
    if family == "encoder":
        return encoder(**(shape | values))
    return decoder(**(shape | {"num_key_value_heads": width // head_dim, "head_dim": head_dim} | values))


def layers_of(model):
    return model.model.layers if hasattr(model, "model") else model.layers


def sizes_after_steps(model: LanguageModel, optimizer: OptimizerConfig, steps: int) -> dict[str, float]:
    """How far what each layer adds, and the logits, have moved after some steps on the same rows."""
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, 64, (ROWS, TOKENS), generator=generator)
    labels_BT = torch.randint(0, 64, (ROWS, TOKENS), generator=generator)
    seen: dict[str, torch.Tensor] = {}
    for number, layer in enumerate(layers_of(model)):
        for name in ("self_attn", "mlp"):

            def note(module, inputs, output, key=f"{number}.{name}"):
                seen[key] = output.detach()

            getattr(layer, name).register_forward_hook(note)

    def look():
        seen["logits"] = model.logits(tokens_BT)
        return dict(seen)

    parameters = dict(model.named_parameters())
    trainer = Optimizer(parameters, optimizer, learning_rate_scales(model, optimizer.kind))
    before = look()
    for _ in range(steps):
        loss, _, count = model.loss_sum(Inputs(tokens_BT), labels_BT)
        (loss / count).backward()
        trainer.step(1.0)
        for parameter in parameters.values():
            parameter.grad = None
    return {key: (value - before[key]).square().mean().sqrt().item() for key, value in look().items()}


def growth(family, kind, *, heads_grow=False, widths=(64, 512), mup=True, **values):
    """How many times as far each layer moves at the greater width as at the smaller one."""
    config = OptimizerConfig(kind=kind, learning_rate=0.02 if kind == "muon" else 4e-3, adamw_learning_rate=4e-3)
    width_values = BASE | ({"head_dim_base": 16} if heads_grow else {}) if mup else {}
    small, large = (
        sizes_after_steps(wide(family, width, heads_grow=heads_grow, **width_values, **values), config, STEPS)
        for width in widths
    )
    return {key: large[key] / small[key] for key in small}


@pytest.mark.parametrize(
    ("family", "kind", "heads_grow", "values"),
    [
        ("decoder", "adamw", False, {}),
        ("decoder", "adamw", True, {"qk_norm": "none", "tie_word_embeddings": False}),
        ("decoder", "adamw", True, {"scale_embedding": True}),
        ("decoder", "muon", True, {"qk_norm": "none"}),
        ("encoder", "adamw", False, {}),
        ("encoder", "adamw", True, {}),
    ],
)
def test_under_mup_no_layer_moves_further_in_a_wider_model(family, kind, heads_grow, values):
    widths = (64, 256) if values else (64, 512)
    found = growth(family, kind, heads_grow=heads_grow, widths=widths, **values)
    assert all(0.45 < factor < 1.6 for factor in found.values()), found


@pytest.mark.parametrize(("family", "kind"), [("decoder", "adamw"), ("decoder", "muon"), ("encoder", "adamw")])
def test_without_mup_a_wider_model_moves_further_at_the_same_rate(family, kind):
    found = growth(family, kind, mup=False)
    assert all(factor > 2.5 for factor in found.values()), found


def test_a_model_of_its_base_width_is_the_model_without_one():
    plain, based = decoder(), decoder(width_base=WIDTH, head_dim_base=16)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), based.parameters(), strict=True))
    assert set(learning_rate_scales(based).values()) == {1.0} == set(learning_rate_scales(plain).values())


def test_spreads_and_rates_are_those_of_the_table():
    # Four times the width, heads twice as large.
    model = decoder(width_base=WIDTH // 4, head_dim_base=8, qk_norm="none", tie_word_embeddings=False)
    scales = learning_rate_scales(model)
    root_of_half = math.sqrt(0.5)
    expected = {
        "model.embed_tokens.weight": 1.0,
        "lm_head.weight": 1.0,
        "model.norm.weight": 0.25,
        "model.layers.0.input_layernorm.weight": 1.0,
        query(0): 0.25 * root_of_half,
        "model.layers.0.self_attn.k_proj.weight": 0.25,
        "model.layers.0.mlp.down_proj.weight": 0.25,
    }
    assert {name: scales[name] for name in expected} == pytest.approx(expected)
    muon = learning_rate_scales(model, "muon")
    assert muon[query(0)] == pytest.approx(root_of_half) and muon["model.layers.0.mlp.down_proj.weight"] == 1.0
    assert spreads(model, "model.embed_tokens.weight", query(0), "model.layers.0.self_attn.k_proj.weight") == (
        pytest.approx([0.02, 0.01 * root_of_half, 0.01], rel=0.04)
    )
    assert torch.equal(model.model.norm.weight, torch.full((WIDTH,), 0.25))


def test_where_queries_are_normalised_their_gain_carries_the_factor():
    model = decoder(width_base=WIDTH // 4, head_dim_base=4, norm_offset=True)
    scales, gain = learning_rate_scales(model), "model.layers.0.self_attn.q_norm.weight"
    assert scales[gain] == 0.5 and scales[query(0)] == 0.25
    assert torch.equal(1 + model.model.layers[0].self_attn.q_norm.weight, torch.full((16,), 0.5))
    assert torch.equal(1 + model.model.norm.weight, torch.full((WIDTH,), 0.25))


def test_a_scale_that_was_asked_for_stays():
    model = decoder(width_base=WIDTH // 4, head_dim_base=4, attention_scale=0.1, qk_norm="none")
    assert learning_rate_scales(model)[query(0)] == 0.25


def test_adapters_and_heads_keep_their_rates():
    model = decoder(width_base=WIDTH // 4)
    attach_head(model, "kind", HeadConfig(labels=("a", "b"), dense=True), torch.Generator().manual_seed(0))
    attach(model, AdapterConfig(rank=2), torch.Generator().manual_seed(0))
    scales = learning_rate_scales(model)
    theirs = {name: scale for name, scale in scales.items() if "lora_" in name or name.startswith("heads.")}
    assert len(theirs) > 8 and set(theirs.values()) == {1.0}


def test_a_base_below_zero_is_refused():
    with pytest.raises(ValueError, match="width_base"):
        DecoderConfig(width_base=-1)
    with pytest.raises(ValueError, match="head_dim_base"):
        EncoderConfig(head_dim_base=-1)
