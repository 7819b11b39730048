"""Linear layers whose matrix products are computed in 8-bit floating point, forward and backward.

Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning: four bits of exponent for what is multiplied forward,
five for gradients; one scale for each tensor, found anew at each product.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
_MULTIPLE = 16
"""What the sizes of matrices must be multiples of, for the products of GPUs."""


def has_float8(device: torch.device) -> bool:
    """Whether a device computes in 8 bits faster than in 16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def to_float8(layers: Iterable[nn.Module]) -> int:
    """The number of matrices in these layers that are multiplied in 8 bits from now on; the weights stay as they are.

    Matrices whose sizes are no multiples of 16 are left alone.
    """
    count = 0
    for layer in layers:
        for module in layer.modules():
            if type(module) is nn.Linear and not any(size % _MULTIPLE for size in module.weight.shape):
                # The same parameters under the same names; only how they are multiplied is another.
                module.__class__ = Float8Linear
                count += 1
    return count


class Float8Linear(nn.Linear):
    """A linear layer that multiplies in 8 bits, and adds its bias in 16."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the weights, of shape ... by the number of outputs, in bfloat16."""
        rows = input.reshape(-1, input.shape[-1])
        if rows.shape[0] % _MULTIPLE:
            return F.linear(input, self.weight, self.bias)
        with torch.autocast(input.device.type, enabled=False):
            product: Tensor = _Product.apply(rows.bfloat16(), self.weight)  # type: ignore[no-untyped-call]
            if self.bias is not None:
                product = product + self.bias.bfloat16()
        return product.reshape(*input.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """x W^T with x of shape T I and W of shape O I."""

    @staticmethod
    def forward(ctx: Any, rows_TI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(rows_TI, weight_OI)
        return _multiplied(rows_TI, weight_OI.t(), FORWARD, FORWARD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows_TI, weight_OI = ctx.saved_tensors
        by_rows = by_weight = None
        if ctx.needs_input_grad[0]:
            by_rows = _multiplied(gradient_TO, weight_OI, BACKWARD, FORWARD)
        if ctx.needs_input_grad[1]:
            by_weight = _multiplied(gradient_TO.t(), rows_TI, BACKWARD, FORWARD).to(weight_OI.dtype)
        return by_rows, by_weight


def _multiplied(left: Tensor, right: Tensor, left_dtype: torch.dtype, right_dtype: torch.dtype) -> Tensor:
    """The product of two matrices in 8 bits, in bfloat16."""
    (a, by_a), (b, by_b) = _scaled(left, left_dtype), _scaled(right, right_dtype)
    # GPUs multiply rows with columns only.
    return torch._scaled_mm(
        a.contiguous(), b.t().contiguous().t(), scale_a=by_a, scale_b=by_b, out_dtype=torch.bfloat16
    )


def _scaled(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The matrix over the whole range of a type, and what its elements are to be multiplied by in return."""
    scale = matrix.abs().amax().float().clamp(min=1e-12) / torch.finfo(dtype).max
    return (matrix.float() / scale).to(dtype), scale
