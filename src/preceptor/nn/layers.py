"""Norms and feed-forward layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def relu_squared(x: Tensor) -> Tensor:
    """The square of the positive part. Source: So et al. 2021, Primer."""
    return F.relu(x).square()


def which_run(num_layers: int, layer_drop: float, training: bool) -> list[bool]:
    """Which layers run in this pass; one that does not leaves its input as it is. Drawn for the whole batch.

    In training each layer is left out with the given probability, but never all of them. In evaluation all run and none
    is scaled, so what a layer adds there is, to what it added in training on average, as one is to the share of passes
    in which it ran.

    Source: Fan et al. 2019, LayerDrop, section 3.1; after Huang et al. 2016, stochastic depth.
    """
    if not training or not layer_drop:
        return [True] * num_layers
    draws = torch.rand(num_layers).tolist()
    return [draw >= min(layer_drop, max(draws)) for draw in draws]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it. Source: Hendrycks and Gimpel 2016."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu2": relu_squared,
    "gelu": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": F.relu,
}
"""Activation functions by the names that transformers gives them in ``hidden_act``."""


class RMSNorm(nn.Module):
    """The input divided by its root mean square over the last dimension, times a learned gain.

    With an offset the gain is one more than the weight, as in Gemma's checkpoints, so that decay pulls it towards one.

    Source: Zhang and Sennrich 2019, eq. 4.
    """

    def __init__(self, size: int, eps: float, *, offset: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size) if offset else torch.ones(size))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, of the same shape."""
        weight = self.weight + 1.0 if self.offset else self.weight
        # Under autocast the results of matrix products have another type than the weight; sums are in float32 anyway.
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), self.eps)


class FeedForward(nn.Module):
    """Up, activation, down; with a gate, the activation of the gate multiplies the up projection.

    Source: Shazeer 2020, GLU variants, eq. 6, for the gated form.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        hidden_act: str,
        *,
        gated: bool,
        bias: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias) if gated else None
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.activation = ACTIVATIONS[hidden_act]
        self.intermediate_size, self.dropout = intermediate_size, dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        """What the layer adds to the residual stream, of shape B T D."""
        up_BTF = self.up_proj(x_BTD)
        if self.gate_proj is None:
            inside_BTF = self.activation(up_BTF)
        else:
            inside_BTF = self.activation(self.gate_proj(x_BTD)) * up_BTF
        if self.dropout:
            inside_BTF = F.dropout(inside_BTF, self.dropout, self.training)
        return self.down_proj(inside_BTF)  # type: ignore[no-any-return]
