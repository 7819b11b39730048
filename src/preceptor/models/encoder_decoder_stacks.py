"""The two stacks of an encoder-decoder, and the configuration that gives them their shape."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from preceptor.nn.attention import Attention, AttentionShape, KeyValueCache
from preceptor.nn.inputs import Inputs
from preceptor.nn.layers import ACTIVATIONS, FeedForward, RMSNorm
from preceptor.nn.masks import cache_mask, self_attention_mask
from preceptor.nn.relative_bias import RelativeBias
from preceptor.nn.sinusoids import SinusoidalEmbedding

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDecoderConfig:
    """The shape of an encoder-decoder, in the words of transformers' config files."""

    family: Literal["encoder_decoder"] = "encoder_decoder"
    """The model family; an encoder reads a source both ways, a decoder says a target with an eye on it."""
    vocab_size: int = 0
    """Rows of the embedding, which both stacks share; 0 takes the tokenizer's size."""
    hidden_size: int = 256
    """Width of the residual stream."""
    intermediate_size: int = 704
    """Width inside the feed-forward layer."""
    num_hidden_layers: int = 4
    """Number of blocks of the encoder."""
    num_decoder_layers: int = 0
    """Number of blocks of the decoder; 0: as many as the encoder's."""
    num_attention_heads: int = 4
    """Number of heads."""
    head_dim: int = 64
    """Size of one head."""
    max_position_embeddings: int = 512
    """Longest source and longest target in tokens."""
    positions: Literal["relative", "learned", "sinusoidal"] = "relative"
    """How a token knows where it stands."""
    position_offset: int = 0
    """Rows of the learned table of positions that no token uses; BART has two."""
    relative_attention_num_buckets: int = 32
    """How many ranges of distances are told apart."""
    relative_attention_max_distance: int = 128
    """The distance from which on all are alike."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Which normalisation is used."""
    norm_placement: Literal["before", "after"] = "before"
    """Whether what a layer reads is normalised, and the end of a stack; or the sum that each layer leaves."""
    norm_eps: float = 1e-6
    """Small number that keeps the normalisation finite."""
    normalize_embedding: bool = False
    """Whether the embedding is normalised."""
    scale_embedding: bool = False
    """Whether the embedding is multiplied by the root of hidden_size."""
    gated: bool = True
    """Whether the feed-forward layer has a gate."""
    hidden_act: Literal["relu", "gelu", "gelu_new", "silu", "relu2"] = "gelu_new"
    """Activation of the feed-forward layer."""
    bias: bool = False
    """Whether the linear layers have biases."""
    attention_scale: float = 1.0
    """What attention scores are multiplied by; 0 is one over the root of head_dim."""
    tie_word_embeddings: bool = False
    """Whether the output layer shares the embedding's weights."""
    scale_decoder_outputs: bool = False
    """Whether the last states are divided by the root of hidden_size before they are scored."""
    final_logits_bias: bool = False
    """Whether there is a bias of the scores, which is not trained."""
    decoder_start_token_id: int = 0
    """The token that the decoder reads first."""
    pad_token_id: int = 0
    """The token that fills rows, for programs that read the saved model."""
    dropout: float = 0.0
    """Probability of dropping an element of the embedding and of each layer's output in training."""
    attention_dropout: float = 0.0
    """The same for attention weights."""
    activation_dropout: float = 0.0
    """The same inside the feed-forward layer."""
    initializer: Literal["mesh", "normal", "xavier"] = "mesh"
    """How weights start. mesh: normal, scaled by what each layer reads (T5); normal: all alike (BART); xavier: uniform,
    scaled by what each layer reads and writes (Glorot and Bengio 2010)."""
    initializer_factor: float = 1.0
    """mesh: what all standard deviations are multiplied by."""
    initializer_range: float = 0.02
    """normal: the standard deviation."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("vocab_size", "num_decoder_layers", "position_offset", "attention_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings must be at least 2, got {self.max_position_embeddings}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; known are {', '.join(ACTIVATIONS)}")
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 2 or distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_num_buckets ({buckets}) must be even, at least 4, and its half less than "
                f"relative_attention_max_distance ({distance})"
            )

    @property
    def decoder_layers(self) -> int:
        """How many blocks the decoder has."""
        return self.num_decoder_layers or self.num_hidden_layers


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
        for layer in self.layers:
            x_BTD = layer(x_BTD, context)
        return x_BTD if self.layer_norm is None else self.dropout(self.layer_norm(x_BTD))

    def mask(self, inputs: Inputs, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores of a row that looks at itself; None where causality, or its lack, is all.

        Distances are counted along the row: within a document they are those between its own positions.
        """
        mask_B1TT = self_attention_mask(inputs, dtype, causal=self.decodes)
        if self.relative_bias is None:
            return mask_B1TT
        num_tokens = inputs.tokens_BT.shape[1]
        places_1T = torch.arange(num_tokens, device=inputs.tokens_BT.device).unsqueeze(0)
        if mask_B1TT is None and self.decodes:
            mask_B1TT = cache_mask(places_1T[:, 0], num_tokens, num_tokens, dtype)
        bias_1NTT = self.relative_bias(places_1T, places_1T)
        return bias_1NTT if mask_B1TT is None else bias_1NTT + mask_B1TT  # type: ignore[no-any-return]

    def step_mask(self, positions_BT: Tensor, num_keys: int, dtype: torch.dtype) -> Tensor:
        """The same for queries that continue a cache."""
        mask_B1TS = cache_mask(positions_BT[:, 0], positions_BT.shape[1], num_keys, dtype)
        if self.relative_bias is None:
            return mask_B1TS
        keys_1S = torch.arange(num_keys, device=positions_BT.device).unsqueeze(0)
        return self.relative_bias(positions_BT, keys_1S) + mask_B1TS  # type: ignore[no-any-return]
