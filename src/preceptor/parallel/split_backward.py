"""Linear layers whose backward pass is cut in two: the gradient of what they read at once, that of the weight later.

Source: Qi et al. 2023, Zero Bubble Pipeline Parallelism, section 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Due(NamedTuple):
    """What the gradient of a weight is made of."""

    layer: nn.Linear
    read_XI: Tensor
    gradient_XO: Tensor


class DueProducts:
    """The gradients of weights that are still to be computed."""

    def __init__(self) -> None:
        self._due: list[_Due] = []

    def split(self, model: nn.Module) -> None:
        """Cut the backward pass of each plain linear layer in two; that of all else stays whole."""
        for module in model.modules():
            # Of the layers of other stages there is no weight.
            if type(module) is nn.Linear and module._parameters["weight"] is not None and module.weight.requires_grad:
                module.forward = self._forward_of(module)  # type: ignore[method-assign,assignment]

    def taken(self) -> Callable[[], None]:
        """What computes the gradients that are due now, and no later ones; it is to be called once."""
        due, self._due = self._due, []

        def compute() -> None:
            while due:
                _add_gradients(due.pop(0))

        return compute

    def add(self, due: _Due) -> None:
        """Note what is to be computed."""
        self._due.append(due)

    def _forward_of(self, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            # Compiled or exchanged for another kind of layer, it has its backward pass at once.
            if type(layer) is not nn.Linear or torch.compiler.is_compiling() or not torch.is_grad_enabled():
                return type(layer).forward(layer, x)
            kind = x.device.type
            if torch.is_autocast_enabled(kind):
                x = x.to(torch.get_autocast_dtype(kind))
            found: Tensor = _SplitLinear.apply(x, layer.weight, layer, self)  # type: ignore[no-untyped-call]
            return found

        return forward


class _SplitLinear(torch.autograd.Function):
    """A linear layer that leaves the gradient of its weights to whoever keeps its products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: nn.Linear, due: DueProducts) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.due = layer, due
        with torch.autocast(x.device.type, enabled=False):
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        layer: nn.Linear = ctx.layer
        ctx.due.add(_Due(layer, x.flatten(0, -2), gradient.flatten(0, -2)))
        needs_state = ctx.needs_input_grad[0]
        return gradient @ layer.weight.to(gradient.dtype) if needs_state else None, None, None, None


@torch.no_grad()
def _add_gradients(due: _Due) -> None:
    layer, read_XI, gradient_XO = due
    _add(layer.weight, gradient_XO.mT @ read_XI)
    if layer.bias is not None and layer.bias.requires_grad:
        _add(layer.bias, gradient_XO.sum(0))


def _add(weight: Tensor, gradient: Tensor) -> None:
    gradient = gradient.to(weight.dtype)
    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
