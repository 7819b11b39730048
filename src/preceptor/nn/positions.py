"""Rotary positions: each pair of dimensions of a query or key is turned by an angle that grows with its position.

Tensor legend, here and everywhere: B batch, T query positions, S key positions, D model, F feed-forward, N query heads,
K key/value heads, H head size, V vocabulary, L layers, R adapter rank, P virtual tokens.
"""

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """The cosines and sines of every position up to a maximum, kept out of the state dict.

    Source: Su et al. 2021, RoFormer, eq. 34; dimension i is paired with i + H/2 as in Llama's checkpoints.
    """

    cosines_TH: Tensor
    sines_TH: Tensor

    def __init__(self, head_dim: int, max_position_embeddings: int, rope_theta: float) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        angles = torch.outer(torch.arange(max_position_embeddings, dtype=torch.float32), rope_theta**-exponents)
        both_halves = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cosines_TH", both_halves.cos(), persistent=False)
        # The sign of the half rotation lives in the table, so that turning a vector needs no negation.
        sines = both_halves.sin()
        sines[:, : head_dim // 2].neg_()
        self.register_buffer("sines_TH", sines, persistent=False)

    def forward(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines for each position, both of shape B T 1 H."""
        return self.cosines_TH[positions_BT].unsqueeze(2), self.sines_TH[positions_BT].unsqueeze(2)


def rotate(x_BTNH: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Query or key vectors turned by their position."""
    cosines_BT1H, sines_BT1H = rotation
    half = x_BTNH.shape[-1] // 2
    return torch.addcmul(x_BTNH * cosines_BT1H, x_BTNH.roll(half, dims=-1), sines_BT1H)
