"""The decoder family: one module whose configuration spans GPT-2's shape and Llama's."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.models.family import ModelFamily
from preceptor.nn.attention import KeyValueCache, attend
from preceptor.nn.layers import FeedForward, RMSNorm
from preceptor.nn.losses import cross_entropy_sum, token_losses
from preceptor.nn.masks import AttentionPattern, cache_mask
from preceptor.nn.positions import RotaryEmbedding, rotate


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """The shape of a decoder, in the words of transformers' config files."""

    family: Literal["decoder"] = "decoder"
    """The model family; a decoder reads left to right and predicts the next token."""
    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size."""
    hidden_size: int = 256
    """Width of the residual stream."""
    intermediate_size: int = 704
    """Width inside the feed-forward layer."""
    num_hidden_layers: int = 6
    """Number of blocks."""
    num_attention_heads: int = 4
    """Number of query heads."""
    num_key_value_heads: int = 2
    """Number of key/value heads; fewer than query heads is grouped-query attention."""
    head_dim: int = 64
    """Size of one head."""
    max_position_embeddings: int = 512
    """Longest context in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Which normalisation stands before each layer."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How a token knows where it stands."""
    gated: bool = True
    """Whether the feed-forward layer has a gate (SwiGLU)."""
    hidden_act: Literal["silu", "relu2", "gelu", "gelu_new"] = "silu"
    """Activation of the feed-forward layer."""
    qk_norm: bool = True
    """Whether queries and keys are normalised per head."""
    bias: bool = False
    """Whether linear layers have biases."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""
    norm_eps: float = 1e-6
    """Small number that keeps the normalisation finite."""
    dropout: float = 0.0
    """Probability of dropping an element of the embedding, attention weights and each layer's output in training."""
    initializer_range: float = 0.02
    """Standard deviation of the starting weights."""
    zero_init_outputs: bool = True
    """Whether each layer's output projection starts at zero, so that every block starts as the identity."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads ({self.num_key_value_heads}) must divide "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        if self.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings must be at least 2, got {self.max_position_embeddings}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.vocab_size < 0:
            raise ValueError(f"vocab_size must not be negative, got {self.vocab_size}")


def _norm(config: DecoderConfig, size: int) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(size, config.norm_eps)
    return nn.LayerNorm(size, config.norm_eps)


class Attention(nn.Module):
    """Self-attention with grouped queries, optional rotary positions and optional norms on queries and keys."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        width, kv_width = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=config.bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask_BTS: Tensor | None,
        cache: KeyValueCache | None = None,
        num_keys: int = 0,
    ) -> Tensor:
        """What attention adds to the residual stream, of shape B T D."""
        config = self.config
        heads = (*x_BTD.shape[:2], -1, config.head_dim)
        queries_BTNH = self.q_proj(x_BTD).view(heads)
        keys_BTKH = self.k_proj(x_BTD).view(heads)
        values_BTKH = self.v_proj(x_BTD).view(heads)
        if self.q_norm is not None and self.k_norm is not None:
            queries_BTNH, keys_BTKH = self.q_norm(queries_BTNH), self.k_norm(keys_BTKH)
        if rotation is not None:
            queries_BTNH, keys_BTKH = rotate(queries_BTNH, rotation), rotate(keys_BTKH, rotation)
        if cache is not None:
            keys_BTKH, values_BTKH = cache.extend(self.layer, keys_BTKH, values_BTKH, num_keys)
        dropout = config.dropout if self.training else 0.0
        gathered_BTNH = attend(queries_BTNH, keys_BTKH, values_BTKH, mask_BTS, dropout=dropout)
        return self.o_proj(gathered_BTNH.reshape(*x_BTD.shape[:2], -1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then feed-forward, each normalised before and added to the residual stream."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config, config.hidden_size)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = _norm(config, config.hidden_size)
        self.mlp = FeedForward(
            config.hidden_size, config.intermediate_size, config.hidden_act, gated=config.gated, bias=config.bias
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask_BTS: Tensor | None,
        cache: KeyValueCache | None = None,
        num_keys: int = 0,
    ) -> Tensor:
        """The residual stream after this block, of shape B T D."""
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), rotation, mask_BTS, cache, num_keys)
        x_BTD = x_BTD + self.dropout(attended_BTD)
        return x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD)))  # type: ignore[no-any-return]


