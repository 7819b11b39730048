"""Several adapters over one base: attached by name, one of them used at a time, or a weighted sum of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from preceptor.adapters.attach import load_adapter
from preceptor.adapters.low_rank import LowRankEmbedding, LowRankLayer, LowRankShape, wrapped
from preceptor.adapters.low_rank_targets import low_rank_layers, put
from preceptor.core.errors import ConfigError
from preceptor.models.language_model import LanguageModel

_KEPT = "_adapters_by_name"


def adapter_names(model: LanguageModel) -> list[str]:
    """The names of the adapters that were attached to a model."""
    return sorted(model.__dict__.get(_KEPT, {}))


def attach_more(model: LanguageModel, folder: Path, name: str, base: str = "") -> LanguageModel:
    """The model with the adapter of a folder under a name, in use from now on; all share the weights of the base.

    An adapter of that name is replaced. The heads of an adapter are those of the model.

    Raises:
        ConfigError: the model has an adapter without a name.
        ArtifactError: the adapter cannot be read, or does not fit the model; then none is in use.
    """
    kept = model.__dict__.setdefault(_KEPT, {})
    if not kept and low_rank_layers(model):
        raise ConfigError(
            "the model has an adapter without a name already",
            remedy="load the model anew, and attach each adapter by attach_more",
        )
    _take_off(model)
    kept[name] = low_rank_layers(load_adapter(model, folder, base))
    return model


def switch(model: LanguageModel, name: str | None) -> LanguageModel:
    """The model with the adapter of that name in use, or with none; the others stay at hand.

    Raises:
        ConfigError: there is no such adapter.
    """
    layers = {} if name is None else _adapter(model, name)
    _take_off(model)
    for place, layer in layers.items():
        put(model, place, layer.to(layer.base_layer.weight.device))  # type: ignore[arg-type]
    return model


@torch.no_grad()
def blend(model: LanguageModel, weights: Mapping[str, float], name: str = "") -> LanguageModel:
    """The model with the weighted sum of adapters in use, exact: of ranks that are the sums of theirs.

    With a name it stays at hand under it.

    Raises:
        ConfigError: there is no such adapter, or one trains magnitudes, whose sum has no low rank.
    """
    if not weights:
        raise ConfigError("a blend needs at least one adapter", remedy=f"choose from {', '.join(adapter_names(model))}")
    found = {each: _adapter(model, each) for each in weights}
    for each, layers in found.items():
        if any(layer.lora_magnitude is not None for layer in layers.values()):
            raise ConfigError(
                f"the adapter {each} trains magnitudes (DoRA), and such changes cannot be added up",
                remedy="merge it into a model of its own, or blend adapters without magnitudes",
            )
    _take_off(model)
    places = dict.fromkeys(place for layers in found.values() for place in layers)
    blended = {
        place: _sum([(layers[place], weights[each]) for each, layers in found.items() if place in layers])
        for place in places
    }
    for place, layer in blended.items():
        put(model, place, layer)
    if name:
        model.__dict__[_KEPT][name] = blended
    return model


def _sum(parts: list[tuple[LowRankLayer, float]]) -> LowRankLayer:
    """One change that is the weighted sum of several of the same layer."""
    first = parts[0][0]
    matrices = [(layer.matrices(), weight * layer.scaling) for layer, weight in parts]
    rank = sum(len(a) for (a, _), _ in matrices)
    tied = isinstance(first, LowRankEmbedding) and first.ties_output
    made = wrapped(first.base_layer, LowRankShape(rank=rank, alpha=float(rank)), ties_output=tied)
    a, b = made.matrices()
    a.copy_(torch.cat([a for (a, _), _ in matrices]))
    b.copy_(torch.cat([b * weight for (_, b), weight in matrices], dim=1))
    return made.train(first.training)


def _adapter(model: LanguageModel, name: str) -> dict[str, LowRankLayer]:
    kept: dict[str, dict[str, LowRankLayer]] = model.__dict__.get(_KEPT, {})
    if name not in kept:
        raise ConfigError(
            f"the model has no adapter named {name!r}",
            remedy=f"choose from {', '.join(sorted(kept))}" if kept else "attach one by attach_more first",
        )
    return kept[name]


def _take_off(model: nn.Module) -> None:
    """Put every layer of the base where it was."""
    for place, layer in low_rank_layers(model).items():
        put(model, place, layer.base_layer)
