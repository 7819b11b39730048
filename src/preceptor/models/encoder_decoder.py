"""The encoder-decoder family: one module whose configuration spans T5, BART and the original Transformer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.encoder_decoder_stacks import Context, SourceCache, Stack
from preceptor.models.family import ModelFamily
from preceptor.models.language_model import LanguageModel, shared_output_weight
from preceptor.nn.attention import Attention, prefixed
from preceptor.nn.inputs import Inputs
from preceptor.nn.masks import cross_attention_mask


class EncoderDecoder(LanguageModel):
    """An encoder that reads ``inputs.source`` and a decoder that reads ``inputs`` with an eye on it.

    The decoder's tokens are those to be said, shifted to the right: each document begins with the start token.
    """

    final_logits_bias: Tensor | None

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("vocab_size must be known before an encoder-decoder is built")
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = Stack(config, decodes=False)
        self.decoder = Stack(config, decodes=True)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(config.vocab_size) if config.final_logits_bias else None)

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a state into scores of the vocabulary."""
        return shared_output_weight(self.shared) if self.lm_head is None else self.lm_head.weight

    @property
    def output_bias_V(self) -> Tensor | None:
        """What is added to the scores."""
        bias_V = self.final_logits_bias
        return bias_V if bias_V is None or self.vocabulary is None else self.vocabulary.own(bias_V)

    @property
    def input_embedding(self) -> nn.Embedding:
        """The embedding of the vocabulary."""
        return self.shared

    def to_output(self, hidden: Tensor) -> Tensor:
        """States made ready for the output weights, of shape ... D."""
        return hidden * self.config.hidden_size**-0.5 if self.config.scale_decoder_outputs else hidden

    def encode(self, source: Inputs) -> Tensor:
        """The encoder's states of shape B S D; documents (segments) do not see each other."""
        mask = self.encoder.mask(source, self.shared.weight.dtype)
        states_BSD: Tensor = self.encoder(self.shared(source.tokens_BT), source.places(), Context(mask))
        return states_BSD

    def hidden(self, inputs: Inputs) -> Tensor:
        """The decoder's last states of shape B T D; document n of the target sees document n of the source alone.

        Raises:
            ValueError: there is no source.
        """
        if inputs.source is None:
            raise ValueError("an encoder-decoder needs a source to read: give Inputs(..., source=Inputs(...))")
        dtype, first = self.shared.weight.dtype, self.num_prefix_tokens
        context = Context(
            self.decoder.mask(inputs, dtype, first),
            causal=True,
            source_BSD=self.encode(inputs.source),
            source_mask_B1TS=cross_attention_mask(inputs.segments_BT, inputs.source.segments_BT, dtype),
        )
        return self.decoder(self.shared(inputs.tokens_BT), self.places(inputs), context)  # type: ignore[no-any-return]

    def new_cache(self, batch_size: int, max_tokens: int) -> SourceCache:
        """An empty cache for a batch of rows that may grow to ``max_tokens`` each; ``start`` gives it a source."""
        weight, config = self.shared.weight, self.config
        cache = SourceCache(
            num_layers=config.decoder_layers,
            batch_size=batch_size,
            max_tokens=max_tokens,
            num_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
            num_prefix_tokens=self.num_prefix_tokens,
        )
        return prefixed(cache, self.decoder.layers)

    @torch.no_grad()
    def start(self, source: Inputs, cache: SourceCache) -> Tensor:
        """The tokens of shape B 1 that ``step`` reads first; the cache then holds what is to be known of the source.

        Rows of the source are one document each; segments below zero are padding.
        """
        states_BSD = self.encode(source)
        attentions = [layer.encoder_attn for layer in self.decoder.layers]
        cache.source_keys_and_values = tuple(
            attention.keys_and_values(states_BSD) for attention in attentions if isinstance(attention, Attention)
        )
        cache.source_mask_B11S = cross_attention_mask(None, source.segments_BT, states_BSD.dtype)
        cache.lengths_B = torch.zeros_like(cache.lengths_B)
        return torch.full_like(source.tokens_BT[:, :1], self.config.decoder_start_token_id)

    @torch.no_grad()
    def step(self, tokens_BT: Tensor, cache: SourceCache, lengths_B: Tensor | None = None) -> Tensor:
        """The logits of shape B V after each row's last token; the cache then holds these tokens too.

        Rows are padded on the right; ``lengths_B`` says how many tokens of each row are real (all, when left out).

        Raises:
            ValueError: the cache has not been started, or the tokens do not fit into it.
        """
        if not cache.source_keys_and_values:
            raise ValueError("the cache holds no source: call start(source, cache) before the first step")
        lengths_B, positions_BT, num_keys = cache.begin(tokens_BT, lengths_B, self.config.max_position_embeddings)
        context = Context(
            self.decoder.step_mask(positions_BT, num_keys, self.shared.weight.dtype),
            source_mask_B1TS=cache.source_mask_B11S,
            cache=cache,
            num_keys=num_keys,
        )
        hidden_BTD = self.decoder(self.shared(tokens_BT), positions_BT, context)
        return self.score(cache.end(hidden_BTD, lengths_B))


