"""Attention, once, for every pattern; and the cache of keys and values that generation reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.nn.layers import RMSNorm
from preceptor.nn.positions import rotate


class KeyValueCache:
    """The keys and values of the tokens seen so far, for each layer and each row of a batch.

    Rows may differ in length: ``lengths_B`` counts what each row holds. Memory for ``max_tokens`` is taken at once, so
    that a step copies nothing but its own keys and values. A prefix stands in front of the tokens of every row; it
    takes positions, but is not counted among the tokens.
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
        num_prefix_tokens: int = 0,
    ) -> None:
        shape = (num_layers, batch_size, num_prefix_tokens + max_tokens, num_heads, head_dim)
        self.num_prefix_tokens = num_prefix_tokens
        self.keys_LBSKH = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBSKH = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(batch_size, dtype=torch.int64, device=device)

    @property
    def max_tokens(self) -> int:
        """How many tokens a row can hold."""
        return int(self.keys_LBSKH.shape[2]) - self.num_prefix_tokens

    @torch.no_grad()
    def hold_prefix(self, layer: int, keys_PKH: Tensor, values_PKH: Tensor) -> None:
        """Put a layer's prefix in front of every row."""
        self.keys_LBSKH[layer, :, : self.num_prefix_tokens] = keys_PKH
        self.values_LBSKH[layer, :, : self.num_prefix_tokens] = values_PKH

    def begin(self, tokens_BT: Tensor, lengths_B: Tensor | None, longest: int) -> tuple[Tensor, Tensor, int]:
        """The number of real tokens of each row, their positions of shape B T, and how many keys the rows then have.

        Rows are padded on the right; without lengths all tokens are real. A prefix counts for positions and keys.

        Raises:
            ValueError: the tokens do not fit into the cache, or into the longest context of the model.
        """
        num_tokens = tokens_BT.shape[1]
        if lengths_B is None:
            lengths_B = torch.full_like(self.lengths_B, num_tokens)
        num_keys = int(self.lengths_B.max()) + num_tokens
        room = min(self.max_tokens, longest - self.num_prefix_tokens)
        if num_keys > room:
            raise ValueError(f"{num_keys} tokens do not fit into a context of {room}")
        return lengths_B, self._places(tokens_BT), self.num_prefix_tokens + num_keys

    def _places(self, new_BT: Tensor) -> Tensor:
        """Where the tokens that come next stand in each row, of shape B T."""
        first_B1 = self.lengths_B.unsqueeze(1) + self.num_prefix_tokens
        return first_B1 + torch.arange(new_BT.shape[1], device=new_BT.device)

    def end(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """The states of each row's last real token, of shape B D; its tokens then count as held."""
        self.lengths_B = self.lengths_B + lengths_B
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), lengths_B - 1]

    def extend(self, layer: int, keys_BTKH: Tensor, values_BTKH: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer after the new ones are written behind each row's own end, cut to num_keys."""
        rows_B1 = torch.arange(keys_BTKH.shape[0], device=keys_BTKH.device).unsqueeze(1)
        places_BT = self._places(keys_BTKH)
        self.keys_LBSKH[layer][rows_B1, places_BT] = keys_BTKH
        self.values_LBSKH[layer][rows_B1, places_BT] = values_BTKH
        return self.keys_LBSKH[layer][:, :num_keys], self.values_LBSKH[layer][:, :num_keys]


CacheT = TypeVar("CacheT", bound=KeyValueCache)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionShape:
    """What sets one attention layer apart from another."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    bias: bool = False
    """Whether queries, keys and values have biases."""
    output_bias: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    """Whether queries and keys are normalised: each head by itself, or all heads of a token together."""
    norm_eps: float = 1e-6
    norm_offset: bool = False
    scale: float = 0.0
    """What the scores are multiplied by; 0 is one over the root of the head's size."""
    softcap: float = 0.0
    """Scores are kept within plus and minus this, softly; 0 leaves them alone. Source: Gemma 2 report, section 2."""
    dropout: float = 0.0
    """Probability of dropping an attention weight in training."""


class Prefix(Protocol):
    """Keys and values that every query finds in front of its document."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The keys, as if rotated already, and the values, both of shape P K H."""
        ...


class Attention(nn.Module):
    """Attention of a row to itself or, where a source is given, to the source."""

    prefix: Prefix | None
    """What is found in front of every document; a mask then has as many columns more."""

    def __init__(self, shape: AttentionShape, layer: int = 0) -> None:
        super().__init__()
        self.shape, self.layer = shape, layer
        width, kv_width = (n * shape.head_dim for n in (shape.num_attention_heads, shape.num_key_value_heads))
        self.q_proj = nn.Linear(shape.hidden_size, width, bias=shape.bias)
        self.k_proj = nn.Linear(shape.hidden_size, kv_width, bias=shape.bias)
        self.v_proj = nn.Linear(shape.hidden_size, kv_width, bias=shape.bias)
        self.o_proj = nn.Linear(width, shape.hidden_size, bias=shape.output_bias)
        self.q_norm = self._norm(width)
        self.k_norm = self._norm(kv_width)
        self.prefix = None

    def _norm(self, width: int) -> RMSNorm | None:
        shape = self.shape
        if shape.qk_norm == "none":
            return None
        return RMSNorm(shape.head_dim if shape.qk_norm == "head" else width, shape.norm_eps, offset=shape.norm_offset)

    def forward(
        self,
        x_BTD: Tensor,
        mask_BNTS: Tensor | None = None,
        *,
        causal: bool = False,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: KeyValueCache | None = None,
        num_keys: int = 0,
        source_BSD: Tensor | None = None,
        keys_and_values: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """What attention adds to the residual stream, of shape B T D.

        ``keys_and_values`` are those of a source, made before, and stand in for it.
        """
        queries_BTNH = self._heads(self.q_proj(x_BTD), self.q_norm)
        if keys_and_values is None:
            keys_and_values = self.keys_and_values(x_BTD if source_BSD is None else source_BSD)
        keys_BSKH, values_BSKH = keys_and_values
        if rotation is not None:
            queries_BTNH, keys_BSKH = rotate(queries_BTNH, rotation), rotate(keys_BSKH, rotation)
        if cache is not None:
            keys_BSKH, values_BSKH = cache.extend(self.layer, keys_BSKH, values_BSKH, num_keys)
        elif self.prefix is not None:
            keys_PKH, values_PKH = self.prefix()
            keys_BSKH, values_BSKH = _behind(keys_PKH, keys_BSKH), _behind(values_PKH, values_BSKH)
        shape = self.shape
        gathered_BTNH = attend(
            queries_BTNH,
            keys_BSKH,
            values_BSKH,
            mask_BNTS,
            causal=causal,
            dropout=shape.dropout if self.training else 0.0,
            scale=shape.scale or None,
            softcap=shape.softcap,
        )
        return self.o_proj(gathered_BTNH.reshape(*x_BTD.shape[:2], -1))  # type: ignore[no-any-return]

    def keys_and_values(self, read_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """What queries find of what is read, both of shape B S K H, before any rotation."""
        return self._heads(self.k_proj(read_BSD), self.k_norm), self._heads(self.v_proj(read_BSD), None)

    def _heads(self, x_BTW: Tensor, norm: RMSNorm | None) -> Tensor:
        """Queries, keys or values parted into heads, normalised where they are."""
        if norm is not None and self.shape.qk_norm == "width":
            x_BTW = norm(x_BTW)
        x_BTNH = x_BTW.view(*x_BTW.shape[:2], -1, self.shape.head_dim)
        return norm(x_BTNH) if norm is not None and self.shape.qk_norm == "head" else x_BTNH


def attend(
    queries_BTNH: Tensor,
    keys_BSKH: Tensor,
    values_BSKH: Tensor,
    mask_BNTS: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """What each query gathers from the values, of shape B T N H; ``causal`` counts where no mask is given.

    The mask is added to the scores and may carry a bias of position; B and N may be 1. Grouped queries: N is a
    multiple of K, and consecutive query heads share a key/value head.

    Source: Vaswani et al. 2017, eq. 1; Ainslie et al. 2023 for grouped queries.
    """
    groups = queries_BTNH.shape[2] // keys_BSKH.shape[2]
    queries_BNTH = queries_BTNH.transpose(1, 2)
    keys_BNSH = _per_query_head(keys_BSKH, groups)
    values_BNSH = _per_query_head(values_BSKH, groups)
    if softcap or _recording is not None:
        weights_BNTS = _weights(queries_BNTH, keys_BNSH, mask_BNTS, causal=causal, scale=scale, softcap=softcap)
        if _recording is not None:
            _recording.append(weights_BNTS.detach())
        gathered_BNTH = F.dropout(weights_BNTS, dropout) @ values_BNSH
    else:
        gathered_BNTH = F.scaled_dot_product_attention(
            queries_BNTH,
            keys_BNSH,
            values_BNSH,
            attn_mask=mask_BNTS,
            dropout_p=dropout,
            is_causal=causal and mask_BNTS is None,
            scale=scale,
        )
    return gathered_BNTH.transpose(1, 2)


def _weights(
    queries_BNTH: Tensor,
    keys_BNSH: Tensor,
    mask_BNTS: Tensor | None,
    *,
    causal: bool,
    scale: float | None,
    softcap: float,
) -> Tensor:
    """The attention weights of shape B N T S, each row of which sums to one."""
    scores = queries_BNTH @ keys_BNSH.transpose(2, 3) * (queries_BNTH.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask_BNTS is not None:
        scores = scores + mask_BNTS
    elif causal:
        future_TS = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future_TS, float("-inf"))
    return scores.softmax(dim=-1, dtype=torch.float32).to(queries_BNTH.dtype)


_recording: list[Tensor] | None = None


@contextmanager
def recorded_attention() -> Iterator[list[Tensor]]:
    """A list to which every attention within the context adds its weights, each of shape B N T S, in order of use."""
    global _recording
    before, _recording = _recording, []
    try:
        yield _recording
    finally:
        _recording = before


def prefixed(cache: CacheT, layers: nn.ModuleList) -> CacheT:
    """The cache with what the layers' self-attention finds in front of every document."""
    for layer in layers:
        attention = layer.self_attn
        if isinstance(attention, Attention) and attention.prefix is not None:
            cache.hold_prefix(attention.layer, *attention.prefix())
    return cache


def _behind(prefix_PKH: Tensor, x_BSKH: Tensor) -> Tensor:
    """Keys or values with those of a prefix in front of each row."""
    return torch.cat((prefix_PKH.to(x_BSKH.dtype).expand(len(x_BSKH), -1, -1, -1), x_BSKH), dim=1)


def _per_query_head(x_BSKH: Tensor, groups: int) -> Tensor:
    """Each key or value head repeated for the query heads that share it, of shape B N S H."""
    x_BKSH = x_BSKH.transpose(1, 2)
    return x_BKSH if groups == 1 else x_BKSH.repeat_interleave(groups, dim=1)
