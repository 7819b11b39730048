"""Fixed vectors of positions: waves of falling frequency."""

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """A vector for each position, not learned: first the sines, then the cosines, of all frequencies.

    Source: Vaswani et al. 2017, section 3.5; there sines and cosines alternate, which is the same up to the order of
    the dimensions.
    """

    weight: Tensor

    def __init__(self, num_positions: int, size: int) -> None:
        super().__init__()
        # In double precision: at far positions an angle in single precision has lost digits that count.
        frequencies = 10_000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1) * frequencies
        weight = torch.cat((angles.sin(), angles[:, : size // 2].cos()), dim=1).float()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, positions_BT: Tensor) -> Tensor:
        """The vectors of positions, of shape B T D."""
        return self.weight[positions_BT]
