"""The decoder family: one module whose configuration spans GPT-2, GPT-NeoX, Llama, Qwen, Gemma and OLMo."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.family import ModelFamily
from preceptor.models.initialisation import draw_weights
from preceptor.models.language_model import LanguageModel, shared_output_weight
from preceptor.nn.attention import Attention, AttentionShape, KeyValueCache, prefixed
from preceptor.nn.inputs import Inputs
from preceptor.nn.layers import FeedForward, RMSNorm, which_run
from preceptor.nn.masks import cache_mask, self_attention_mask
from preceptor.nn.positions import RotaryEmbedding
from preceptor.nn.rope_scaling import RopeScaling


def _norm(config: DecoderConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps, offset=config.norm_offset)
    return nn.LayerNorm(config.hidden_size, config.norm_eps)


class Block(nn.Module):
    """Attention and feed-forward, each normalised before, after or both, and added to the residual stream."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        before, after = config.norm_placement != "after", config.norm_placement != "before"
        self.parallel = config.parallel_residual
        self.window = config.window_of(layer)
        self.input_layernorm = _norm(config) if before else None
        self.self_attn = Attention(
            AttentionShape(
                hidden_size=config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                bias=config.attention_bias != "none",
                output_bias=config.attention_bias == "all",
                qk_norm=config.qk_norm,
                norm_eps=config.norm_eps,
                norm_offset=config.norm_offset,
                scale=config.attention_scale,
                softcap=config.attention_softcap,
                dropout=config.dropout,
            ),
            layer,
        )
        self.attention_output_layernorm = _norm(config) if after else None
        self.post_attention_layernorm = _norm(config) if before else None
        self.mlp = FeedForward(
            config.hidden_size, config.intermediate_size, config.hidden_act, gated=config.gated, bias=config.mlp_bias
        )
        self.mlp_output_layernorm = _norm(config) if after else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: "_Context") -> Tensor:
        """The residual stream after this block, of shape B T D."""
        attended_BTD = self.self_attn(
            _applied(self.input_layernorm, x_BTD),
            context.masks[self.window],
            causal=True,
            rotation=context.rotations.get(self.window),
            cache=context.cache,
            num_keys=context.num_keys,
        )
        middle_BTD = x_BTD + self.dropout(_applied(self.attention_output_layernorm, attended_BTD))
        read_BTD = x_BTD if self.parallel else middle_BTD
        fed_BTD = self.mlp(_applied(self.post_attention_layernorm, read_BTD))
        return middle_BTD + self.dropout(_applied(self.mlp_output_layernorm, fed_BTD))  # type: ignore[no-any-return]


def _applied(norm: nn.Module | None, x_BTD: Tensor) -> Tensor:
    return x_BTD if norm is None else norm(x_BTD)


class _Context(NamedTuple):
    """What all layers of one pass share: by window the mask, and the rotation by position; and the cache."""

    masks: dict[int, Tensor | None]
    rotations: dict[int, tuple[Tensor, Tensor]]
    cache: KeyValueCache | None = None
    num_keys: int = 0


