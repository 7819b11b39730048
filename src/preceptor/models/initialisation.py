"""Starting weights, each paper's as a named scheme; and how weights and learning rates follow a model's width.

A scheme says how widely the weights of each part are spread. Where ``width_base`` is set, spreads and learning rates
are those of a model of that width, carried over so that a learning rate found there is right at every width (muP).

Tables of muP also multiply the logits by 1/m and the attention scores by 1/sqrt(m) as they are computed. Here these
factors start within the weights before them: in the gain of the last normalisation, and in what makes the queries.
Adam's steps do not follow the size of gradients, so a weight that starts c times as large and learns c times as fast is
the same as a factor of c behind it. Thus a model stays one of its architecture, and every export holds.

Source: Yang et al. 2022, Tensor Programs V, table 8, and section J.2.1 for moving factors into weights.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from preceptor.models.schemes import Scheme


class StartingConfig(Protocol):
    """What a family's configuration says about starting weights."""

    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def num_hidden_layers(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102
    @property
    def initialisation(self) -> Scheme: ...  # noqa: D102
    @property
    def initializer_range(self) -> float: ...  # noqa: D102
    @property
    def zero_init_outputs(self) -> bool: ...  # noqa: D102
    @property
    def width_base(self) -> int: ...  # noqa: D102
    @property
    def head_dim_base(self) -> int: ...  # noqa: D102


class _Part(Enum):
    """What a matrix is to the width of a model."""

    EMBEDDING = auto()
    """From a number of things that stays to a width that grows."""
    READOUT = auto()
    """From the width to the vocabulary."""
    INNER = auto()
    """From width to width."""
    OUTPUT = auto()
    """From width to width, and added to the residual stream."""
    HEAD = auto()
    """From width to width, before the output weights."""
    OTHER = auto()
    """Of no family's own: an adapter, a head for a task."""


_SUFFIXES = {
    _Part.EMBEDDING: ("embed_tokens.weight", "embed_positions.weight", "embed_token_types.weight"),
    _Part.OUTPUT: ("self_attn.o_proj.weight", "mlp.down_proj.weight"),
    _Part.INNER: (
        *("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        *("mlp.gate_proj.weight", "mlp.up_proj.weight", "pooler.weight"),
    ),
    _Part.HEAD: ("lm_head.dense.weight",),
    _Part.READOUT: ("lm_head.weight", "lm_head.decoder.weight"),
}
_GROWS_BOTH_WAYS = (_Part.INNER, _Part.OUTPUT, _Part.HEAD)
_OUTPUT_NORMS = ("model.norm.weight", "model.norm.bias", "lm_head.norm.weight", "lm_head.norm.bias")


def _part(name: str) -> _Part:
    if not name.startswith("heads."):
        for part, suffixes in _SUFFIXES.items():
            if name.endswith(suffixes):
                return part
    return _Part.OTHER


@dataclass(frozen=True, slots=True)
class _Draw:
    """A distribution of mean 0."""

    deviation: float
    cutoff: float = 0.0
    """How many deviations away a normal distribution ends; 0: nowhere."""
    is_uniform: bool = False

    def fill(self, tensor: Tensor, factor: float, generator: torch.Generator) -> None:
        """Draw the tensor's elements, ``factor`` times as far apart."""
        deviation = self.deviation * factor
        if self.is_uniform:
            tensor.uniform_(-math.sqrt(3) * deviation, math.sqrt(3) * deviation, generator=generator)
        elif self.cutoff:
            limit = self.cutoff * deviation
            nn.init.trunc_normal_(tensor, 0.0, deviation, -limit, limit, generator=generator)
        else:
            tensor.normal_(0.0, deviation, generator=generator)


def _draw(config: StartingConfig, name: str, parameter: Tensor) -> _Draw:
    """How a matrix is drawn at the base width, or at its own where there is none."""
    part, layers, spread = _part(name), config.num_hidden_layers, config.initializer_range
    growth = growth_of(config)
    width = config.hidden_size / growth
    match config.initialisation:
        case "normal":
            return _Draw(spread)
        case "bert":
            return _Draw(spread, cutoff=2)
        case "gpt2":
            return _Draw(spread * (1 / math.sqrt(2 * layers) if part is _Part.OUTPUT else 1.0))
        case "modernbert":
            is_late = part in (_Part.OUTPUT, _Part.HEAD, _Part.READOUT)
            return _Draw(spread / math.sqrt(2 * layers) if is_late else spread, cutoff=3)
        case "small":
            is_output = part is _Part.OUTPUT
            return _Draw(2 / (layers * math.sqrt(width)) if is_output else math.sqrt(2 / (5 * width)))
    if part in (_Part.EMBEDDING, _Part.READOUT):
        return _Draw(width**-0.5)
    depth = _layer_number(name) if config.initialisation == "depth" else 1
    rows, columns = parameter.shape
    return _Draw(math.sqrt(2 * growth / (depth * (rows + columns))), is_uniform=True)


def _layer_number(name: str) -> int:
    """The number of the layer that a weight is of, from 1; 1 for what is of none."""
    _, found, rest = name.partition("layers.")
    return int(rest.partition(".")[0]) + 1 if found else 1


def growth_of(config: Any) -> float:
    """How many times as wide as its base a model is; 1 where it has none."""
    base = getattr(config, "width_base", 0)
    return float(config.hidden_size / base) if base else 1.0


def _factor(config: Any, name: str, names: set[str]) -> float:
    """What a weight carries of the factors that muP has behind it; it starts and learns so many times as large."""
    growth = growth_of(config)
    if growth == 1 and not getattr(config, "head_dim_base", 0):
        return 1.0
    # An embedding that is multiplied by the root of the width starts and learns that much smaller.
    embedding = growth**-0.5 if getattr(config, "scale_embedding", False) else 1.0
    if name.endswith("embed_tokens.weight"):
        return embedding
    if name in _OUTPUT_NORMS:
        return 1 / growth / (embedding if config.tie_word_embeddings else 1.0)
    # Where queries are normalised, only what comes after that has a say in their size.
    layer, found, _ = name.partition("self_attn.q_")
    carries = ".q_norm." in name or f"{layer}self_attn.q_norm.weight" not in names
    if found and carries and config.head_dim_base and not getattr(config, "attention_scale", 0.0):
        return math.sqrt(config.head_dim_base / config.head_dim)
    return 1.0


@torch.no_grad()
def draw_weights(model: nn.Module, config: StartingConfig, generator: torch.Generator) -> None:
    """Fill the weights in place: matrices as the scheme says, biases 0, gains 1, and all as the width asks.

    Hidden matrices are narrower by the root of the growth in width, the rest as at the base width.
    """
    names = {name for name, _ in model.named_parameters()}
    growth = growth_of(config)
    for name, parameter in model.named_parameters():
        factor = _factor(config, name, names)
        if parameter.dim() < 2:
            is_gain = name.endswith("norm.weight")
            # A gain with an offset is one more than its weight.
            parameter.fill_((factor - 1.0 if getattr(config, "norm_offset", False) else factor) if is_gain else 0.0)
        elif _part(name) is _Part.OUTPUT and config.zero_init_outputs:
            parameter.zero_()
        else:
            narrower = growth**-0.5 if _part(name) in _GROWS_BOTH_WAYS else 1.0
            _draw(config, name, parameter).fill(parameter, factor * narrower, generator)


def learning_rate_scales(model: nn.Module, optimizer: Literal["adamw", "muon"] = "adamw") -> dict[str, float]:
    """What the learning rate of each weight is multiplied by, so that the base width's is right; by name.

    Under AdamW a matrix from width to width learns more slowly by the growth in width. Muon's steps are as large as
    they should be as they are: their spectral norm is the root of rows by columns, at most times a constant of the
    shape. Adapters and heads for tasks keep their rates. All is 1 for a model without ``width_base``.

    Source: Yang et al. 2022, table 8 (Adam); Yang, Simon and Bernstein 2023, condition 1, for the spectral norm.
    """
    config = getattr(model, "config", None)
    names = {name for name, _ in model.named_parameters()}
    slower = 1.0 if optimizer == "muon" else 1 / growth_of(config)
    return {name: _factor(config, name, names) * (slower if _part(name) in _GROWS_BOTH_WAYS else 1.0) for name in names}
