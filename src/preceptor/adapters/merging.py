"""Changes of low rank folded into the weights of their layers, and taken out again to the bit."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from preceptor.adapters.low_rank import LowRankEmbedding, LowRankLayer, is_quantised
from preceptor.adapters.low_rank_targets import is_tied, low_rank_layers, put
from preceptor.core.errors import ConfigError
from preceptor.models.language_model import LanguageModel

_MERGED = "_merged_changes"


@dataclass(frozen=True, slots=True)
class _Merged:
    """A change that was folded in, and the weights of its layer before that."""

    layer: LowRankLayer
    weight: Tensor


@torch.no_grad()
def merge(model: LanguageModel, *, for_good: bool = False) -> LanguageModel:
    """The model with every change folded into its layer, in place; unless it is for good, ``unmerge`` undoes it.

    A layer whose weights are in 4 bits becomes one of floating-point numbers. Weights that are shared stay shared.

    Raises:
        ConfigError: the embedding is changed but not the output layer that shares its weights.
    """
    layers = low_rank_layers(model)
    for layer in layers.values():
        if isinstance(layer, LowRankEmbedding) and not layer.ties_output and is_tied(model, layer):
            raise ConfigError(
                "the adapter changes the embedding and not the output layer, and both are the same weights",
                remedy="use the adapter beside the model, or train it anew here or with ensure_weight_tying in peft",
            )
    merged = {}
    for name, layer in layers.items():
        combined = layer.combined_weight().detach()
        merged[name] = _Merged(layer, layer.base_layer.weight.data)  # type: ignore[arg-type]
        put(model, name, _with_weight(layer.base_layer, combined))
    if merged and not for_good:
        model.__dict__[_MERGED] = model.__dict__.get(_MERGED, {}) | merged
    return model


def _with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    """The layer with other weights; one in 4 bits becomes another layer."""
    if not is_quantised(layer):
        layer.weight.data = weight
        return layer
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    dense.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().to(weight.dtype), requires_grad=False)
    return dense


@torch.no_grad()
def unmerge(model: LanguageModel) -> LanguageModel:
    """The model with its changes beside their layers again, whose weights are what they were, bit for bit.

    Raises:
        ConfigError: nothing was merged, or it was merged for good.
    """
    merged: dict[str, _Merged] = model.__dict__.pop(_MERGED, {})
    if not merged:
        raise ConfigError("nothing was merged into this model", remedy="merge first, and not for good")
    for name, each in merged.items():
        each.layer.base_layer.weight.data = each.weight
        put(model, name, each.layer)
    return model
