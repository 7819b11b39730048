"""Attention, once, for every pattern; and the cache of keys and values that generation reads."""

import torch
from torch import Tensor
from torch.nn import functional as F


class KeyValueCache:
    """The keys and values of the tokens seen so far, for each layer and each row of a batch.

    Rows may differ in length: ``lengths_B`` counts what each row holds. Memory for ``max_tokens`` is taken at once, so
    that a step copies nothing but its own keys and values.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        max_tokens: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, batch_size, max_tokens, num_heads, head_dim)
        self.keys_LBSKH = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBSKH = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(batch_size, dtype=torch.int64, device=device)

    @property
    def max_tokens(self) -> int:
        """How many tokens a row can hold."""
        return int(self.keys_LBSKH.shape[2])

    def extend(self, layer: int, keys_BTKH: Tensor, values_BTKH: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer after the new ones are written behind each row's own end, cut to num_keys."""
        rows_B1 = torch.arange(keys_BTKH.shape[0], device=keys_BTKH.device).unsqueeze(1)
        places_BT = self.lengths_B.unsqueeze(1) + torch.arange(keys_BTKH.shape[1], device=keys_BTKH.device)
        self.keys_LBSKH[layer][rows_B1, places_BT] = keys_BTKH
        self.values_LBSKH[layer][rows_B1, places_BT] = values_BTKH
        return self.keys_LBSKH[layer][:, :num_keys], self.values_LBSKH[layer][:, :num_keys]


def attend(
    queries_BTNH: Tensor,
    keys_BSKH: Tensor,
    values_BSKH: Tensor,
    mask_BTS: Tensor | None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """What each query gathers from the values, of shape B T N H; causal where no mask is given.

    Grouped queries: N is a multiple of K, and consecutive query heads share a key/value head.

    Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 for grouped queries.
    """
    groups = queries_BTNH.shape[2] // keys_BSKH.shape[2]
    queries_BNTH = queries_BTNH.transpose(1, 2)
    keys_BNSH = _per_query_head(keys_BSKH, groups)
    values_BNSH = _per_query_head(values_BSKH, groups)
    gathered_BNTH = F.scaled_dot_product_attention(
        queries_BNTH, keys_BNSH, values_BNSH, attn_mask=mask_BTS, dropout_p=dropout, is_causal=mask_BTS is None
    )
    return gathered_BNTH.transpose(1, 2)


def _per_query_head(x_BSKH: Tensor, groups: int) -> Tensor:
    """Each key or value head repeated for the query heads that share it, of shape B N S H."""
    x_BKSH = x_BSKH.transpose(1, 2)
    return x_BKSH if groups == 1 else x_BKSH.repeat_interleave(groups, dim=1)
