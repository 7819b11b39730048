"""The decoders that transformers knows, a row each."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from preceptor.models.architecture import TRANSPOSED, Architecture, Layout, Shape, TensorRow, rows
from preceptor.models.decoder import FAMILY
from preceptor.models.decoder_config import DecoderConfig
from preceptor.nn.rope_scaling import RopeScaling

_SAME_NAMES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "hidden_act", "tie_word_embeddings"),
    "initializer_range",
)
_LLAMA_NAMES = {name: name for name in _SAME_NAMES} | {"norm_eps": "rms_norm_eps", "dropout": "attention_dropout"}
_LLAMA_SHAPE = {
    "norm": "rmsnorm",
    "norm_placement": "before",
    "norm_offset": False,
    "parallel_residual": False,
    "positions": "rotary",
    "rotary_fraction": 1.0,
    "gated": True,
    "attention_bias": "none",
    "mlp_bias": False,
    "qk_norm": "none",
    "attention_scale": 0.0,
    "attention_softcap": 0.0,
    "logit_softcap": 0.0,
    "sliding_window": 0,
    "full_attention_every": 0,
    "rope_theta_local": 0.0,
    "scale_embedding": False,
}
_FREE = object()
"""Stands for a field that an architecture leaves open."""


def _fixed(**differences: Any) -> dict[str, Any]:
    """What an architecture implies: Llama's shape but for these differences."""
    return {name: value for name, value in (_LLAMA_SHAPE | differences).items() if value is not _FREE}


def _is_square(config: DecoderConfig) -> bool:
    """Whether every head has its own keys and the heads fill the residual stream."""
    return config.num_key_value_heads == config.num_attention_heads and _fills(config)


def _fills(config: DecoderConfig) -> bool:
    """Whether the heads fill the residual stream, as architectures without a ``head_dim`` take for granted."""
    return config.head_dim * config.num_attention_heads == config.hidden_size


def rope_to_json(config: DecoderConfig) -> dict[str, Any]:
    """The rotary parameters where releases of transformers from 5 on look for them, and where older ones do."""
    table = _rope_table(config.rope_theta, config.rope_scaling)
    older = {key: value for key, value in table.items() if key != "rope_theta"}
    is_default = config.rope_scaling.rope_type == "default"
    return {"rope_theta": config.rope_theta, "rope_parameters": table, "rope_scaling": None if is_default else older}


