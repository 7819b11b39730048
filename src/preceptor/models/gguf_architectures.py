"""The architectures of GGUF files as rows: transformers' names for tensors and keys, and what else differs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]


def _same(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    return weight


def _llama_rows(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """Rotary pairs of a head stand side by side in GGUF, and half a head apart in transformers."""
    if ".attn_q." in name or ".attn_k." in name:
        num_heads = config["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"]
        pairs = weight.reshape(num_heads, -1, 2, *weight.shape[1:])
        return pairs.swapaxes(1, 2).reshape(weight.shape)
    return weight


def _gemma_gains(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """Gains are stored whole in GGUF, and as what exceeds one in transformers."""
    return weight - np.float32(1) if name.endswith("norm.weight") else weight


def _gpt2_columns(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """Layers of GPT-2 are stored output by input in GGUF, and input by output in transformers."""
    within = re.search(r"\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$", name)
    return weight.T if within else weight


def _neox_rows(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """Queries, keys and values follow each other in GGUF, and alternate head by head in transformers."""
    if ".attn_qkv." in name:
        parts = weight.reshape(3, config["num_attention_heads"], -1, *weight.shape[1:])
        return parts.swapaxes(0, 1).reshape(weight.shape)
    return weight


def _to_llama_rows(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """The way back from ``_llama_rows``."""
    if ".attn_q." in name or ".attn_k." in name:
        num_heads = config["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"]
        halves = weight.reshape(num_heads, 2, -1, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight


def _to_gemma_gains(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """The way back from ``_gemma_gains``."""
    return weight + np.float32(1) if name.endswith("norm.weight") else weight


def _to_neox_rows(name: str, weight: _Array, config: Mapping[str, Any]) -> _Array:
    """The way back from ``_neox_rows``."""
    if ".attn_qkv." in name:
        by_head = weight.reshape(config["num_attention_heads"], 3, -1, *weight.shape[1:])
        return by_head.swapaxes(0, 1).reshape(weight.shape)
    return weight


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture of GGUF as a row: the names of both sides, and what else differs."""

    model_type: str
    class_name: str
    names: Mapping[str, str]
    """GGUF's stem -> transformers' name without ".weight", `{}` for the number of the layer."""
    keys: Mapping[str, str]
    """GGUF's key without the architecture -> the key in config.json."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What config.json says where GGUF is silent."""
    biased: frozenset[str] = frozenset()
    """Stems that have a bias."""
    choices: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """A key of config.json that is true if these stems have a bias."""
    change: Callable[[str, _Array, Mapping[str, Any]], _Array] = _same
    """GGUF's values, by GGUF's name, to transformers'."""
    undo: Callable[[str, _Array, Mapping[str, Any]], _Array] = _same
    """transformers' values, by GGUF's name, to GGUF's."""


_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PRE_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_GEMMA_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm", **_POST_NORMS}


def _names(top: Mapping[str, str], layers: str, *within: Mapping[str, str]) -> dict[str, str]:
    """The stems of a whole model, from those of its top and of one layer."""
    return {**top, **{f"blk.{{}}.{stem}": layers + name for row in within for stem, name in row.items()}}


_decoder_names = partial(_names, _TOP, "model.layers.{}.", _PROJECTIONS)
_SIZES = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
}
_ROTARY = {
    **_SIZES,
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_SILU = {"hidden_act": "silu", "rope_theta": 10000.0}
_BIAS_QKV = frozenset({"blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"})
_BIAS_ATTENTION = _BIAS_QKV | {"blk.{}.attn_output"}
_BIAS_MLP = frozenset({"blk.{}.ffn_gate", "blk.{}.ffn_up", "blk.{}.ffn_down"})
_BIAS_PLAIN = frozenset(
    {"output_norm"}
    | {f"blk.{{}}.{stem}" for stem in ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")}
)
_LLAMA_CHOICES = {"attention_bias": _BIAS_ATTENTION, "mlp_bias": _BIAS_MLP}
_GEMMA_SHAPE = {"hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0}
_WINDOW = {"attention.sliding_window": "sliding_window"}

ARCHITECTURES = {
    "llama": Architecture(
        "llama",
        "LlamaForCausalLM",
        _decoder_names(_PRE_NORMS),
        _ROTARY,
        _SILU,
        frozenset(),
        _LLAMA_CHOICES,
        _llama_rows,
        _to_llama_rows,
    ),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _decoder_names(_PRE_NORMS), _ROTARY, _SILU, _BIAS_QKV),
    "qwen3": Architecture(
        "qwen3",
        "Qwen3ForCausalLM",
        _decoder_names(_PRE_NORMS, _HEAD_NORMS),
        _ROTARY,
        _SILU,
        choices={"attention_bias": _BIAS_ATTENTION},
    ),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM", _decoder_names(_POST_NORMS, _HEAD_NORMS), _ROTARY, _SILU),
    "gemma2": Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        _decoder_names(_GEMMA_NORMS),
        {
            **_ROTARY,
            **_WINDOW,
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        {**_GEMMA_SHAPE, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        change=_gemma_gains,
        undo=_to_gemma_gains,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        _decoder_names(_GEMMA_NORMS, _HEAD_NORMS),
        {
            **_ROTARY,
            **_WINDOW,
            "rope.freq_base_swa": "rope_local_base_freq",
            "attention.sliding_window_pattern": "sliding_window_pattern",
        },
        {
            **_GEMMA_SHAPE,
            "rope_theta": 1_000_000.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "rope_local_base_freq": 10000.0,
        },
        change=_gemma_gains,
        undo=_to_gemma_gains,
    ),
    "gpt2": Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        _names(
            {
                "token_embd": "transformer.wte",
                "position_embd": "transformer.wpe",
                "output_norm": "transformer.ln_f",
                "output": "lm_head",
            },
            "transformer.h.{}.",
            {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2"},
            {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        ),
        {
            "context_length": "n_positions",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "embedding_length": "n_embd",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        {"activation_function": "gelu_new"},
        _BIAS_PLAIN,
        change=_gpt2_columns,
        undo=_gpt2_columns,
    ),
    "gptneox": Architecture(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        _names(
            {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
            "gpt_neox.layers.{}.",
            {"attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value", "attn_output": "attention.dense"},
            {"ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"},
        ),
        {
            **_SIZES,
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
            "rope.freq_base": "rotary_emb_base",
        },
        {"hidden_act": "gelu", "rotary_emb_base": 10000.0, "use_parallel_residual": True},
        _BIAS_PLAIN,
        change=_neox_rows,
        undo=_to_neox_rows,
    ),
}