@torch.no_grad()
def initialise(model: EncoderDecoder, generator: torch.Generator) -> None:
    """Fill the weights in place: matrices drawn as the configuration says, zero biases, unit gains.

    Source: Mesh TensorFlow's layers for T5; Lewis et al. 2020 for BART; Glorot and Bengio 2010, eq. 16, for the
    Transformer, whose embedding starts as in tensor2tensor so that it has unit variance once it is scaled.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(1.0 if name.endswith(("norm.weight", "layernorm_embedding.weight")) else 0.0)
        elif config.initializer == "mesh":
            parameter.normal_(0.0, config.initializer_factor * _mesh_deviation(name, config), generator=generator)
        elif config.initializer == "normal":
            parameter.normal_(0.0, config.initializer_range, generator=generator)
        elif name.startswith(("shared.", "lm_head.")) or "embed_positions" in name or "relative_bias" in name:
            parameter.normal_(0.0, config.hidden_size**-0.5, generator=generator)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)


def _mesh_deviation(name: str, config: EncoderDecoderConfig) -> float:
    """One over the root of what a layer reads; queries also make up for scores that are not scaled."""
    if name.startswith(("shared.", "lm_head.")):
        return 1.0
    if name.endswith("q_proj.weight"):
        return float((config.hidden_size * config.head_dim) ** -0.5)
    if name.endswith("o_proj.weight"):
        return float((config.num_attention_heads * config.head_dim) ** -0.5)
    if name.endswith("down_proj.weight"):
        return float(config.intermediate_size**-0.5)
    return float(config.hidden_size**-0.5)


def build(config: EncoderDecoderConfig, generator: torch.Generator | None = None) -> EncoderDecoder:
    """An encoder-decoder with starting weights drawn from the generator."""
    model = EncoderDecoder(config)
    initialise(model, generator or torch.Generator().manual_seed(0))
    return model


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Heads fill the residual stream, and the feed-forward layer is four times as wide."""
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    return {"head_dim": width // heads, "intermediate_size": 4 * width} if heads and width else {}


_STACKS = ("encoder", "decoder")
_ATTENTIONS = (("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn"))
FAMILY = ModelFamily(
    name="encoder_decoder",
    config=EncoderDecoderConfig,
    module=EncoderDecoder,
    build=build,
    defaults=_defaults,
    sharding={
        "shared.weight": "vocabulary",
        "lm_head.weight": "vocabulary",
        **{f"{stack}.relative_bias.weight": "column" for stack in _STACKS},
        **{f"{stack}.layers.*.{attention}.[qkv]_proj.*": "column" for stack, attention in _ATTENTIONS},
        **{f"{stack}.layers.*.{attention}.o_proj.weight": "row" for stack, attention in _ATTENTIONS},
        **{f"{stack}.layers.*.mlp.gate_proj.*": "column" for stack in _STACKS},
        **{f"{stack}.layers.*.mlp.up_proj.*": "column" for stack in _STACKS},
        **{f"{stack}.layers.*.mlp.down_proj.weight": "row" for stack in _STACKS},
    },
)
