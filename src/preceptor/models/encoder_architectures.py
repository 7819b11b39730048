"""The encoders that transformers knows, a row each."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from preceptor.models.architecture import STACKED, Architecture, TensorRow, rows
from preceptor.models.encoder import FAMILY
from preceptor.models.encoder_config import EncoderConfig

_SAME_NAMES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("hidden_act", "initializer_range", "tie_word_embeddings"),
)
_BERT_NAMES = {name: name for name in _SAME_NAMES if name != "tie_word_embeddings"} | {
    "norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "type_vocab_size": "type_vocab_size",
}
_BERT_SHAPE = {
    "positions": "learned",
    "norm_placement": "after",
    "norm_bias": True,
    "gated": False,
    "attention_bias": True,
    "mlp_bias": True,
    "sliding_window": 0,
    "lm_head_bias": True,
    "tie_word_embeddings": True,
}
_MASKED_LM = ("ForMaskedLM", "ForPreTraining")


def _parts_of(table: Mapping[str, Any], base: str, has_pooler: bool = True) -> dict[str, Any]:
    """Which heads a file holds, from the name of its class; without one it is a language model."""
    if base in ("Bert", "Roberta") and not table.get("tie_word_embeddings", True):
        raise ValueError("tie_word_embeddings is false, which is not known here for this architecture")
    (name,) = (table.get("architectures") or [f"{base}ForMaskedLM"])[:1]
    if name == f"{base}Model":
        return {"lm_head": False, "pooler": has_pooler and bool(table.get("add_pooling_layer", True))}
    if name in [base + suffix for suffix in _MASKED_LM]:
        return {"lm_head": True, "pooler": False}
    raise ValueError(f"{name} has a head that is not known here; use {base}Model or {base}ForMaskedLM")


def _class_of(config: EncoderConfig, base: str) -> dict[str, Any]:
    return {"architectures": [f"{base}ForMaskedLM" if config.lm_head else f"{base}Model"]}


def _bert_rows(prefix: str, head: Mapping[str, str | tuple[str, ...]]) -> tuple[TensorRow, ...]:
    """Rows of BERT's names; ``head`` are those of the output layer."""
    layer = f"{prefix}.encoder.layer.{{layer}}"
    return rows(
        {
            f"{prefix}.embeddings.word_embeddings.weight": "embed_tokens.weight",
            f"{prefix}.embeddings.position_embeddings.weight": "embed_positions.weight",
            f"{prefix}.embeddings.token_type_embeddings.weight": "embed_token_types.weight",
            f"{prefix}.embeddings.LayerNorm.*": "embedding_norm.*",
            f"{layer}.attention.self.query.*": "layers.{layer}.self_attn.q_proj.*",
            f"{layer}.attention.self.key.*": "layers.{layer}.self_attn.k_proj.*",
            f"{layer}.attention.self.value.*": "layers.{layer}.self_attn.v_proj.*",
            f"{layer}.attention.output.dense.*": "layers.{layer}.self_attn.o_proj.*",
            f"{layer}.attention.output.LayerNorm.*": "layers.{layer}.attention_norm.*",
            f"{layer}.intermediate.dense.*": "layers.{layer}.mlp.up_proj.*",
            f"{layer}.output.dense.*": "layers.{layer}.mlp.down_proj.*",
            f"{layer}.output.LayerNorm.*": "layers.{layer}.mlp_norm.*",
            f"{prefix}.pooler.dense.*": "pooler.*",
            **head,
        }
    )


