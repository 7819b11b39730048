"""A model counted before it exists: its tensors, the arithmetic of a token, and the memory that it takes."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from preceptor.models.family import ModelFamily
from preceptor.models.interchange import ARCHITECTURES, architecture_of
from preceptor.models.language_model import LanguageModel, is_hidden_matrix
from preceptor.nn.attention import Attention
from preceptor.nn.layers import FeedForward, RMSNorm
from preceptor.nn.relative import RelativeAttention

DEFAULT_CONTEXT = 512
"""Where a configuration sets no longest text. Source: Yang et al. 2019, section 3.1, for XLNet."""
_FLOAT32, _BFLOAT16 = 4, 2
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors of one name and shape in all the blocks that repeat them; ``*`` stands for the number of the block."""

    name: str
    shape: tuple[int, ...]
    count: int
    parameters: int
    """Of all of them together."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations for one token, a multiplication and an addition being two."""

    weights: int
    """Forward, in products with weights: twice the weights that a token meets."""
    attention: int
    """Forward, in products of queries with keys and of attention with values, every key of the context counted."""
    forward: int
    forward_and_backward: int
    """Three times forward: backward has two products for each of forward's."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. Gradients and the state of optimizers are in float32, as they are kept in training."""

    weights_float32: int
    weights_bfloat16: int
    gradients: int
    adamw: int
    """Two averages for each parameter, and a count of steps for each tensor."""
    muon: int
    """One average for each hidden matrix, and AdamW's for the rest."""
    activations_per_token_float32: int
    """Roughly, what forward keeps for backward."""
    activations_per_token_bfloat16: int
    cache_per_token_float32: int
    """Keys and values of all layers; of a two-stream model the states of its memory. 0 where nothing is generated."""
    cache_per_token_bfloat16: int
    cache_full_context_float32: int
    cache_full_context_bfloat16: int


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a model from its configuration alone."""

    family: str
    model_type: str
    """What config.json calls its architecture."""
    config: Mapping[str, Any]
    tensors: tuple[TensorGroup, ...]
    parameters: int
    """Weights used twice count once."""
    parameters_without_embeddings: int
    """Without the tables of tokens, positions and texts, and without the output layer's matrix."""
    trainable_parameters: int
    context_length: int
    """The context at which attention and the full cache are counted."""
    token: str
    """What a token is where there is more than one kind."""
    flops_per_token: Arithmetic
    memory: Memory

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def family_of(config: Any) -> ModelFamily:
    """The family to which a configuration belongs."""
    return next(row.family for row in ARCHITECTURES if type(config) is row.family.config)


def describe(config: Any, context_length: int = 0) -> Description:
    """The description of a model, which is built without memory for its weights.

    ``context_length`` is that of the configuration when left out.

    Raises:
        ValueError: the vocabulary's size is not known.
    """
    with torch.device("meta"):
        model = family_of(config).module(config)
    context = context_length or int(getattr(config, "max_position_embeddings", DEFAULT_CONTEXT))
    named = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in named.values())
    return Description(
        family=config.family,
        model_type=architecture_of(config).model_type,
        config=asdict(config),
        tensors=_groups(named),
        parameters=total,
        parameters_without_embeddings=total - _embedding_parameters(model),
        trainable_parameters=sum(p.numel() for p in named.values() if p.requires_grad),
        context_length=context,
        token="a token of the target and one of the source" if _has_source(config) else "a token",
        flops_per_token=_arithmetic(model, context),
        memory=_memory(model, named, context),
    )


def _has_source(config: Any) -> bool:
    return bool(config.family == "encoder_decoder")


def _groups(named: Mapping[str, nn.Parameter]) -> tuple[TensorGroup, ...]:
    counts: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, parameter in named.items():
        key = (_NUMBER.sub("*", name), tuple(parameter.shape))
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        TensorGroup(name, shape, count, count * torch.Size(shape).numel()) for (name, shape), count in counts.items()
    )


def output_matrix(model: LanguageModel) -> torch.Tensor | None:
    """The matrix that scores tokens; None where the model has none."""
    if getattr(model.config, "lm_head", True) is False:
        return None
    return model.output_weight_VD


