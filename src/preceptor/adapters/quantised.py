"""A base model in four bits, on which an adapter trains: QLoRA."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from preceptor.models.language_model import LanguageModel
from preceptor.nn.normal_float import NormalFloatLinear


def quantise(
    model: LanguageModel, kind: Literal["nf4"] = "nf4", compute_dtype: torch.dtype | None = None
) -> LanguageModel:
    """The model with every linear layer but heads and the output layer in 4 bits, in place; these train no more.

    ``compute_dtype`` is what their products are computed in; left out, they follow their input and autocast. What is
    left out of this stays as it is, embeddings and norms too.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ValueError: the kind is not known, or a weight is not finite.
    """
    if kind != "nf4":
        raise ValueError(f"kind must be 'nf4', got {kind!r}")
    output = model.output_weight_VD
    for parent, name, full_name, layer in list(_linears(model)):
        if isinstance(layer, NormalFloatLinear) or full_name.startswith(("heads.", "lm_head")):
            continue
        if layer.weight is not output:
            setattr(parent, name, NormalFloatLinear(layer, compute_dtype))
    return model


def dequantised(model: nn.Module) -> nn.Module:
    """The model with every 4-bit layer as a linear layer of the same weights in float32, in place."""
    for parent, name, _, layer in list(_linears(model)):
        if isinstance(layer, NormalFloatLinear):
            setattr(parent, name, layer.whole())
    return model


def dense_weight(layer: nn.Linear | nn.Embedding) -> torch.Tensor:
    """The matrix of a layer in full precision, whether it is kept in 4 bits or not."""
    return layer.dense(torch.float32) if isinstance(layer, NormalFloatLinear) else layer.weight


def is_quantised(model: nn.Module) -> bool:
    """Whether any layer is kept in 4 bits."""
    return any(isinstance(module, NormalFloatLinear) for module in model.modules())


def weight_bytes(model: nn.Module) -> int:
    """How many bytes weights take, the scales of 4-bit weights included; what is shared counts once."""
    tensors = (*model.parameters(), *model.buffers())
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Linear]]:
    """Every linear layer as (parent, name in the parent, full name, layer)."""
    for parent_name, parent in model.named_modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, name, f"{parent_name}.{name}" if parent_name else name, child
