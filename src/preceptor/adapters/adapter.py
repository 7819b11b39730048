"""What every adapter has in common: it takes a built model and returns one in which only the adapter trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from preceptor.core.errors import MismatchError
from preceptor.nn.normal_float import NormalFloatLinear


def freeze(model: nn.Module) -> None:
    """Stop every weight of a model from training."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def train_heads(model: nn.Module) -> None:
    """Let the heads of a frozen model train, as what is new about it."""
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            parameter.requires_grad_(True)


def trainable(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are; those in 4 bits count like any other."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    in_4_bits = sum(module.num_weights for module in model.modules() if isinstance(module, NormalFloatLinear))
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes) + in_4_bits


def trainable_table(model: nn.Module) -> str:
    """How much of a model trains, in the line by which the field knows it."""
    few, many = trainable(model)
    return f"trainable params: {few:,} || all params: {many:,} || trainable%: {100 * few / many:.4f}"


def require_base(table: Mapping[str, Any], base: str, folder: Path) -> str:
    """The id of the model that an adapter was made for, as its configuration names it; empty where it does not.

    Raises:
        MismatchError: it is not ``base``, where both are known.
    """
    made_for = str(table.get("base_model_name_or_path") or "")
    if base and made_for and base != made_for:
        raise MismatchError(
            f"{folder} is an adapter of another model",
            difference={"base": (made_for, base)},
            remedy=f"attach it to {made_for}, or train an adapter of this model",
        )
    return made_for
