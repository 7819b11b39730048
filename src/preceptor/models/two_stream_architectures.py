"""The two-stream model that transformers knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from preceptor.models.architecture import Architecture, Layout, Shape, rows
from preceptor.models.two_stream import FAMILY
from preceptor.models.two_stream_config import TwoStreamConfig


def _to_json(config: TwoStreamConfig) -> dict[str, Any]:
    """What transformers says by nothing, or by a number below zero, and we by 0."""
    return {
        "d_head": config.head_dim,
        "mem_len": config.mem_len or None,
        "reuse_len": config.reuse_len or None,
        "clamp_len": config.clamp_len or -1,
    }


def _from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("bi_data", "same_length"):
        if table.get(name):
            raise ValueError(f"{name} is true, which is not known here")
    if not table.get("untie_r", True):
        raise ValueError("untie_r is false: biases that all layers share are not known here")
    head_dim = table.get("d_head")
    if head_dim and head_dim * table["n_head"] != table["d_model"]:
        raise ValueError(f"d_head is {head_dim}, so the heads do not fill the residual stream")
    return {name: max(0, int(table.get(name) or 0)) for name in ("mem_len", "reuse_len", "clamp_len")}


def _by_head(ours: Sequence[Tensor], config: TwoStreamConfig) -> Tensor:
    """The weights from the residual stream to the heads, one vector of a head for each element of the stream."""
    return ours[0].t().reshape(-1, config.num_attention_heads, config.head_dim)


def _from_heads(ours: Sequence[Tensor], config: TwoStreamConfig) -> Tensor:
    """The same for the weights from the heads back to the stream."""
    return ours[0].reshape(-1, config.num_attention_heads, config.head_dim)


_INTO_HEADS = Layout(_by_head, lambda theirs, shapes, _: [theirs.flatten(1).t()])
_OUT_OF_HEADS = Layout(_from_heads, lambda theirs, shapes, _: [theirs.flatten(1)])


def _whole(ours: Sequence[Tensor], _: TwoStreamConfig) -> Tensor:
    return ours[0].reshape(1, 1, -1)


def _flat(theirs: Tensor, shapes: Sequence[Shape], _: TwoStreamConfig) -> Sequence[Tensor]:
    return [theirs.flatten()]


_THEIRS, _OURS = "transformer.layer.{layer}", "model.layers.{layer}"
XLNET = Architecture(
    model_type="xlnet",
    class_name="XLNetLMHeadModel",
    family=FAMILY,
    config_names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "intermediate_size": "d_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_act": "ff_activation",
        "attn_type": "attn_type",
        "tie_word_embeddings": "tie_word_embeddings",
        "norm_eps": "layer_norm_eps",
        "dropout": "dropout",
        "initializer_range": "initializer_range",
    },
    extra={"bi_data": False, "same_length": False, "untie_r": True},
    to_json=_to_json,
    from_json=_from_json,
    tensors=(
        *rows(
            {
                "transformer.word_embedding.weight": "model.embed_tokens.weight",
                "lm_loss.weight": "lm_head.weight",
                "lm_loss.bias": "output_bias",
                f"{_THEIRS}.rel_attn.r_w_bias": f"{_OURS}.self_attn.content_bias",
                f"{_THEIRS}.rel_attn.r_r_bias": f"{_OURS}.self_attn.distance_bias",
                f"{_THEIRS}.rel_attn.r_s_bias": f"{_OURS}.self_attn.text_bias",
                f"{_THEIRS}.rel_attn.seg_embed": f"{_OURS}.self_attn.text_embedding",
                f"{_THEIRS}.rel_attn.layer_norm.*": f"{_OURS}.attention_layernorm.*",
                f"{_THEIRS}.ff.layer_norm.*": f"{_OURS}.mlp_layernorm.*",
                f"{_THEIRS}.ff.layer_1.*": f"{_OURS}.mlp.up_proj.*",
                f"{_THEIRS}.ff.layer_2.*": f"{_OURS}.mlp.down_proj.*",
            }
        ),
        *rows({"transformer.mask_emb": "model.unknown_token"}, Layout(_whole, _flat)),
        *rows({f"{_THEIRS}.rel_attn.{part}": f"{_OURS}.self_attn.{part}_proj.weight" for part in "qkvr"}, _INTO_HEADS),
        *rows({f"{_THEIRS}.rel_attn.o": f"{_OURS}.self_attn.o_proj.weight"}, _OUT_OF_HEADS),
    ),
    prefix="transformer.",
    tied=("lm_loss.weight",),
)
ARCHITECTURES = (XLNET,)
"""It takes every two-stream model."""