def _rope_table(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    table: dict[str, Any] = {"rope_type": scaling.rope_type, "rope_theta": theta}
    if scaling.rope_type != "default":
        table["factor"] = scaling.factor
    if scaling.rope_type == "llama3":
        for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
            table[name] = getattr(scaling, name)
    return table


def rope_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary fields of our configuration, from either place."""
    rope = dict(table.get("rope_scaling") or {}) | dict(table.get("rope_parameters") or {})
    theta = rope.get("rope_theta", table.get("rope_theta", DecoderConfig().rope_theta))
    return {"rope_theta": float(theta), "rope_scaling": _scaling(rope)}


def _scaling(rope: Mapping[str, Any]) -> RopeScaling:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rope_type is {kind!r}; known are default, linear and llama3")
    if kind == "default":
        return RopeScaling()
    names = [field.name for field in fields(RopeScaling) if field.name != "rope_type"]
    return RopeScaling(rope_type=kind, **{name: rope[name] for name in names if name in rope})


def _llama_like(model_type: str, class_name: str, fixed: Mapping[str, Any], **more: Any) -> Architecture:
    """An architecture whose names are Llama's."""
    defaults: dict[str, Any] = {"config_names": _LLAMA_NAMES, "to_json": rope_to_json, "from_json": rope_from_json}
    return Architecture(
        model_type=model_type,
        class_name=class_name,
        family=FAMILY,
        fixed=fixed,
        tied=("lm_head.weight",),
        ignored=(r".*rotary_emb\.inv_freq",),
        **(defaults | more),
    )


def _without_window(table: Mapping[str, Any]) -> dict[str, Any]:
    if table.get("use_sliding_window"):
        raise ValueError("use_sliding_window is true: a window for the upper layers only is not known here")
    return rope_from_json(table)


LLAMA = _llama_like("llama", "LlamaForCausalLM", _fixed(), extra={"attention_bias": False, "mlp_bias": False})
MISTRAL = _llama_like(
    "mistral",
    "MistralForCausalLM",
    _fixed(sliding_window=_FREE),
    to_json=lambda config: rope_to_json(config) | {"sliding_window": config.sliding_window or None},
    from_json=lambda table: rope_from_json(table) | {"sliding_window": table.get("sliding_window") or 0},
)
QWEN2 = _llama_like(
    "qwen2",
    "Qwen2ForCausalLM",
    _fixed(attention_bias="qkv"),
    fits_also=_fills,
    extra={"use_sliding_window": False},
    from_json=_without_window,
)
QWEN3 = _llama_like(
    "qwen3",
    "Qwen3ForCausalLM",
    _fixed(qk_norm="head"),
    extra={"attention_bias": False, "use_sliding_window": False, "sliding_window": None},
    from_json=_without_window,
)
OLMO2 = _llama_like(
    "olmo2",
    "Olmo2ForCausalLM",
    _fixed(qk_norm="width", norm_placement="after"),
    fits_also=_fills,
    extra={"attention_bias": False},
    tensors=rows(
        {
            "model.layers.{layer}.post_attention_layernorm.*": "model.layers.{layer}.attention_output_layernorm.*",
            "model.layers.{layer}.post_feedforward_layernorm.*": "model.layers.{layer}.mlp_output_layernorm.*",
        }
    ),
)

_GEMMA = {"norm_offset": True, "scale_embedding": True}
_GEMMA_OPEN = {"norm_placement": "both"} | dict.fromkeys(
    ("attention_scale", "attention_softcap", "logit_softcap", "sliding_window", "full_attention_every"), _FREE
)
"""What sets Gemma 2 and 3 apart from the first."""
_GEMMA_NORMS = rows(
    {
        "model.layers.{layer}.post_attention_layernorm.*": "model.layers.{layer}.attention_output_layernorm.*",
        "model.layers.{layer}.pre_feedforward_layernorm.*": "model.layers.{layer}.post_attention_layernorm.*",
        "model.layers.{layer}.post_feedforward_layernorm.*": "model.layers.{layer}.mlp_output_layernorm.*",
    }
)
_GEMMA_NAMES = {name: key for name, key in _LLAMA_NAMES.items() if name != "hidden_act"} | {
    "hidden_act": "hidden_activation"
}


def _layer_types(config: DecoderConfig) -> list[str]:
    windows = [config.window_of(layer) for layer in range(config.num_hidden_layers)]
    return ["sliding_attention" if window else "full_attention" for window in windows]


def _gemma_to_json(config: DecoderConfig) -> dict[str, Any]:
    """What Gemma 2 and 3 say of attention; the scale is one over the root of ``query_pre_attn_scalar``."""
    scalar = config.attention_scale**-2 if config.attention_scale else config.head_dim
    return {
        "attention_bias": False,
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
        "attn_logit_softcapping": config.attention_softcap or None,
        "final_logit_softcapping": config.logit_softcap or None,
        "sliding_window": config.sliding_window or config.max_position_embeddings,
        "layer_types": _layer_types(config),
    }


def _gemma_from_json(table: Mapping[str, Any], every: int) -> dict[str, Any]:
    """The fields of attention; ``every`` is how often a layer sees all where the file does not say."""
    if table.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention is true, which a decoder is not")
    types = table.get("layer_types")
    window = int(table.get("sliding_window") or 0)
    if types is not None:
        every = types.index("full_attention") + 1 if "full_attention" in types else 0
        if "sliding_attention" not in types:
            every, window = 0, 0
        expected = ["full_attention" if not window or (every and (n + 1) % every == 0) else "sliding_attention"
                    for n in range(len(types))]  # fmt: skip
        if types != expected:
            raise ValueError("layer_types do not repeat with one full layer at the end of each period")
    return {
        "attention_scale": float(table.get("query_pre_attn_scalar", 256)) ** -0.5,
        "attention_softcap": float(table.get("attn_logit_softcapping") or 0.0),
        "logit_softcap": float(table.get("final_logit_softcapping") or 0.0),
        "sliding_window": window,
        "full_attention_every": every,
    }


def _gemma3_to_json(config: DecoderConfig) -> dict[str, Any]:
    local = config.rope_theta_local or config.rope_theta
    return _gemma_to_json(config) | {
        "rope_parameters": {
            "full_attention": _rope_table(config.rope_theta, config.rope_scaling),
            "sliding_attention": _rope_table(local, RopeScaling()),
        }
    }


def _gemma3_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    rope = table.get("rope_parameters") or {}
    everywhere, local = rope.get("full_attention") or {}, rope.get("sliding_attention") or {}
    older = table.get("rope_scaling") or {}
    return _gemma_from_json(table, every=int(table.get("sliding_window_pattern", 6))) | {
        "rope_theta": float(everywhere.get("rope_theta", table.get("rope_theta", 1e6))),
        "rope_scaling": _scaling(everywhere or older),
        "rope_theta_local": float(local.get("rope_theta", table.get("rope_local_base_freq", 1e4))),
    }


GEMMA = _llama_like(
    "gemma",
    "GemmaForCausalLM",
    _fixed(**_GEMMA),
    extra={"attention_bias": False},
)
GEMMA2 = _llama_like(
    "gemma2",
    "Gemma2ForCausalLM",
    _fixed(**_GEMMA, **_GEMMA_OPEN),
    config_names=_GEMMA_NAMES,
    to_json=lambda config: rope_to_json(config) | _gemma_to_json(config),
    from_json=lambda table: rope_from_json(table) | _gemma_from_json(table, every=2),
    tensors=_GEMMA_NORMS,
)
GEMMA3 = _llama_like(
    "gemma3_text",
    "Gemma3ForCausalLM",
    _fixed(**_GEMMA, **_GEMMA_OPEN, qk_norm="head", rope_theta_local=_FREE),
    config_names=_GEMMA_NAMES,
    to_json=_gemma3_to_json,
    from_json=_gemma3_from_json,
    tensors=_GEMMA_NORMS,
)


def _of_attention(part: str) -> tuple[str, ...]:
    return tuple(f"model.layers.{{layer}}.self_attn.{kind}_proj.*" for kind in part)


GPT2 = Architecture(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    family=FAMILY,
    fixed=_fixed(
        norm="layernorm",
        positions="learned",
        gated=False,
        attention_bias="all",
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
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
                "transformer.h.{layer}.attn.c_attn.*": _of_attention("qkv"),
                "transformer.h.{layer}.attn.c_proj.*": _of_attention("o"),
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


def _interleave(ours: Sequence[Tensor], config: DecoderConfig) -> Tensor:
    """Queries, keys and values in one tensor, those of a head together."""
    by_head = [torch.unflatten(tensor, 0, (config.num_attention_heads, config.head_dim)) for tensor in ours]
    return torch.stack(by_head, dim=1).flatten(0, 2)


def _part(theirs: Tensor, shapes: Sequence[Shape], config: DecoderConfig) -> Sequence[Tensor]:
    by_head = torch.unflatten(theirs, 0, (config.num_attention_heads, len(shapes), config.head_dim))
    return [tensor.flatten(0, 1) for tensor in by_head.unbind(1)]


def _neox_to_json(config: DecoderConfig) -> dict[str, Any]:
    table = rope_to_json(config)
    table["rope_parameters"]["partial_rotary_factor"] = config.rotary_fraction
    return table | {"rotary_pct": config.rotary_fraction, "attention_dropout": config.dropout}


def _neox_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    if not table.get("attention_bias", True):
        raise ValueError("attention_bias is false, which is not known here for this architecture")
    rope = table.get("rope_parameters") or {}
    older = {"rope_theta": table.get("rotary_emb_base", 10_000)}
    fraction = rope.get("partial_rotary_factor", table.get("rotary_pct", 0.25))
    return rope_from_json({**older, **table}) | {"rotary_fraction": float(fraction)}


_NEOX_LAYER = "gpt_neox.layers.{layer}"
GPT_NEOX = Architecture(
    model_type="gpt_neox",
    class_name="GPTNeoXForCausalLM",
    family=FAMILY,
    fixed=_fixed(
        norm="layernorm",
        gated=False,
        attention_bias="all",
        mlp_bias=True,
        parallel_residual=_FREE,
        rotary_fraction=_FREE,
    ),
    fits_also=_is_square,
    config_names={name: name for name in _SAME_NAMES if name not in ("num_key_value_heads", "head_dim")}
    | {
        "norm_eps": "layer_norm_eps",
        "dropout": "hidden_dropout",
        "parallel_residual": "use_parallel_residual",
    },
    extra={"attention_bias": True},
    to_json=_neox_to_json,
    from_json=_neox_from_json,
    tensors=(
        *rows(
            {
                "gpt_neox.embed_in.weight": "model.embed_tokens.weight",
                "gpt_neox.final_layer_norm.*": "model.norm.*",
                "embed_out.weight": "lm_head.weight",
                f"{_NEOX_LAYER}.input_layernorm.*": "model.layers.{layer}.input_layernorm.*",
                f"{_NEOX_LAYER}.post_attention_layernorm.*": "model.layers.{layer}.post_attention_layernorm.*",
                f"{_NEOX_LAYER}.attention.dense.*": _of_attention("o"),
                f"{_NEOX_LAYER}.mlp.dense_h_to_4h.*": "model.layers.{layer}.mlp.up_proj.*",
                f"{_NEOX_LAYER}.mlp.dense_4h_to_h.*": "model.layers.{layer}.mlp.down_proj.*",
            }
        ),
        TensorRow(f"{_NEOX_LAYER}.attention.query_key_value.*", _of_attention("qkv"), Layout(_interleave, _part)),
    ),
    prefix="gpt_neox.",
    tied=("embed_out.weight",),
    ignored=(r".*\.attention\.(masked_)?bias", r".*rotary_emb\.inv_freq"),
)
NATIVE = Architecture(
    model_type="preceptor-decoder",
    class_name="Decoder",
    family=FAMILY,
    config_names={field.name: field.name for field in fields(DecoderConfig) if field.name != "rope_scaling"},
    to_json=rope_to_json,
    from_json=rope_from_json,
)
ARCHITECTURES = (QWEN3, LLAMA, GPT2, MISTRAL, QWEN2, OLMO2, GPT_NEOX, GEMMA, GEMMA2, GEMMA3, NATIVE)
"""In order of preference; the last one takes every decoder, and only this project reads it."""
