"""The encoder-decoders that transformers knows, a row each."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from preceptor.models.architecture import TRANSPOSED, Architecture, Layout, TensorRow, rows
from preceptor.models.encoder_decoder import FAMILY
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig

ROW_OF_ONE = Layout(lambda ours, _: ours[0].unsqueeze(0), lambda theirs, shapes, _: [theirs.squeeze(0)])
"""A vector as a matrix of one row."""


def _t5_fits(config: EncoderDecoderConfig) -> bool:
    """Whether T5's words can say it: one dropout, outputs scaled where they are tied, no exact GELU with a gate."""
    one_dropout = config.dropout == config.attention_dropout == config.activation_dropout
    sayable = not (config.gated and config.hidden_act == "gelu")
    return one_dropout and sayable and config.tie_word_embeddings == config.scale_decoder_outputs


def _t5_to_json(config: EncoderDecoderConfig) -> dict[str, Any]:
    act = config.hidden_act
    gated = "gated-gelu" if act == "gelu_new" else f"gated-{act}"
    return {
        "num_decoder_layers": config.decoder_layers,
        "feed_forward_proj": gated if config.gated else act,
        "is_gated_act": config.gated,
        "dense_act_fn": act,
        "tie_word_embeddings": config.tie_word_embeddings,
        "scale_decoder_outputs": config.scale_decoder_outputs,
    }


def _t5_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that T5 says otherwise.

    Version 1.1 neither ties nor scales its outputs. Releases of transformers from 5 on write that they are tied all
    the same, and say by the scaling which it is; older ones say it by the tying.
    """
    *gate, act = str(table.get("feed_forward_proj", "relu")).split("-")
    if gate not in ([], ["gated"]):
        raise ValueError(f"feed_forward_proj is {table['feed_forward_proj']!r}, which is not known here")
    scaled = table.get("scale_decoder_outputs", table.get("tie_word_embeddings") is not False)
    dropout = float(table.get("dropout_rate", 0.1))
    return {
        "num_decoder_layers": table.get("num_decoder_layers") or 0,
        "gated": bool(gate),
        "hidden_act": "gelu_new" if gate and act == "gelu" else act,
        "tie_word_embeddings": bool(scaled),
        "scale_decoder_outputs": bool(scaled),
        "attention_dropout": dropout,
        "activation_dropout": dropout,
        "initializer": "mesh",
    }


def _t5_layer(stack: str, feed_forward: int) -> dict[str, str | tuple[str, ...]]:
    """The names of a stack whose feed-forward layer is the one of this number."""
    theirs, ours = f"{stack}.block.{{layer}}.layer", f"{stack}.layers.{{layer}}"
    attentions = {"0.SelfAttention": "self_attn"} | ({"1.EncDecAttention": "encoder_attn"} if feed_forward == 2 else {})
    return {
        **{
            f"{theirs}.{name}.{part}.weight": f"{ours}.{attention}.{part}_proj.weight"
            for name, attention in attentions.items()
            for part in "qkvo"
        },
        **{f"{theirs}.{name[0]}.layer_norm.weight": f"{ours}.{a}_layer_norm.weight" for name, a in attentions.items()},
        f"{theirs}.{feed_forward}.DenseReluDense.wi_0.weight": f"{ours}.mlp.gate_proj.weight",
        f"{theirs}.{feed_forward}.DenseReluDense.wo.weight": f"{ours}.mlp.down_proj.weight",
        f"{theirs}.{feed_forward}.layer_norm.weight": f"{ours}.final_layer_norm.weight",
        f"{stack}.final_layer_norm.weight": f"{stack}.layer_norm.weight",
    }


def _t5_up(stack: str, feed_forward: int) -> tuple[TensorRow, ...]:
    """The up projection, whose name says whether there is a gate."""
    theirs = f"{stack}.block.{{layer}}.layer.{feed_forward}.DenseReluDense"
    gate, up = (f"{stack}.layers.{{layer}}.mlp.{part}_proj.weight" for part in ("gate", "up"))
    return (
        TensorRow(f"{theirs}.wi.weight", (up,), without=gate),
        TensorRow(f"{theirs}.wi_1.weight", (up,), beside=gate),
    )


_T5_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
T5 = Architecture(
    model_type="t5",
    class_name="T5ForConditionalGeneration",
    family=FAMILY,
    fixed={
        "positions": "relative",
        "position_offset": 0,
        "norm": "rmsnorm",
        "norm_placement": "before",
        "normalize_embedding": False,
        "scale_embedding": False,
        "bias": False,
        "attention_scale": 1.0,
        "final_logits_bias": False,
    },
    fits_also=_t5_fits,
    config_names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
        "max_position_embeddings": "n_positions",
        "relative_attention_num_buckets": "relative_attention_num_buckets",
        "relative_attention_max_distance": "relative_attention_max_distance",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "dropout_rate",
        "initializer_factor": "initializer_factor",
        "decoder_start_token_id": "decoder_start_token_id",
        "pad_token_id": "pad_token_id",
    },
    extra={"is_encoder_decoder": True},
    to_json=_t5_to_json,
    from_json=_t5_from_json,
    tensors=(
        *rows(_t5_layer("encoder", 1) | _t5_layer("decoder", 2)),
        *_t5_up("encoder", 1),
        *_t5_up("decoder", 2),
        *rows({f"{stack}.{_T5_BIAS}": f"{stack}.relative_bias.weight" for stack in ("encoder", "decoder")}, TRANSPOSED),
    ),
    stand_ins={"shared.weight": (*_EMBEDDINGS, "lm_head.weight"), "lm_head.weight": ("shared.weight", *_EMBEDDINGS)},
    tied=("lm_head.weight", *_EMBEDDINGS),
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)
MT5 = replace(T5, model_type="mt5", class_name="MT5ForConditionalGeneration")
"""Read as the T5 that it is."""


def _bart_layer(stack: str) -> dict[str, str | tuple[str, ...]]:
    theirs, ours = f"model.{stack}.layers.{{layer}}", f"{stack}.layers.{{layer}}"
    attentions = ("self_attn",) if stack == "encoder" else ("self_attn", "encoder_attn")
    return {
        **{
            f"{theirs}.{attention}.{their_part}_proj.*": f"{ours}.{attention}.{our_part}_proj.*"
            for attention in attentions
            for their_part, our_part in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o"))
        },
        **{f"{theirs}.{norm}.*": f"{ours}.{norm}.*" for norm in (f"{a}_layer_norm" for a in (*attentions, "final"))},
        f"{theirs}.fc1.*": f"{ours}.mlp.up_proj.*",
        f"{theirs}.fc2.*": f"{ours}.mlp.down_proj.*",
        f"model.{stack}.embed_positions.weight": f"{stack}.embed_positions.weight",
        f"model.{stack}.layernorm_embedding.*": f"{stack}.layernorm_embedding.*",
    }


def _bart_to_json(config: EncoderDecoderConfig) -> dict[str, Any]:
    """The decoder's sizes; and that no token is forced at an end, as releases of transformers take for granted."""
    return {
        "decoder_layers": config.decoder_layers,
        "decoder_ffn_dim": config.intermediate_size,
        "decoder_attention_heads": config.num_attention_heads,
        "forced_eos_token_id": None,
    }