class Backbone(nn.Module):
    """From tokens to the last normalised residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.rotary = (
            None if learned else RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope_theta)
        )
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = _norm(config, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, tokens_BT: Tensor, positions_BT: Tensor, mask_BTS: Tensor | None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """The last residual stream, normalised, of shape B T D."""
        x_BTD = self.embed_tokens(tokens_BT)
        if self.embed_positions is not None:
            x_BTD = x_BTD + self.embed_positions(positions_BT)
        rotation = None if self.rotary is None else self.rotary(positions_BT)
        x_BTD = self.dropout(x_BTD)
        num_keys = 0 if mask_BTS is None else mask_BTS.shape[-1]
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotation, mask_BTS, cache, num_keys)
        return self.norm(x_BTD)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A decoder language model. Module names are transformers' for Llama, so adapters and exports need no table."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("vocab_size must be known before a decoder is built")
        self.config = config
        self.model = Backbone(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a residual stream into logits."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(
        self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """The last normalised residual stream of shape B T D; documents (segments) do not see each other."""
        num_tokens = tokens_BT.shape[1]
        if positions_BT is None:
            positions_BT = torch.arange(num_tokens, device=tokens_BT.device).expand_as(tokens_BT)
        pattern = AttentionPattern(segments_BT=segments_BT)
        mask = pattern.additive_mask(num_tokens, self.model.embed_tokens.weight.dtype)
        return self.model(tokens_BT, positions_BT, mask)  # type: ignore[no-any-return]

    def forward(
        self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """The logits of shape B T V. Training uses ``loss_sum``, which never holds them all."""
        return F.linear(self.hidden(tokens_BT, positions_BT, segments_BT), self.output_weight_VD)

    @torch.no_grad()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        """The logits of shape B T V, without gradients."""
        return self(tokens_BT)  # type: ignore[no-any-return]

    def loss_sum(
        self, tokens_BT: Tensor, labels_BT: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, int]:
        """Summed loss in nats, number of right predictions, number of supervised tokens; ``labels`` are next tokens."""
        hidden_BTD = self.hidden(tokens_BT, positions_BT, segments_BT)
        return cross_entropy_sum(hidden_BTD, self.output_weight_VD, labels_BT)

    @torch.no_grad()
    def losses(
        self,
        tokens_BT: Tensor,
        labels_BT: Tensor,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """The loss of every token in nats, of shape B T; 0 where the label is not supervised."""
        return self.losses_and_hits(tokens_BT, labels_BT, positions_BT, segments_BT)[0]

    @torch.no_grad()
    def losses_and_hits(
        self,
        tokens_BT: Tensor,
        labels_BT: Tensor,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of every token in nats and whether it was the likeliest, both of shape B T."""
        hidden_BTD = self.hidden(tokens_BT, positions_BT, segments_BT)
        return token_losses(hidden_BTD, self.output_weight_VD, labels_BT)

    def new_cache(self, batch_size: int, max_tokens: int) -> KeyValueCache:
        """An empty cache for a batch of rows that may grow to ``max_tokens`` each."""
        weight, config = self.model.embed_tokens.weight, self.config
        return KeyValueCache(
            num_layers=config.num_hidden_layers,
            batch_size=batch_size,
            max_tokens=max_tokens,
            num_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )

    @torch.no_grad()
    def step(self, tokens_BT: Tensor, cache: KeyValueCache, lengths_B: Tensor | None = None) -> Tensor:
        """The logits of shape B V after each row's last token; the cache then holds these tokens too.

        Rows are padded on the right; ``lengths_B`` says how many tokens of each row are real (all, when left out).
        """
        if lengths_B is None:
            lengths_B = torch.full_like(cache.lengths_B, tokens_BT.shape[1])
        starts_B = cache.lengths_B
        positions_BT = starts_B.unsqueeze(1) + torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        num_keys = int(starts_B.max()) + tokens_BT.shape[1]
        if num_keys > min(cache.max_tokens, self.config.max_position_embeddings):
            raise ValueError(f"{num_keys} tokens do not fit into a context of {cache.max_tokens}")
        mask = cache_mask(starts_B, tokens_BT.shape[1], num_keys, self.model.embed_tokens.weight.dtype)
        hidden_BTD = self.model(tokens_BT, positions_BT, mask, cache)
        cache.lengths_B = starts_B + lengths_B
        last_BD = hidden_BTD[torch.arange(tokens_BT.shape[0], device=tokens_BT.device), lengths_B - 1]
        return F.linear(last_BD, self.output_weight_VD)


@torch.no_grad()
def initialise(model: Decoder, generator: torch.Generator) -> None:
    """Fill the weights in place: normal matrices, zero biases, unit gains; outputs zero or scaled down by depth.

    Source: Radford et al. 2019 for the depth-scaled outputs of GPT-2.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")) and config.zero_init_outputs:
            parameter.zero_()
        else:
            is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
            depth_scale = 1 / math.sqrt(2 * config.num_hidden_layers) if is_output else 1.0
            parameter.normal_(0.0, config.initializer_range * depth_scale, generator=generator)


def build(config: DecoderConfig, generator: torch.Generator | None = None) -> Decoder:
    """A decoder with starting weights drawn from the generator."""
    model = Decoder(config)
    initialise(model, generator or torch.Generator().manual_seed(0))
    return model


FAMILY = ModelFamily(
    name="decoder",
    config=DecoderConfig,
    build=build,
    sharding={
        "model.embed_tokens.weight": "vocabulary",
        "lm_head.weight": "vocabulary",
        "model.layers.*.self_attn.[qkv]_proj.*": "column",
        "model.layers.*.self_attn.o_proj.weight": "row",
        "model.layers.*.mlp.gate_proj.*": "column",
        "model.layers.*.mlp.up_proj.*": "column",
        "model.layers.*.mlp.down_proj.weight": "row",
    },
)
