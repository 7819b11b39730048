"""The encoder family: one module whose configuration spans BERT, RoBERTa, DistilBERT and ModernBERT."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.family import ModelFamily
from preceptor.models.initialisation import draw_weights
from preceptor.models.language_model import LanguageModel, shared_output_weight
from preceptor.nn.attention import Attention, AttentionShape
from preceptor.nn.inputs import Inputs
from preceptor.nn.layers import ACTIVATIONS, FeedForward, which_run
from preceptor.nn.masks import self_attention_mask
from preceptor.nn.positions import RotaryEmbedding


def _norm(config: EncoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)


class _Context(NamedTuple):
    """What all layers of one pass share: by window the mask, and the rotation by position."""

    masks: dict[int, Tensor | None]
    rotations: dict[int, tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream and normalised before or after."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.before = config.norm_placement == "before"
        self.window = config.window_of(layer)
        self.self_attn = Attention(
            AttentionShape(
                hidden_size=config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_attention_heads,
                head_dim=config.head_dim,
                bias=config.attention_bias,
                output_bias=config.attention_bias,
                dropout=config.dropout,
            ),
            layer,
        )
        # The embedding is normalised already, so the first layer of those that normalise before needs nothing.
        self.attention_norm = None if self.before and layer == 0 else _norm(config)
        self.mlp = FeedForward(
            config.hidden_size, config.intermediate_size, config.hidden_act, gated=config.gated, bias=config.mlp_bias
        )
        self.mlp_norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: _Context) -> Tensor:
        """The residual stream after this block, of shape B T D."""
        mask, rotation = context.masks[self.window], context.rotations.get(self.window)
        if self.before:
            read_BTD = x_BTD if self.attention_norm is None else self.attention_norm(x_BTD)
            x_BTD = x_BTD + self.dropout(self.self_attn(read_BTD, mask, rotation=rotation))
            return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))  # type: ignore[no-any-return]
        assert self.attention_norm is not None
        x_BTD = self.attention_norm(x_BTD + self.dropout(self.self_attn(x_BTD, mask, rotation=rotation)))
        return self.mlp_norm(x_BTD + self.dropout(self.mlp(x_BTD)))  # type: ignore[no-any-return]


class OutputHead(nn.Module):
    """What stands between the states and the output weights. Source: Devlin et al. 2019, appendix A."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.lm_head_bias)
        self.norm = _norm(config)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        tied = config.tie_word_embeddings
        self.decoder = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """States ready for the output weights, of the same shape."""
        return self.norm(self.activation(self.dense(hidden)))  # type: ignore[no-any-return]


class Encoder(LanguageModel):
    """An encoder: every token sees its whole document."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("vocab_size must be known before an encoder is built")
        self.config = config
        width, learned = config.hidden_size, config.positions == "learned"
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        num_positions = config.max_position_embeddings + config.position_offset
        self.embed_positions = nn.Embedding(num_positions, width) if learned else None
        self.embed_token_types = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.embedding_norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)
        self.windows = sorted({config.window_of(layer) for layer in range(config.num_hidden_layers)})
        self.rotary = None if learned else RotaryEmbedding(config.head_dim, config.rope_theta)
        local = config.rope_theta_local if not learned and any(self.windows) else 0.0
        self.rotary_local = RotaryEmbedding(config.head_dim, local) if local else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = _norm(config) if config.norm_placement == "before" else None
        self.pooler = nn.Linear(width, width) if config.pooler else None
        self.lm_head = OutputHead(config) if config.lm_head else None

    def hidden(self, inputs: Inputs) -> Tensor:
        """The last states of shape B T D; documents (segments) do not see each other."""
        x_BTD = self.dropout(self.embedding_norm(self._embedded(inputs)))
        dtype = self.embed_tokens.weight.dtype
        first = self.num_prefix_tokens
        masks = {
            window: self_attention_mask(inputs, dtype, causal=False, window=window, num_prefix_tokens=first)
            for window in self.windows
        }
        context = _Context(masks, self._rotations(self.places(inputs)))
        runs = which_run(len(self.layers), self.config.layer_drop, self.training)
        for layer in itertools.compress(self.layers, runs):
            x_BTD = layer(x_BTD, context)
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)  # type: ignore[no-any-return]

    def _embedded(self, inputs: Inputs) -> Tensor:
        x_BTD: Tensor = self.embed_tokens(inputs.tokens_BT)
        if self.embed_token_types is not None:
            types = inputs.token_types_BT
            x_BTD = x_BTD + (self.embed_token_types.weight[0] if types is None else self.embed_token_types(types))
        if self.embed_positions is not None:
            x_BTD = x_BTD + self.embed_positions(self.places(inputs) + self.config.position_offset)
        return x_BTD

    def _rotations(self, positions_BT: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        if self.rotary is None:
            return {}
        everywhere = self.rotary(positions_BT)
        local = everywhere if self.rotary_local is None else self.rotary_local(positions_BT)
        return {window: local if window else everywhere for window in self.windows}

    def pooled(self, first_MD: Tensor) -> Tensor:
        """What speaks for whole texts, from the states of their first tokens, of shape M D."""
        return first_MD if self.pooler is None else torch.tanh(self.pooler(first_MD))

    def to_output(self, hidden: Tensor) -> Tensor:
        """States made ready for the output weights, of shape ... D."""
        return self._head()(hidden)  # type: ignore[no-any-return]

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a state into scores of the vocabulary."""
        decoder = self._head().decoder
        return shared_output_weight(self.embed_tokens) if decoder is None else decoder.weight

    @property
    def output_bias_V(self) -> Tensor:
        """What is added to the scores."""
        return self._head().bias

    @property
    def input_embedding(self) -> nn.Embedding:
        """The embedding of the vocabulary."""
        return self.embed_tokens

    def _head(self) -> OutputHead:
        if self.lm_head is None:
            raise ValueError("this encoder was made without an output layer for tokens (lm_head = false)")
        return self.lm_head


def initialise(model: Encoder, generator: torch.Generator) -> None:
    """Fill the weights in place, as the configuration's ``initialisation`` says."""
    draw_weights(model, model.config, generator)


def build(config: EncoderConfig, generator: torch.Generator | None = None) -> Encoder:
    """An encoder with starting weights drawn from the generator."""
    model = Encoder(config)
    initialise(model, generator or torch.Generator().manual_seed(0))
    return model


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The feed-forward layer is four times as wide."""
    return {"intermediate_size": 4 * values["hidden_size"]} if "hidden_size" in values else {}


FAMILY = ModelFamily(
    name="encoder",
    config=EncoderConfig,
    module=Encoder,
    build=build,
    sharding={
        "embed_tokens.weight": "vocabulary",
        "lm_head.decoder.weight": "vocabulary",
        "lm_head.bias": "vocabulary",
        "layers.*.self_attn.[qkv]_proj.*": "column",
        "layers.*.self_attn.o_proj.weight": "row",
        "layers.*.mlp.gate_proj.*": "column",
        "layers.*.mlp.up_proj.*": "column",
        "layers.*.mlp.down_proj.weight": "row",
    },
    defaults=_defaults,
)
