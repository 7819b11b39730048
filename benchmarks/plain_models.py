"""Plain PyTorch language models of a GPT-2 and a Llama shape, as one writes them without any library.

They are a peer of benchmarks/training_step.py: one product for queries, keys and values, PyTorch's own attention and
cross entropy, the output layer tied to the embedding, and the loss in the forward pass, so that all of it is compiled.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor] | None) -> Tensor:
        rows, places, width = x.shape
        parts = self.qkv(x).split(width, dim=2)
        q, k, v = (part.view(rows, places, self.heads, -1).transpose(1, 2) for part in parts)
        if turns is not None:
            q, k = _turned(q, *turns), _turned(k, *turns)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(rows, places, width))  # type: ignore[no-any-return]


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class _Gelu(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]


class _SwiGlu(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, inside, bias=False), nn.Linear(width, inside, bias=False)
        self.down = nn.Linear(inside, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class PlainModel(nn.Module):
    """A decoder whose forward pass gives the mean loss."""

    def __init__(
        self, *, shape: str, vocabulary: int, width: int, inside: int, layers: int, heads: int, context: int
    ) -> None:
        super().__init__()
        self.is_llama = shape == "llama"
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = None if self.is_llama else nn.Embedding(context, width)
        feed = _SwiGlu if self.is_llama else _Gelu
        self.attentions = nn.ModuleList(_Attention(width, heads, bias=not self.is_llama) for _ in range(layers))
        self.feeds = nn.ModuleList(feed(width, inside) for _ in range(layers))
        self.before_attention = nn.ModuleList(self._norm(width) for _ in range(layers))
        self.before_feed = nn.ModuleList(self._norm(width) for _ in range(layers))
        self.last = self._norm(width)
        half = width // heads // 2
        angles = torch.outer(torch.arange(context), 10_000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def _norm(self, width: int) -> nn.Module:
        return nn.RMSNorm(width, eps=1e-5) if self.is_llama else nn.LayerNorm(width)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean loss in nats of tokens and targets of shape B T."""
        x = self.embedding(tokens)
        turns = None
        if self.places is None:
            turns = (self.cosine[: tokens.shape[1]], self.sine[: tokens.shape[1]])  # type: ignore[index]
        else:
            x = x + self.places.weight[: tokens.shape[1]]
        layers = zip(self.before_attention, self.attentions, self.before_feed, self.feeds, strict=True)
        for before_attention, attention, before_feed, feed in layers:
            x = x + attention(before_attention(x), turns)
            x = x + feed(before_feed(x))
        logits = F.linear(self.last(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
