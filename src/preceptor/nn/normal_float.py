"""A frozen linear layer whose weights take four bits each.

Source: Dettmers et al. 2023, QLoRA, section 3: NormalFloat in blocks of 64, whose scales are themselves held in 8 bits.
"""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from preceptor.core.errors import ConfigError

BLOCK_SIZE = 64
"""How many weights share a scale."""
SCALE_BLOCK_SIZE = 256
"""How many scales share a scale."""


def _functional() -> Any:
    """The functions of bitsandbytes, which takes seconds to import and is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise ConfigError(
            'quantise = "nf4" needs bitsandbytes, which is not installed',
            path="finetuning.quantise",
            remedy="pip install 'preceptor[quant]', or leave quantise = \"none\"",
        ) from error


@functools.cache
def _scale_values(device: torch.device) -> Tensor:
    """The 256 numbers that a scale can be, up to the scale of its block."""
    values: Tensor = _functional().create_dynamic_map().to(device)
    return values


@torch.no_grad()
def _packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two weights to a byte, each the number of the nearest of 16 values, and the scale of each block.

    The bytes are those of bitsandbytes' ``quantize_4bit``, which looks up each weight and takes five times as long.
    """
    values = _functional().get_4bit_type("nf4", device="cpu").double()
    bounds = ((values[:-1] + values[1:]) / 2).float()
    flat = F.pad(weight.reshape(-1), (0, -weight.numel() % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    scales = flat.abs().amax(dim=1)
    scaled = (flat * (1.0 / scales.clamp(min=1e-38)).unsqueeze(1)).clamp_(-1, 1).view(-1)[: weight.numel()]
    # A last weight without a neighbour is given a zero.
    scaled = F.pad(scaled, (0, weight.numel() % 2))
    numbers = torch.zeros(scaled.shape, dtype=torch.uint8, device=weight.device)
    for bound in bounds.tolist():
        numbers += scaled > bound
    return ((numbers[::2] << 4) | numbers[1::2]).unsqueeze(1), scales


class NormalFloatLinear(nn.Linear):
    """A linear layer that keeps its weights in 4 bits, and makes them whole for the moment of a product.

    The same weights give the same bytes on every machine. Nothing but the 4 bits is kept for the backward pass.
    """

    packed: Tensor
    scales: Tensor
    scale_scales: Tensor
    scale_offset: Tensor

    def __init__(self, layer: nn.Linear, compute_dtype: torch.dtype | None = None) -> None:
        # Not nn.Linear's own, which would make a matrix of weights.
        nn.Module.__init__(self)
        functional = _functional()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = compute_dtype
        weight = layer.weight.detach().float().contiguous()
        if not torch.isfinite(weight).all():
            raise ValueError("weights that are not finite cannot be held in 4 bits")
        packed, scales = _packed(weight)
        offset = scales.mean()
        held, state = functional.quantize_blockwise(
            scales - offset, code=_scale_values(weight.device), blocksize=SCALE_BLOCK_SIZE
        )
        self.register_buffer("packed", packed)
        self.register_buffer("scales", held)
        self.register_buffer("scale_scales", state.absmax)
        self.register_buffer("scale_offset", offset)
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The whole matrix in float32, made anew at each look; what is written into it would be lost, so that fails."""
        with torch.inference_mode():
            return self.dense(torch.float32)

    @property
    def num_weights(self) -> int:
        """How many weights the matrix has."""
        return self.in_features * self.out_features

    @torch.no_grad()
    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix, of shape out_features by in_features."""
        operations = torch.ops.bitsandbytes
        scales = operations.dequantize_blockwise.default(
            self.scales, self.scale_scales, _scale_values(self.scales.device), SCALE_BLOCK_SIZE, torch.float32
        )
        scales += self.scale_offset
        shape = (self.out_features, self.in_features)
        whole: Tensor = operations.dequantize_4bit.default(self.packed, scales, BLOCK_SIZE, "nf4", shape, dtype)
        return whole

    def forward(self, input: Tensor) -> Tensor:
        """The product with the weights, of shape ... by out_features, in the type that the layer computes in."""
        dtype = self.compute_dtype
        if dtype is None:
            kind = input.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        product: Tensor = _Product.apply(input, self, dtype)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            product = product + self.bias.to(dtype)
        # Who asks for a type of its own gets back what it came with.
        return product if self.compute_dtype is None else product.to(input.dtype)

    def whole(self) -> nn.Linear:
        """A linear layer in full precision with the same weights."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.dense(torch.float32), requires_grad=False)
        if self.bias is not None:
            layer.bias = self.bias
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """What the layer says of itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, nf4"


class _Product(torch.autograd.Function):
    """x W^T with x of shape ... I; W is made whole in each direction and kept in neither."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: NormalFloatLinear, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.input_dtype = layer, input.dtype
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(dtype), layer.dense(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return (gradient @ ctx.layer.dense(gradient.dtype)).to(ctx.input_dtype), None, None
