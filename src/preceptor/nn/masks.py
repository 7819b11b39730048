"""Who may look at whom, turned into one mask that the layers share: 0 where a query sees a key, else minus infinity."""

import torch
from torch import Tensor

from preceptor.nn.inputs import Inputs


def self_attention_mask(
    inputs: Inputs, dtype: torch.dtype, *, causal: bool, window: int = 0, num_prefix_tokens: int = 0
) -> Tensor | None:
    """The mask of shape B 1 T T (or 1 1 T T) of a row that looks at itself; None where causality, or its lack, is all.

    With P prefix tokens its shape is B 1 T P+T, and it is never None: each document sees the prefix in front of it, as
    far as the window reaches.

    Documents are isolated. A causal query sees the keys up to its own place and those of its document's prefix. With a
    window it sees only keys fewer than ``window`` places away; where nothing is causal, at most ``window`` places.
    Padding is a document like any other, so that no query is left without a key.
    """
    num_tokens = inputs.tokens_BT.shape[1]
    windowed = 0 < window < num_tokens + num_prefix_tokens
    if inputs.segments_BT is None and inputs.prefix_BT is None and not windowed and not num_prefix_tokens:
        return None
    places = torch.arange(num_tokens, device=inputs.tokens_BT.device)
    distances_TT = places.unsqueeze(1) - places
    visible = torch.ones(1, num_tokens, num_tokens, dtype=torch.bool, device=places.device)
    if causal:
        visible = (distances_TT >= 0).unsqueeze(0)
        if inputs.prefix_BT is not None:
            visible = visible | inputs.prefix_BT.unsqueeze(1)
    if windowed:
        near_TT = distances_TT < window if causal else distances_TT.abs() <= window
        visible = visible & near_TT
    if inputs.segments_BT is not None:
        visible = visible & (inputs.segments_BT.unsqueeze(2) == inputs.segments_BT.unsqueeze(1))
    if num_prefix_tokens:
        visible = _with_prefix(visible, inputs, num_prefix_tokens, window if windowed else 0, causal=causal)
    return additive(visible, dtype)


def _with_prefix(visible: Tensor, inputs: Inputs, num_prefix_tokens: int, window: int, *, causal: bool) -> Tensor:
    """What each token sees of the prefix and then of its row, of shape B T P+T."""
    places_BT = inputs.places(num_prefix_tokens)
    distances_BTP = places_BT.unsqueeze(2) - torch.arange(num_prefix_tokens, device=places_BT.device)
    near_BTP = torch.ones_like(distances_BTP, dtype=torch.bool)
    if window:
        near_BTP = distances_BTP < window if causal else distances_BTP <= window
    return torch.cat((near_BTP, visible.expand(len(near_BTP), -1, -1)), dim=2)


def cross_attention_mask(
    segments_BT: Tensor | None, source_segments_BS: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """The mask of shape B 1 T S of a target that looks at its source; None where each row is one document, unpadded.

    A query whose document has no source (padding) is let see everything: what it gathers reaches nothing that counts,
    and the softmax of nothing would be no number.
    """
    if source_segments_BS is None:
        return None
    if segments_BT is None:
        visible_BTS = (source_segments_BS >= 0).unsqueeze(1)
    else:
        visible_BTS = segments_BT.unsqueeze(2) == source_segments_BS.unsqueeze(1)
    return additive(visible_BTS | ~visible_BTS.any(dim=2, keepdim=True), dtype)


def cache_mask(starts_B: Tensor, num_queries: int, num_keys: int, dtype: torch.dtype, window: int = 0) -> Tensor:
    """A mask of shape B 1 T S for queries that continue a cache.

    Query t of row b stands at position ``starts_B[b] + t`` and sees the keys at positions up to its own, with a window
    only those fewer than ``window`` places away. Row b's keys beyond its own length are those of other rows or of
    padding, and lie in the future, so the same rule hides them.
    """
    queries_BT = starts_B.unsqueeze(1) + torch.arange(num_queries, device=starts_B.device)
    distances_BTS = queries_BT.unsqueeze(2) - torch.arange(num_keys, device=starts_B.device)
    visible_BTS = distances_BTS >= 0
    if window:
        visible_BTS = visible_BTS & (distances_BTS < window)
    return additive(visible_BTS, dtype)


def additive(visible_BTS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is to be added to the scores, of shape B 1 T S."""
    mask_BTS = torch.zeros(visible_BTS.shape, dtype=dtype, device=visible_BTS.device)
    return mask_BTS.masked_fill_(visible_BTS.logical_not(), float("-inf")).unsqueeze(1)