def _embedding_parameters(model: LanguageModel) -> int:
    """Parameters of every table that is looked up, and of the output layer's matrix; each once."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    output = output_matrix(model)
    found = {id(weight): weight.numel() for weight in [*tables, *([] if output is None else [output])]}
    return sum(found.values())


def attentions(model: LanguageModel) -> list[tuple[int, int, RelativeAttention | Attention]]:
    """Heads, size of a head and layer of every attention."""
    found: list[tuple[int, int, RelativeAttention | Attention]] = []
    for module in model.modules():
        if isinstance(module, Attention):
            found.append((module.shape.num_attention_heads, module.shape.head_dim, module))
        elif isinstance(module, RelativeAttention):
            found.append((*module.heads, module))
    return found


def multiplied_layers(model: LanguageModel) -> Iterator[tuple[str, nn.Linear]]:
    """Name and layer of every linear layer that each token goes through; heads and the output layer do not count."""
    output = output_matrix(model)
    for name, module in model.named_modules():
        is_head = name.startswith("heads.") or name.endswith("pooler") or getattr(module, "weight", None) is output
        if isinstance(module, nn.Linear) and not is_head and not name.endswith("r_proj"):
            yield name, module


def _arithmetic(model: LanguageModel, context: int) -> Arithmetic:
    """The operations of one token amid a text of so many.

    A pass over a text multiplies each token with the weights of every linear layer, and in each attention each query
    with every key and each weight of attention with a value. What is masked is computed all the same; look-ups, norms
    and activations are left out, as is customary. XLNet's distances, of which a text has twice as many as tokens less
    one, are projected once for a text and multiplied with each query; its query stream, which runs at the predicted
    places of training only, is left out.

    Source: Kaplan et al. 2020, table 1 (2 for each weight outside the embeddings); Chowdhery et al. 2022, PaLM,
    appendix B (6 for each weight, and 12 times layers, heads, their size and the context, with backward).
    """
    output = output_matrix(model)
    weights = 0 if output is None else 2 * output.numel()
    weights += sum(2 * layer.weight.numel() for _, layer in multiplied_layers(model))
    attention, distances = 0, 2 * context - 1
    for heads, size, module in attentions(model):
        attention += 4 * context * heads * size
        if isinstance(module, RelativeAttention):
            attention += 2 * distances * heads * size + 2 * distances * module.r_proj.weight.numel() // context
    forward = weights + attention
    return Arithmetic(weights, attention, forward, 3 * forward)


def _adamw_bytes(named: Mapping[str, nn.Parameter]) -> int:
    return sum(2 * _FLOAT32 * parameter.numel() + _FLOAT32 for parameter in named.values())


def _memory(model: LanguageModel, named: Mapping[str, nn.Parameter], context: int) -> Memory:
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    matrices = {name: parameter for name, parameter in trained.items() if is_hidden_matrix(name, parameter)}
    rest = {name: parameter for name, parameter in trained.items() if name not in matrices}
    every, learned = (sum(p.numel() for p in group.values()) for group in (named, trained))
    kept, cached = _activation_values(model), _cache_values(model)
    return Memory(
        weights_float32=_FLOAT32 * every,
        weights_bfloat16=_BFLOAT16 * every,
        gradients=_FLOAT32 * learned,
        adamw=_adamw_bytes(trained),
        muon=sum(_FLOAT32 * parameter.numel() for parameter in matrices.values()) + _adamw_bytes(rest),
        activations_per_token_float32=_FLOAT32 * kept,
        activations_per_token_bfloat16=_BFLOAT16 * kept,
        cache_per_token_float32=_FLOAT32 * cached,
        cache_per_token_bfloat16=_BFLOAT16 * cached,
        cache_full_context_float32=_FLOAT32 * cached * context,
        cache_full_context_bfloat16=_BFLOAT16 * cached * context,
    )


def _activation_values(model: LanguageModel) -> int:
    """How many numbers forward keeps of a token for backward, roughly.

    Of every norm what it reads and what it leaves for the linear layers behind it; of attention queries, keys, values
    and what is gathered; of a feed-forward layer what stands before and after its activation, and the gate's product.
    The weights of attention are not kept (flash attention computes them anew), nor are logits (the loss is computed in
    pieces); dropout and recomputation are left out.

    Source: after Korthikanti et al. 2022, section 4.1, with these layers.
    """
    values = int(model.config.hidden_size)
    for module in model.modules():
        if isinstance(module, RMSNorm | nn.LayerNorm):
            values += 2 * module.weight.numel()
        elif isinstance(module, FeedForward):
            values += module.up_proj.out_features * (2 if module.gate_proj is None else 4)
    for heads, size, module in attentions(model):
        own = module.shape.num_key_value_heads if isinstance(module, Attention) else heads
        values += 2 * (heads + own) * size
    return values


def _cache_values(model: LanguageModel) -> int:
    """How many numbers generation keeps of a token."""
    if model.config.family == "two_stream":
        return int(model.config.num_hidden_layers * model.config.hidden_size)
    causal = _CACHING.get(model.config.family)
    if causal is None:
        return 0
    found = (module for name, module in model.named_modules() if isinstance(module, Attention) and causal(name))
    return sum(2 * attention.shape.num_key_value_heads * attention.shape.head_dim for attention in found)


_CACHING: Mapping[str, Callable[[str], bool]] = {
    "decoder": lambda name: True,
    "encoder_decoder": lambda name: name.startswith("decoder."),
}
"""Which attentions of a family keep keys and values; a decoder that reads a source keeps the source's too."""