class Backbone(nn.Module):
    """From tokens to the last normalised residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.windows = sorted({config.window_of(layer) for layer in range(config.num_hidden_layers)})
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.rotary = None if learned else self._rotary(config.rope_theta, config.rope_scaling)
        local = config.rope_theta_local if not learned and any(self.windows) else 0.0
        self.rotary_local = self._rotary(local, RopeScaling()) if local else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def _rotary(self, theta: float, scaling: RopeScaling) -> RotaryEmbedding:
        return RotaryEmbedding(self.config.rotary_dim, theta, scaling)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        masks: dict[int, Tensor | None],
        cache: KeyValueCache | None = None,
        num_keys: int = 0,
    ) -> Tensor:
        """The last residual stream, normalised, of shape B T D; ``masks`` holds one for each window."""
        x_BTD = self.embed_tokens(tokens_BT)
        if self.config.scale_embedding:
            x_BTD = x_BTD * torch.tensor(self.config.hidden_size**0.5, dtype=x_BTD.dtype, device=x_BTD.device)
        if self.embed_positions is not None:
            x_BTD = x_BTD + self.embed_positions(positions_BT)
        context = _Context(masks, self._rotations(positions_BT), cache, num_keys)
        x_BTD = self.dropout(x_BTD)
        runs = which_run(len(self.layers), self.config.layer_drop, self.training)
        for layer in itertools.compress(self.layers, runs):
            x_BTD = layer(x_BTD, context)
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def _rotations(self, positions_BT: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        if self.rotary is None:
            return {}
        everywhere = self.rotary(positions_BT)
        local = everywhere if self.rotary_local is None else self.rotary_local(positions_BT)
        return {window: local if window else everywhere for window in self.windows}


class Decoder(LanguageModel):
    """A decoder language model. Module names are transformers' for Llama, so adapters and exports need no table."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("vocab_size must be known before a decoder is built")
        self.config = config
        self.logit_softcap = config.logit_softcap
        self.model = Backbone(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a state into scores of the vocabulary."""
        return shared_output_weight(self.model.embed_tokens) if self.lm_head is None else self.lm_head.weight

    @property
    def input_embedding(self) -> nn.Embedding:
        """The embedding of the vocabulary."""
        return self.model.embed_tokens

    def hidden(self, inputs: Inputs) -> Tensor:
        """The last normalised residual stream of shape B T D; documents (segments) do not see each other."""
        dtype = self.model.embed_tokens.weight.dtype
        first = self.num_prefix_tokens
        masks = {
            window: self_attention_mask(inputs, dtype, causal=True, window=window, num_prefix_tokens=first)
            for window in self.model.windows
        }
        return self.model(inputs.tokens_BT, self.places(inputs), masks)  # type: ignore[no-any-return]

    def new_cache(self, batch_size: int, max_tokens: int) -> KeyValueCache:
        """An empty cache for a batch of rows that may grow to ``max_tokens`` each."""
        weight, config = self.model.embed_tokens.weight, self.config
        cache = KeyValueCache(
            num_layers=config.num_hidden_layers,
            batch_size=batch_size,
            max_tokens=max_tokens,
            num_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
            num_prefix_tokens=self.num_prefix_tokens,
        )
        return prefixed(cache, self.model.layers)

    @torch.no_grad()
    def step(self, tokens_BT: Tensor, cache: KeyValueCache, lengths_B: Tensor | None = None) -> Tensor:
        """The logits of shape B V after each row's last token; the cache then holds these tokens too.

        Rows are padded on the right; ``lengths_B`` says how many tokens of each row are real (all, when left out).
        """
        lengths_B, positions_BT, num_keys = cache.begin(tokens_BT, lengths_B, self.config.max_position_embeddings)
        dtype = self.model.embed_tokens.weight.dtype
        masks: dict[int, Tensor | None] = {
            window: cache_mask(positions_BT[:, 0], tokens_BT.shape[1], num_keys, dtype, window)
            for window in self.model.windows
        }
        hidden_BTD = self.model(tokens_BT, positions_BT, masks, cache, num_keys)
        return self.score(cache.end(hidden_BTD, lengths_B))


def initialise(model: Decoder, generator: torch.Generator) -> None:
    """Fill the weights in place, as the configuration's ``initialisation`` says."""
    draw_weights(model, model.config, generator)


def build(config: DecoderConfig, generator: torch.Generator | None = None) -> Decoder:
    """A decoder with starting weights drawn from the generator."""
    model = Decoder(config)
    initialise(model, generator or torch.Generator().manual_seed(0))
    return model


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Heads fill the residual stream, each has its own keys, and the feed-forward layer is four times as wide."""
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if not heads or not width:
        return {}
    return {"head_dim": width // heads, "num_key_value_heads": heads, "intermediate_size": 4 * width}


FAMILY = ModelFamily(
    name="decoder",
    config=DecoderConfig,
    module=Decoder,
    build=build,
    defaults=_defaults,
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