BERT = Architecture(
    model_type="bert",
    class_name="BertForMaskedLM",
    family=FAMILY,
    fixed=_BERT_SHAPE | {"position_offset": 0},
    fits_also=lambda config: config.type_vocab_size > 0 and config.lm_head != config.pooler,
    config_names=_BERT_NAMES | {"max_position_embeddings": "max_position_embeddings"},
    to_json=lambda config: _class_of(config, "Bert") | {"attention_probs_dropout_prob": config.dropout},
    from_json=lambda table: _parts_of(table, "Bert"),
    tensors=_bert_rows(
        "bert",
        {
            "cls.predictions.transform.dense.*": "lm_head.dense.*",
            "cls.predictions.transform.LayerNorm.*": "lm_head.norm.*",
            "cls.predictions.bias": "lm_head.bias",
            "cls.predictions.decoder.weight": "lm_head.decoder.weight",
        },
    ),
    prefix="bert.",
    tied=("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
    ignored=(r"bert\.embeddings\.position_ids", r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
)
ROBERTA = Architecture(
    model_type="roberta",
    class_name="RobertaForMaskedLM",
    family=FAMILY,
    fixed=_BERT_SHAPE | {"position_offset": 2},
    fits_also=lambda config: config.type_vocab_size > 0 and config.lm_head != config.pooler,
    config_names=_BERT_NAMES,
    to_json=lambda config: (
        _class_of(config, "Roberta")
        | {
            "attention_probs_dropout_prob": config.dropout,
            "max_position_embeddings": config.max_position_embeddings + config.position_offset,
            # A token's position counts from the number of the padding token, which is 1 wherever the offset is 2.
            "pad_token_id": 1,
        }
    ),
    from_json=lambda table: (
        _parts_of(table, "Roberta") | {"max_position_embeddings": table.get("max_position_embeddings", 514) - 2}
    ),
    tensors=_bert_rows(
        "roberta",
        {
            "lm_head.dense.*": "lm_head.dense.*",
            "lm_head.layer_norm.*": "lm_head.norm.*",
            "lm_head.bias": "lm_head.bias",
            "lm_head.decoder.weight": "lm_head.decoder.weight",
        },
    ),
    prefix="roberta.",
    tied=("lm_head.decoder.weight", "lm_head.decoder.bias"),
    ignored=(r"roberta\.embeddings\.position_ids", r"roberta\.pooler\..*"),
)
_DISTIL_LAYER = "distilbert.transformer.layer.{layer}"
DISTILBERT = Architecture(
    model_type="distilbert",
    class_name="DistilBertForMaskedLM",
    family=FAMILY,
    fixed={name: value for name, value in _BERT_SHAPE.items() if name != "tie_word_embeddings"}
    | {"position_offset": 0, "type_vocab_size": 0, "norm_eps": 1e-12, "pooler": False},
    config_names={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_position_embeddings",
        "hidden_act": "activation",
        "dropout": "dropout",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
    },
    extra={"sinusoidal_pos_embds": False},
    to_json=lambda config: _class_of(config, "DistilBert") | {"attention_dropout": config.dropout},
    from_json=lambda table: _parts_of(table, "DistilBert", has_pooler=False),
    tensors=rows(
        {
            "distilbert.embeddings.word_embeddings.weight": "embed_tokens.weight",
            "distilbert.embeddings.position_embeddings.weight": "embed_positions.weight",
            "distilbert.embeddings.LayerNorm.*": "embedding_norm.*",
            f"{_DISTIL_LAYER}.attention.q_lin.*": "layers.{layer}.self_attn.q_proj.*",
            f"{_DISTIL_LAYER}.attention.k_lin.*": "layers.{layer}.self_attn.k_proj.*",
            f"{_DISTIL_LAYER}.attention.v_lin.*": "layers.{layer}.self_attn.v_proj.*",
            f"{_DISTIL_LAYER}.attention.out_lin.*": "layers.{layer}.self_attn.o_proj.*",
            f"{_DISTIL_LAYER}.sa_layer_norm.*": "layers.{layer}.attention_norm.*",
            f"{_DISTIL_LAYER}.ffn.lin1.*": "layers.{layer}.mlp.up_proj.*",
            f"{_DISTIL_LAYER}.ffn.lin2.*": "layers.{layer}.mlp.down_proj.*",
            f"{_DISTIL_LAYER}.output_layer_norm.*": "layers.{layer}.mlp_norm.*",
            "vocab_transform.*": "lm_head.dense.*",
            "vocab_layer_norm.*": "lm_head.norm.*",
            "vocab_projector.bias": "lm_head.bias",
            "vocab_projector.weight": "lm_head.decoder.weight",
        }
    ),
    prefix="distilbert.",
    tied=("vocab_projector.weight",),
)


def _modern_to_json(config: EncoderConfig) -> dict[str, Any]:
    windows = [config.window_of(layer) for layer in range(config.num_hidden_layers)]
    local = config.rope_theta_local or config.rope_theta
    return _class_of(config, "ModernBert") | {
        "local_attention": 2 * (config.sliding_window or config.max_position_embeddings),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        "attention_dropout": config.dropout,
        "embedding_dropout": config.dropout,
    }


def _modern_from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    rope = table.get("rope_parameters") or {}
    everywhere, local = rope.get("full_attention") or {}, rope.get("sliding_attention") or {}
    if {part.get("rope_type", "default") for part in (everywhere, local)} != {"default"}:
        raise ValueError("rope_parameters are scaled, which is not known here for this architecture")
    window, every = int(table.get("local_attention", 128)) // 2, int(table.get("global_attn_every_n_layers", 3))
    if (types := table.get("layer_types")) is not None:
        full = [number for number, kind in enumerate(types) if kind == "full_attention"]
        every = full[1] if len(full) > 1 else len(types) if full else 0
        if len(full) == len(types):
            window, every = 0, 0
        if full and full != list(range(0, len(types), every or 1)):
            raise ValueError("layer_types do not repeat with one full layer at the start of each period")
    return _parts_of(table, "ModernBert", has_pooler=False) | {
        "sliding_window": window,
        "full_attention_every": every,
        "rope_theta": float(everywhere.get("rope_theta", table.get("global_rope_theta", 160_000.0))),
        "rope_theta_local": float(local.get("rope_theta", table.get("local_rope_theta", 10_000.0))),
    }


MODERNBERT = Architecture(
    model_type="modernbert",
    class_name="ModernBertForMaskedLM",
    family=FAMILY,
    fixed={
        "positions": "rotary",
        "position_offset": 0,
        "type_vocab_size": 0,
        "norm_placement": "before",
        "gated": True,
        "pooler": False,
    },
    config_names={name: name for name in _SAME_NAMES if name != "hidden_act"}
    | {
        "max_position_embeddings": "max_position_embeddings",
        "hidden_act": "hidden_activation",
        "norm_eps": "norm_eps",
        "norm_bias": "norm_bias",
        "attention_bias": "attention_bias",
        "mlp_bias": "mlp_bias",
        "lm_head_bias": "classifier_bias",
        "dropout": "mlp_dropout",
    },
    # The numbers of its own vocabulary are not those of another.
    extra={"decoder_bias": True}
    | dict.fromkeys(["bos_token_id", "cls_token_id", "eos_token_id", "pad_token_id", "sep_token_id"]),
    to_json=lambda config: _modern_to_json(config) | {"classifier_activation": config.hidden_act},
    from_json=_modern_from_json,
    tensors=(
        *rows(
            {
                "model.embeddings.tok_embeddings.weight": "embed_tokens.weight",
                "model.embeddings.norm.*": "embedding_norm.*",
                "model.layers.{layer}.attn.Wo.*": "layers.{layer}.self_attn.o_proj.*",
                "model.layers.{layer}.attn_norm.*": "layers.{layer}.attention_norm.*",
                "model.layers.{layer}.mlp.Wo.*": "layers.{layer}.mlp.down_proj.*",
                "model.layers.{layer}.mlp_norm.*": "layers.{layer}.mlp_norm.*",
                "model.final_norm.*": "final_norm.*",
                "head.dense.*": "lm_head.dense.*",
                "head.norm.*": "lm_head.norm.*",
                "decoder.bias": "lm_head.bias",
                "decoder.weight": "lm_head.decoder.weight",
            }
        ),
        *rows(
            {
                "model.layers.{layer}.attn.Wqkv.*": tuple(
                    f"layers.{{layer}}.self_attn.{part}_proj.*" for part in "qkv"
                ),
                "model.layers.{layer}.mlp.Wi.*": ("layers.{layer}.mlp.gate_proj.*", "layers.{layer}.mlp.up_proj.*"),
            },
            STACKED,
        ),
    ),
    prefix="model.",
    tied=("decoder.weight",),
)
NATIVE = Architecture(
    model_type="preceptor-encoder",
    class_name="Encoder",
    family=FAMILY,
    config_names={field.name: field.name for field in fields(EncoderConfig)},
)
ARCHITECTURES = (BERT, ROBERTA, DISTILBERT, MODERNBERT, NATIVE)
"""In order of preference; the last one takes every encoder, and only this project reads it."""
