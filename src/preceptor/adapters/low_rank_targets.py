"""Which layers of a model LoRA changes, and by what rank; and the model with all of them changed."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from preceptor.adapters.adapter import freeze
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.low_rank import LowRankLayer, LowRankShape, shape_of, wrapped
from preceptor.core.errors import ConfigError

_NOT_BY_DEFAULT = ("heads.", "lm_head")
"""What says something: heads train whole, and an output layer is left as it is unless it is named."""
_NEVER = ("heads.", "embed_token_types")
"""Heads train whole; and of the table of texts models read rows without asking the layer."""


def adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers and embeddings that can be changed, by full name, in the order of the model."""
    inside = {
        f"{name}.base_layer" if name else "base_layer"
        for name, module in model.named_modules()
        if isinstance(module, LowRankLayer)
    }
    for parent_name, parent in model.named_modules():
        for child_name, child in parent.named_children():
            name = f"{parent_name}.{child_name}" if parent_name else child_name
            if isinstance(child, nn.Linear | nn.Embedding) and name not in inside and not name.startswith(_NEVER):
                yield name, child


def low_rank_layers(model: nn.Module) -> dict[str, LowRankLayer]:
    """The changed layers of a model, by full name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRankLayer)}


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Set the layer of a full name."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def shapes_of(model: nn.Module, config: AdapterConfig) -> dict[str, LowRankShape]:
    """The change of each targeted layer, by full name.

    Raises:
        ConfigError: a target or a pattern fits no layer of the model.
    """
    layers = dict(adaptable(model))
    linears = [n for n, layer in layers.items() if isinstance(layer, nn.Linear) and not n.startswith(_NOT_BY_DEFAULT)]
    for target in config.target_modules:
        if not any(_fits(target, name) for name in layers):
            choice = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise ConfigError(
                f"finetuning.adapter.target_modules: the model has no linear layer or embedding named {target!r}",
                path="finetuning.adapter.target_modules",
                expected=f"some of {choice}",
                remedy=f"choose from {choice}, or write full names with * and ?, such as *.layers.0.*",
            )
    named = [name for name in layers if any(_fits(target, name) for target in config.target_modules)]
    chosen = named if config.target_modules else linears
    for layer in config.layers:
        if not any(_fits(layer.pattern, name) for name in chosen):
            raise ConfigError(
                f"finetuning.adapter.layers: the pattern {layer.pattern!r} fits no layer that is adapted",
                path="finetuning.adapter.layers",
                expected=f"a pattern for names such as {', '.join(chosen[:3])}",
                remedy="correct the pattern, or add the layers to target_modules",
            )
    return {name: _shape(config, name) for name in chosen}


def _fits(pattern: str, name: str) -> bool:
    """Whether a pattern is the last part of a name, or fits the whole of it."""
    return pattern == name.rpartition(".")[2] or fnmatchcase(name, pattern)


def _shape(config: AdapterConfig, name: str) -> LowRankShape:
    found = next((layer for layer in config.layers if _fits(layer.pattern, name)), None)
    return shape_of(config) if found is None else shape_of(config, found.rank, found.alpha)


def is_tied(model: nn.Module, layer: nn.Module) -> bool:
    """Whether the weights of a layer are also those of the model's output layer."""
    try:
        return getattr(model, "output_weight_VD", None) is layer.weight
    except ValueError:
        return False


def attach(model: nn.Module, config: AdapterConfig, generator: torch.Generator | None = None) -> nn.Module:
    """The model with every targeted layer wrapped in place; only the adapters train.

    Raises:
        ConfigError: a target names no layer of the model, or a layer cannot be changed so.
    """
    shapes = shapes_of(model, config)
    freeze(model)
    return attach_shapes(model, shapes, generator, pissa=config.start == "pissa")


def attach_shapes(
    model: nn.Module,
    shapes: Mapping[str, LowRankShape],
    generator: torch.Generator | None = None,
    *,
    pissa: bool = False,
    ties_output: bool = True,
) -> nn.Module:
    """The model with the layers of these names wrapped in place.

    Without ``ties_output`` an output layer that shares the weights of a changed embedding keeps those of the base.

    Raises:
        ConfigError: a layer cannot be changed so.
    """
    layers = dict(adaptable(model))
    for name, shape in shapes.items():
        tied = ties_output and isinstance(layers[name], nn.Embedding) and is_tied(model, layers[name])
        put(model, name, wrapped(layers[name], shape, generator, pissa=pissa, ties_output=tied))
    return model


def adapter_rate_scales(model: nn.Module, config: AdapterConfig) -> dict[str, float]:
    """What the learning rate of each weight of an adapter is multiplied by: that of every B by ``rate_ratio``.

    Source: Hayou et al. 2024, LoRA+, section 4.
    """
    if config.kind != "lora" or config.rate_ratio == 1:
        return {}
    return {n: config.rate_ratio for n, _ in model.named_parameters() if n.endswith((".lora_B", ".lora_embedding_B"))}
