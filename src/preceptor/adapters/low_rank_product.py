"""A frozen linear layer and its change of low rank in one go, which keeps what it reads and little else."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def low_rank_linear(x: Tensor, layer: nn.Linear, a_RI: Tensor, b_OR: Tensor, scaling: float) -> Tensor:
    """The layer's result plus ``scaling`` B A x, of shape ... O."""
    is_plain = type(layer) is nn.Linear and not layer.weight.requires_grad
    if not is_plain or (layer.bias is not None and layer.bias.requires_grad):
        return torch.add(layer(x), F.linear(F.linear(x, a_RI), b_OR), alpha=scaling)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    result: Tensor = _Product.apply(x, layer.weight, layer.bias, a_RI, b_OR, scaling)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    """W x + b + s B A x. Kept are x and A x; nothing else of the size of activations is made on the way.

    The composed form makes the change by itself, forward and backward, and a scaled copy of the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scaling: float
    ) -> Tensor:
        # The types are those of x, whatever autocast would choose.
        with torch.autocast(x.device.type, enabled=False):
            result = F.linear(x, weight_OI.to(x.dtype), None if bias_O is None else bias_O.to(x.dtype))
            inner_TR = F.linear(x.reshape(-1, x.shape[-1]), a_RI.to(x.dtype))
            result.view(-1, result.shape[-1]).addmm_(inner_TR, b_OR.to(x.dtype).t(), alpha=scaling)
        ctx.save_for_backward(x, inner_TR, weight_OI, a_RI, b_OR)
        ctx.scaling = scaling
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inner_TR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        gradient_TO, scaling = gradient.reshape(-1, gradient.shape[-1]), ctx.scaling
        with torch.autocast(x.device.type, enabled=False):
            by_inner_TR = gradient_TO @ b_OR.to(x.dtype) * scaling
            by_b = (gradient_TO.t() @ inner_TR * scaling).to(b_OR.dtype) if ctx.needs_input_grad[4] else None
            by_a = (by_inner_TR.t() @ x.reshape(-1, x.shape[-1])).to(a_RI.dtype) if ctx.needs_input_grad[3] else None
            by_x = None
            if ctx.needs_input_grad[0]:
                by_x = gradient_TO @ weight_OI.to(x.dtype)
                by_x = by_x.addmm_(by_inner_TR, a_RI.to(x.dtype)).view_as(x)
        return by_x, None, None, by_a, by_b, None
