"""Who may look at whom: the attention pattern of a batch, turned into one mask that every layer shares."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionPattern:
    """Which keys a query sees.

    Causal: only keys at its own position or before. Segments: only keys of its own document. A segment number below
    zero marks padding, which is a segment like any other, so that no query is left without a key.
    """

    causal: bool = True
    segments_BT: Tensor | None = None

    def additive_mask(self, num_tokens: int, dtype: torch.dtype) -> Tensor | None:
        """A mask of shape B 1 T T to add to the scores (0 or minus infinity), or None where causality says it all."""
        if self.segments_BT is None:
            return None
        same_BTT = self.segments_BT.unsqueeze(2) == self.segments_BT.unsqueeze(1)
        if self.causal:
            same_BTT = same_BTT.tril()
        mask_BTT = torch.zeros(same_BTT.shape, dtype=dtype, device=same_BTT.device)
        return mask_BTT.masked_fill_(same_BTT.logical_not(), float("-inf")).unsqueeze(1)


def cache_mask(starts_B: Tensor, num_queries: int, num_keys: int, dtype: torch.dtype) -> Tensor:
    """A mask of shape B 1 T S for queries that continue a cache.

    Query t of row b stands at position ``starts_B[b] + t`` and sees the keys at positions up to its own. Row b's keys
    beyond its own length are those of other rows or of padding, and lie in the future, so the same rule hides them.
    """
    queries_BT = starts_B.unsqueeze(1) + torch.arange(num_queries, device=starts_B.device)
    visible_BTS = queries_BT.unsqueeze(2) >= torch.arange(num_keys, device=starts_B.device)
    mask_BTS = torch.zeros(visible_BTS.shape, dtype=dtype, device=starts_B.device)
    return mask_BTS.masked_fill_(visible_BTS.logical_not(), float("-inf")).unsqueeze(1)
