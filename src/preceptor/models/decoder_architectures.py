"""The decoders that transformers knows, a row each."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from preceptor.models.architecture import TRANSPOSED, Architecture, rows
from preceptor.models.decoder import FAMILY, DecoderConfig
from preceptor.nn.positions import RopeScaling

_NAMES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "hidden_act", "tie_word_embeddings"),
    "initializer_range",
)
_LLAMA_NAMES = {name: name for name in _NAMES} | {"norm_eps": "rms_norm_eps", "dropout": "attention_dropout"}
_LLAMA_SHAPE = {"norm": "rmsnorm", "positions": "rotary", "gated": True, "attention_bias": "none", "mlp_bias": False}
_NOTHING_SPECIAL = {
    "norm_placement": "before",
    "norm_offset": False,
    "parallel_residual": False,
    "attention_scale": 0.0,
    "attention_softcap": 0.0,
    "logit_softcap": 0.0,
    "sliding_window": 0,
    "scale_embedding": False,
    "rotary_fraction": 1.0,
}


def rope_to_json(config: DecoderConfig) -> dict[str, Any]:
    """The rotary parameters where releases of transformers from 5 on look for them, and where older ones do."""
    scaling = config.rope_scaling
    table: dict[str, Any] = {"rope_type": scaling.rope_type, "rope_theta": config.rope_theta}
    if scaling.rope_type != "default":
        table["factor"] = scaling.factor
    if scaling.rope_type == "llama3":
        for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
            table[name] = getattr(scaling, name)
    older = None if scaling.rope_type == "default" else {key: table[key] for key in table if key != "rope_theta"}
    return {"rope_theta": config.rope_theta, "rope_parameters": table, "rope_scaling": older}


def rope_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary fields of our configuration, from either place."""
    rope = dict(table.get("rope_scaling") or {}) | dict(table.get("rope_parameters") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rope_type is {kind!r}; known are default, linear and llama3")
    names = [field.name for field in fields(RopeScaling) if field.name != "rope_type"]
    scaling = RopeScaling(rope_type=kind, **{name: rope[name] for name in names if name in rope and kind != "default"})
    theta = rope.get("rope_theta", table.get("rope_theta", DecoderConfig().rope_theta))
    return {"rope_theta": float(theta), "rope_scaling": scaling}


def _is_square(config: DecoderConfig) -> bool:
    """Whether every head has its own keys and the heads fill the residual stream, as GPT-2 takes for granted."""
    heads, width = config.num_attention_heads, config.hidden_size
    return config.num_key_value_heads == heads and config.head_dim * heads == width


LLAMA = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    family=FAMILY,
    fixed=_NOTHING_SPECIAL | _LLAMA_SHAPE | {"qk_norm": "none"},
    config_names=_LLAMA_NAMES,
    extra={"attention_bias": False, "mlp_bias": False},
    to_json=rope_to_json,
    from_json=rope_from_json,
    tied=("lm_head.weight",),
    ignored=(r".*rotary_emb\.inv_freq",),
)
QWEN3 = Architecture(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    family=FAMILY,
    fixed=_NOTHING_SPECIAL | _LLAMA_SHAPE | {"qk_norm": "head"},
    config_names=_LLAMA_NAMES,
    extra={"attention_bias": False, "use_sliding_window": False, "sliding_window": None},
    to_json=rope_to_json,
    from_json=rope_from_json,
    tied=("lm_head.weight",),
)
GPT2 = Architecture(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    family=FAMILY,
    fixed=_NOTHING_SPECIAL
    | {
        "norm": "layernorm",
        "positions": "learned",
        "gated": False,
        "attention_bias": "all",
        "mlp_bias": True,
        "qk_norm": "none",
        "tie_word_embeddings": True,
    },
    fits_also=_is_square,
    config_names={
        "vocab_size": "vocab_size",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "hidden_act": "activation_function",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "resid_pdrop",
        "initializer_range": "initializer_range",
    },
    extra={"tie_word_embeddings": True},
    to_json=lambda config: {"attn_pdrop": config.dropout, "embd_pdrop": config.dropout},
    tensors=(
        *rows(
            {
                "transformer.wte.weight": "model.embed_tokens.weight",
                "transformer.wpe.weight": "model.embed_positions.weight",
                "transformer.ln_f.*": "model.norm.*",
                "transformer.h.{layer}.ln_1.*": "model.layers.{layer}.input_layernorm.*",
                "transformer.h.{layer}.ln_2.*": "model.layers.{layer}.post_attention_layernorm.*",
            }
        ),
        *rows(
            {
                "transformer.h.{layer}.attn.c_attn.*": tuple(
                    f"model.layers.{{layer}}.self_attn.{part}_proj.*" for part in "qkv"
                ),
                "transformer.h.{layer}.attn.c_proj.*": "model.layers.{layer}.self_attn.o_proj.*",
                "transformer.h.{layer}.mlp.c_fc.*": "model.layers.{layer}.mlp.up_proj.*",
                "transformer.h.{layer}.mlp.c_proj.*": "model.layers.{layer}.mlp.down_proj.*",
            },
            TRANSPOSED,
        ),
    ),
    prefix="transformer.",
    tied=("lm_head.weight",),
    ignored=(r".*\.attn\.(masked_)?bias",),
)
NATIVE = Architecture(
    model_type="preceptor-decoder",
    class_name="Decoder",
    family=FAMILY,
    config_names={field.name: field.name for field in fields(DecoderConfig) if field.name != "rope_scaling"},
    to_json=rope_to_json,
    from_json=rope_from_json,
)
ARCHITECTURES = (QWEN3, LLAMA, GPT2, NATIVE)
"""In order of preference; the last one takes every decoder, and only this project reads it."""
