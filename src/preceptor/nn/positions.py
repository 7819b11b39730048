"""Rotary positions: each pair of dimensions of a query or key is turned by an angle that grows with its position.

Tensor legend, here and everywhere: B batch, T query positions, S key positions, D model, F feed-forward, N query heads,
K key/value heads, H head size, V vocabulary, L layers, R adapter rank, P virtual tokens.
"""

import torch
from torch import Tensor, nn

from preceptor.nn.rope_scaling import RopeScaling


class RotaryEmbedding(nn.Module):
    """The rotation of any position, computed when it is needed: long contexts take no memory.

    Source: Su et al. 2021, RoFormer, eq. 34; dimension i is paired with i + R/2 as in Llama's checkpoints, R being the
    dimensions that are turned.
    """

    frequencies: Tensor

    def __init__(self, rotary_dim: int, rope_theta: float, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        if rotary_dim % 2:
            raise ValueError(f"the size that is turned must be even for rotary positions, got {rotary_dim}")
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        frequencies = (scaling or RopeScaling()).apply(rope_theta**-exponents)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines for each position, both of shape B T 1 R."""
        angles = positions_BT[..., None, None].to(self.frequencies.dtype) * self.frequencies
        cosines, sines = angles.cos(), angles.sin()
        # The sign of the half rotation stands here, so that turning a vector needs no negation.
        return torch.cat((cosines, cosines), dim=-1), torch.cat((-sines, sines), dim=-1)


def rotate(x_BTNH: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Query or key vectors turned by their position; dimensions beyond those of the rotation stay as they are."""
    cosines_BT1R, sines_BT1R = rotation
    turned = cosines_BT1R.shape[-1]
    if turned == x_BTNH.shape[-1]:
        return torch.addcmul(x_BTNH * cosines_BT1R, x_BTNH.roll(turned // 2, dims=-1), sines_BT1R)
    return torch.cat((rotate(x_BTNH[..., :turned], rotation), x_BTNH[..., turned:]), dim=-1)
