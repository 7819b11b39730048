"""Positions as a bias of the scores: what a query makes of a key depends on how far apart they stand."""

import math

import torch
from torch import Tensor, nn


class RelativeBias(nn.Module):
    """A number for each head and each range of distances; near distances have a range of their own.

    Source: Raffel et al. 2020, T5, section 2.1.
    """

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int, *, causal: bool) -> None:
        super().__init__()
        # A row for each head, so that heads can be split over processes like the rows of any matrix.
        self.weight = nn.Parameter(torch.zeros(num_heads, num_buckets))
        self.max_distance, self.causal = max_distance, causal

    def forward(self, places_BT: Tensor, key_places_BS: Tensor) -> Tensor:
        """What is added to the scores, of shape B N T S; B is 1 where both have one row."""
        distances_BTS = key_places_BS.unsqueeze(1) - places_BT.unsqueeze(2)
        buckets_BTS = bucket_of(distances_BTS, self.weight.shape[1], self.max_distance, causal=self.causal)
        # Head by head, so that the scores of a head lie together, as attention reads them.
        return self.weight[:, buckets_BTS].transpose(0, 1)


def bucket_of(distances: Tensor, num_buckets: int, max_distance: int, *, causal: bool) -> Tensor:
    """The range that a distance from query to key falls in, a key ahead of its query being at a positive one.

    The first half of the ranges hold one distance each, the others grow by a constant factor up to ``max_distance``,
    beyond which all is one. Where queries see ahead, half of the ranges are for what is ahead; where they do not, what
    is ahead counts as no distance.
    """
    if causal:
        first, behind = torch.zeros_like(distances), (-distances).clamp(min=0)
    else:
        num_buckets //= 2
        first, behind = (distances > 0) * num_buckets, distances.abs()
    single = num_buckets // 2
    growth = torch.log(behind.clamp(min=1).float() / single) / math.log(max_distance / single)
    grown = (single + (growth * (num_buckets - single)).long()).clamp(max=num_buckets - 1)
    return first + torch.where(behind < single, behind, grown)
