"""Attention by content, by distance and by whether two tokens are of the same text: Transformer-XL and XLNet."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from preceptor.nn.attention import attend


class Relations(NamedTuple):
    """How the queries of a pass stand to its keys; every layer reads the same one. R counts distances."""

    distances_RD: Tensor
    """A vector for each distance that occurs."""
    which_BTS: Tensor
    """The row of ``distances_RD`` that holds from query to key; B may be 1."""
    mask_B1TS: Tensor | None = None
    """0 where a query sees a key, else minus infinity; no query is without a key."""
    blind_BT: Tensor | None = None
    """The queries that are to gather nothing, whatever the mask says."""
    differs_BTS: Tensor | None = None
    """Whether query and key are of different texts of a pair; None where there are no pairs."""


def distance_vectors(distances_R: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Sines, then cosines, of each distance at falling frequencies, of shape R x size.

    Source: Dai et al. 2019, Transformer-XL, section 3.3.
    """
    frequencies = 10_000.0 ** -(torch.arange(0, size, 2, device=distances_R.device, dtype=torch.float32) / size)
    angles = distances_R.to(torch.float32).unsqueeze(1) * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1).to(dtype)


class RelativeAttention(nn.Module):
    """Attention whose scores add what the key says, how far away it stands and whether it is of the same text.

    Each of the three has a bias of its own that stands for what every query asks, whatever its content.

    Source: Dai et al. 2019, Transformer-XL, section 3.3; Yang et al. 2019, XLNet, section 2.5 for texts of a pair.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int, head_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = (num_attention_heads, head_dim)
        self.dropout = dropout
        width = num_attention_heads * head_dim
        self.q_proj = nn.Linear(hidden_size, width, bias=False)
        self.k_proj = nn.Linear(hidden_size, width, bias=False)
        self.v_proj = nn.Linear(hidden_size, width, bias=False)
        self.r_proj = nn.Linear(hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, hidden_size, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_attention_heads, head_dim))
        self.distance_bias = nn.Parameter(torch.zeros(num_attention_heads, head_dim))
        self.text_bias = nn.Parameter(torch.zeros(num_attention_heads, head_dim))
        self.text_embedding = nn.Parameter(torch.zeros(2, num_attention_heads, head_dim))

    def forward(self, x_BTD: Tensor, read_BSD: Tensor, relations: Relations) -> Tensor:
        """What the queries gather from what they read, of shape B T D."""
        queries_BTNH = self.q_proj(x_BTD).unflatten(-1, (-1, self.heads[1]))
        keys_BSNH = self.k_proj(read_BSD).unflatten(-1, (-1, self.heads[1]))
        values_BSNH = self.v_proj(read_BSD).unflatten(-1, (-1, self.heads[1]))
        bias_BNTS = self._by_distance(queries_BTNH, relations)
        if relations.differs_BTS is not None:
            bias_BNTS = bias_BNTS + self._by_text(queries_BTNH, relations.differs_BTS)
        bias_BNTS = bias_BNTS * self.heads[1] ** -0.5
        if relations.mask_B1TS is not None:
            bias_BNTS = bias_BNTS + relations.mask_B1TS
        gathered_BTNH = attend(
            queries_BTNH + self.content_bias,
            keys_BSNH,
            values_BSNH,
            bias_BNTS,
            dropout=self.dropout if self.training else 0.0,
        )
        if relations.blind_BT is not None:
            gathered_BTNH = gathered_BTNH.masked_fill(relations.blind_BT[..., None, None], 0.0)
        return self.o_proj(gathered_BTNH.flatten(2))  # type: ignore[no-any-return]

    def _by_distance(self, queries_BTNH: Tensor, relations: Relations) -> Tensor:
        """The score of each key's distance, of shape B N T S: each distance is scored once, and then looked up."""
        vectors_RNH = self.r_proj(relations.distances_RD).unflatten(-1, (-1, self.heads[1]))
        scores_BNTR = torch.einsum("btnh,rnh->bntr", queries_BTNH + self.distance_bias, vectors_RNH)
        shape = (*scores_BNTR.shape[:3], relations.which_BTS.shape[2])
        return scores_BNTR.gather(3, relations.which_BTS.unsqueeze(1).expand(shape))

    def _by_text(self, queries_BTNH: Tensor, differs_BTS: Tensor) -> Tensor:
        """The score of a key for being of the same text or of the other one, of shape B N T S."""
        scores_BNT2 = torch.einsum("btnh,cnh->bntc", queries_BTNH + self.text_bias, self.text_embedding)
        return torch.where(differs_BTS.unsqueeze(1), scores_BNT2[..., 1:], scores_BNT2[..., :1])
