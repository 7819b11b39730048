"""The two stacks of an encoder-decoder, and the configuration that gives them their shape."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.nn.attention import Attention, AttentionShape, KeyValueCache
from preceptor.nn.inputs import Inputs
from preceptor.nn.layers import FeedForward, RMSNorm, which_run
from preceptor.nn.masks import cache_mask, self_attention_mask
from preceptor.nn.relative_bias import RelativeBias
from preceptor.nn.sinusoids import SinusoidalEmbedding


class Context(NamedTuple):
    """What all layers of one pass share."""

    mask_BNTS: Tensor | None
    causal: bool = False
    source_BSD: Tensor | None = None
    source_mask_B1TS: Tensor | None = None
    cache: "SourceCache | None" = None
    num_keys: int = 0


class SourceCache(KeyValueCache):
    """What a decoder remembers: the keys and values of the source, made once, and those of the target so far."""

    source_keys_and_values: tuple[tuple[Tensor, Tensor], ...] = ()
    """For each layer, both of shape B S N H."""
    source_mask_B11S: Tensor | None = None
    """0 where the source has a token, minus infinity where it is padding."""


def _norm(config: EncoderDecoderConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, config.norm_eps)


class Block(nn.Module):
    """Attention, in a decoder also attention to the source, and feed-forward; each is added and normalised."""

    def __init__(self, config: EncoderDecoderConfig, layer: int, *, decodes: bool) -> None:
        super().__init__()
        shape = AttentionShape(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            bias=config.bias,
            output_bias=config.bias,
            scale=config.attention_scale,
            dropout=config.attention_dropout,
        )
        self.layer, self.normed_before = layer, config.norm_placement == "before"
        self.self_attn = Attention(shape, layer)
        self.self_attn_layer_norm = _norm(config)
        self.encoder_attn = Attention(shape, layer) if decodes else None
        self.encoder_attn_layer_norm = _norm(config) if decodes else None
        self.mlp = FeedForward(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            gated=config.gated,
            bias=config.bias,
            dropout=config.activation_dropout,
        )
        self.final_layer_norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The residual stream after this block, of shape B T D."""
        attended_BTD = self.self_attn(
            self._before(self.self_attn_layer_norm, x_BTD),
            context.mask_BNTS,
            causal=context.causal,
            cache=context.cache,
            num_keys=context.num_keys,
        )
        x_BTD = self._after(self.self_attn_layer_norm, x_BTD, attended_BTD)
        if self.encoder_attn is not None and self.encoder_attn_layer_norm is not None:
            found_BTD = self.encoder_attn(
                self._before(self.encoder_attn_layer_norm, x_BTD),
                context.source_mask_B1TS,
                source_BSD=context.source_BSD,
                keys_and_values=None if context.cache is None else context.cache.source_keys_and_values[self.layer],
            )
            x_BTD = self._after(self.encoder_attn_layer_norm, x_BTD, found_BTD)
        fed_BTD = self.mlp(self._before(self.final_layer_norm, x_BTD))
        return self._after(self.final_layer_norm, x_BTD, fed_BTD)

    def _before(self, norm: nn.Module, x_BTD: Tensor) -> Tensor:
        """What a layer reads."""
        return norm(x_BTD) if self.normed_before else x_BTD

    def _after(self, norm: nn.Module, x_BTD: Tensor, added_BTD: Tensor) -> Tensor:
        """The residual stream with what a layer adds."""
        sum_BTD = x_BTD + self.dropout(added_BTD)
        return sum_BTD if self.normed_before else norm(sum_BTD)  # type: ignore[no-any-return]


class Stack(nn.Module):
    """From the embedding of tokens to the last residual stream."""

    def __init__(self, config: EncoderDecoderConfig, *, decodes: bool) -> None:
        super().__init__()
        self.config, self.decodes = config, decodes
        self.embed_positions = self._positions()
        self.relative_bias = None
        if config.positions == "relative":
            buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
            self.relative_bias = RelativeBias(config.num_attention_heads, buckets, distance, causal=decodes)
        self.layernorm_embedding = _norm(config) if config.normalize_embedding else None
        num_layers = config.decoder_layers if decodes else config.num_hidden_layers
        self.layers = nn.ModuleList(Block(config, layer, decodes=decodes) for layer in range(num_layers))
        before = config.norm_placement == "before"
        self.layer_norm = _norm(config) if before else None
        self.dropout = nn.Dropout(config.dropout)

    def _positions(self) -> nn.Module | None:
        config = self.config
        if config.positions == "learned":
            return nn.Embedding(config.max_position_embeddings + config.position_offset, config.hidden_size)
        if config.positions == "sinusoidal":
            return SinusoidalEmbedding(config.max_position_embeddings, config.hidden_size)
        return None

    def forward(self, x_BTD: Tensor, positions_BT: Tensor, context: Context) -> Tensor:
        """The last residual stream, normalised, of shape B T D."""
        if self.config.scale_embedding:
            x_BTD = x_BTD * self.config.hidden_size**0.5
        if self.embed_positions is not None:
            offset = self.config.position_offset if self.config.positions == "learned" else 0
            x_BTD = x_BTD + self.embed_positions(positions_BT + offset)
        if self.layernorm_embedding is not None:
            x_BTD = self.layernorm_embedding(x_BTD)
        x_BTD = self.dropout(x_BTD)
        runs = which_run(len(self.layers), self.config.layer_drop, self.training)
        for layer in itertools.compress(self.layers, runs):
            x_BTD = layer(x_BTD, context)
        return x_BTD if self.layer_norm is None else self.dropout(self.layer_norm(x_BTD))

    def mask(self, inputs: Inputs, dtype: torch.dtype, num_prefix_tokens: int = 0) -> Tensor | None:
        """What is added to the scores of a row that looks at itself; None where causality, or its lack, is all.

        Distances are counted along the row: within a document they are those between its own positions. A prefix
        stands directly in front of every document.
        """
        mask_B1TT = self_attention_mask(inputs, dtype, causal=self.decodes, num_prefix_tokens=num_prefix_tokens)
        if self.relative_bias is None:
            return mask_B1TT
        num_tokens = inputs.tokens_BT.shape[1]
        places_1T = torch.arange(num_tokens, device=inputs.tokens_BT.device).unsqueeze(0)
        if mask_B1TT is None and self.decodes:
            mask_B1TT = cache_mask(places_1T[:, 0], num_tokens, num_tokens, dtype)
        bias_1NTT = self.relative_bias(places_1T, places_1T)
        if num_prefix_tokens:
            prefix_1P = torch.arange(num_prefix_tokens, device=places_1T.device).unsqueeze(0)
            bias_BNTP = self.relative_bias(inputs.places(num_prefix_tokens), prefix_1P)
            bias_1NTT = torch.cat((bias_BNTP, bias_1NTT.expand(len(bias_BNTP), -1, -1, -1)), dim=3)
        return bias_1NTT if mask_B1TT is None else bias_1NTT + mask_B1TT  # type: ignore[no-any-return]

    def step_mask(self, positions_BT: Tensor, num_keys: int, dtype: torch.dtype) -> Tensor:
        """The same for queries that continue a cache."""
        mask_B1TS = cache_mask(positions_BT[:, 0], positions_BT.shape[1], num_keys, dtype)
        if self.relative_bias is None:
            return mask_B1TS
        keys_1S = torch.arange(num_keys, device=positions_BT.device).unsqueeze(0)
        return self.relative_bias(positions_BT, keys_1S) + mask_B1TS  # type: ignore[no-any-return]