def _bart_from_json(table: Mapping[str, Any], initializer: str) -> dict[str, Any]:
    for theirs in ("ffn_dim", "attention_heads"):
        encoder, decoder = table.get(f"encoder_{theirs}"), table.get(f"decoder_{theirs}")
        if decoder is not None and encoder != decoder:
            raise ValueError(f"encoder_{theirs} ({encoder}) and decoder_{theirs} ({decoder}) must be equal here")
    for name in ("normalize_before", "add_final_layer_norm"):
        if table.get(name):
            raise ValueError(f"{name} is true, which is not known here for this architecture")
    if table.get("tie_word_embeddings") is False:
        raise ValueError("tie_word_embeddings is false: an embedding for each stack is not known here")
    return {"num_decoder_layers": table.get("decoder_layers") or 0, "initializer": initializer}


def _marian_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    if not table.get("share_encoder_decoder_embeddings", True):
        raise ValueError("share_encoder_decoder_embeddings is false: two vocabularies are not known here")
    if table.get("normalize_embedding"):
        raise ValueError("normalize_embedding is true, which is not known here for this architecture")
    return _bart_from_json(table, "xavier")


def _fills(config: EncoderDecoderConfig) -> bool:
    """Whether the heads fill the residual stream, as architectures without a ``head_dim`` take for granted."""
    return config.head_dim * config.num_attention_heads == config.hidden_size


_BART_EMBEDDINGS = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
BART = Architecture(
    model_type="bart",
    class_name="BartForConditionalGeneration",
    family=FAMILY,
    fixed={
        "positions": "learned",
        "position_offset": 2,
        "norm": "layernorm",
        "norm_placement": "after",
        "norm_eps": 1e-5,
        "normalize_embedding": True,
        "gated": False,
        "bias": True,
        "attention_scale": 0.0,
        "tie_word_embeddings": True,
        "scale_decoder_outputs": False,
        "final_logits_bias": True,
    },
    fits_also=_fills,
    config_names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "intermediate_size": "encoder_ffn_dim",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "max_position_embeddings": "max_position_embeddings",
        "hidden_act": "activation_function",
        "scale_embedding": "scale_embedding",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "initializer_range": "init_std",
        "decoder_start_token_id": "decoder_start_token_id",
        "pad_token_id": "pad_token_id",
    },
    extra={"is_encoder_decoder": True},
    to_json=_bart_to_json,
    from_json=lambda table: (
        {"tie_word_embeddings": table.get("tie_word_embeddings") is not False} | _bart_from_json(table, "normal")
    ),
    tensors=(
        *rows({"model.shared.weight": "shared.weight"} | _bart_layer("encoder") | _bart_layer("decoder")),
        TensorRow("final_logits_bias", ("final_logits_bias",), ROW_OF_ONE),
    ),
    prefix="model.",
    stand_ins={"model.shared.weight": _BART_EMBEDDINGS},
    zeros=("final_logits_bias",),
    tied=_BART_EMBEDDINGS,
)
MARIAN = replace(
    BART,
    model_type="marian",
    class_name="MarianMTModel",
    fixed={**BART.fixed, "positions": "sinusoidal", "position_offset": 0, "normalize_embedding": False},
    to_json=lambda config: (
        _bart_to_json(config) | {"decoder_vocab_size": config.vocab_size, "share_encoder_decoder_embeddings": True}
    ),
    from_json=lambda table: (
        {"tie_word_embeddings": table.get("tie_word_embeddings") is not False} | _marian_from_json(table)
    ),
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weight",),
)
NATIVE = Architecture(
    model_type="preceptor-encoder-decoder",
    class_name="EncoderDecoder",
    family=FAMILY,
    config_names={field.name: field.name for field in fields(EncoderDecoderConfig)},
)
ARCHITECTURES = (T5, BART, MARIAN, MT5, NATIVE)
"""In order of preference; the last one takes every encoder-decoder, and only this project reads it."""
