"""LoRA: the change of a layer as the product of two thin matrices, alone or with what has been proposed since."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.low_rank_product import low_rank_linear
from preceptor.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRankShape:
    """What sets the change of one layer apart from that of another."""

    rank: int
    alpha: float
    rank_stabilised: bool = False
    dropout: float = 0.0
    magnitude: bool = False

    @property
    def scaling(self) -> float:
        """What the product of the matrices is multiplied by. Source: Kalajdzievski 2023, eq. 4, for the root."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@torch.no_grad()
def dense_weight(layer: nn.Module) -> Tensor:
    """The weights of a linear layer or an embedding as a matrix of numbers, also where they are kept in 4 bits."""
    weight: Any = layer.weight
    if getattr(weight, "quant_state", None) is None:
        return weight  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


def is_quantised(layer: nn.Module) -> bool:
    """Whether the weights of a layer are no matrix of numbers, so that nothing can be added to them."""
    weight: Any = layer.weight
    return not weight.is_floating_point() or getattr(weight, "quant_state", None) is not None


def largest_part(weight_OI: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A and B of the part of a matrix with the largest singular values. Source: Meng et al. 2024, PiSSA, eq. 2 to 4."""
    left, values, right = torch.linalg.svd(weight_OI.float(), full_matrices=False)
    roots = (values[:rank] / scaling).sqrt()
    return (roots.unsqueeze(1) * right[:rank]).to(weight_OI.dtype), (left[:, :rank] * roots).to(weight_OI.dtype)


class LowRankLayer(nn.Module):
    """A frozen layer and its change. Matrices are of the shapes that peft gives them."""

    base_layer: nn.Module
    shape: LowRankShape
    scaling: float
    lora_magnitude: nn.Parameter | None
    start: tuple[Tensor, Tensor] | None
    """What A and B were at the start where that was taken out of the base, as PiSSA has it."""

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A of shape R x inputs and B of shape outputs x R."""
        raise NotImplementedError

    def combined_weight(self) -> Tensor:
        """The weights that one layer would need to do the same, of the shape of the base's."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The shape of the change."""
        return str(self.shape)


class LowRankLinear(LowRankLayer):
    """A frozen linear layer plus a trained change of low rank: y = W x + b + s B A x.

    A starts random and B at zero, so that the change starts at nothing. With a magnitude, each row of W + s B A is
    brought to a length that is trained by itself, and that starts as the length of the row of W.

    Source: Hu et al. 2021, LoRA, eq. 3; the start of A as in peft; Liu et al. 2024, DoRA, eq. 5, and section 4.3 for
    the length of W + s B A, which is a constant to gradients.
    """

    base_layer: nn.Linear
    squares_O: Tensor | None

    def __init__(
        self,
        base_layer: nn.Linear,
        shape: LowRankShape,
        generator: torch.Generator | None = None,
        *,
        pissa: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer, self.shape, self.scaling, self.start = base_layer, shape, shape.scaling, None
        like = _float_like(base_layer)
        self.lora_A = nn.Parameter(like.new_empty(shape.rank, base_layer.in_features))
        self.lora_B = nn.Parameter(like.new_zeros(base_layer.out_features, shape.rank))
        if pissa:
            self._take_largest()
        elif not like.is_meta:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        squares = dense_weight(base_layer).float().square().sum(1) if shape.magnitude else None
        self.register_buffer("squares_O", squares, persistent=False)
        self.lora_magnitude = nn.Parameter(squares.sqrt().to(like.dtype)) if squares is not None else None
        self.dropout = nn.Dropout(shape.dropout) if shape.dropout else nn.Identity()

    @torch.no_grad()
    def _take_largest(self) -> None:
        """Start as the largest part of the base, which keeps the rest."""
        weight = self.base_layer.weight
        self.start = largest_part(weight, self.shape.rank, self.scaling)
        for matrix, value in zip(self.matrices(), self.start, strict=True):
            matrix.copy_(value)
        weight.data = weight.data.addmm(self.lora_B, self.lora_A, alpha=-self.scaling)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A of shape R x inputs and B of shape outputs x R."""
        return self.lora_A, self.lora_B

    def forward(self, x: Tensor) -> Tensor:
        """What the adapted layer gives, of the base layer's output shape."""
        if self.lora_magnitude is None and isinstance(self.dropout, nn.Identity):
            return low_rank_linear(x, self.base_layer, self.lora_A, self.lora_B, self.scaling)
        change = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        if self.lora_magnitude is None:
            return torch.add(self.base_layer(x), change, alpha=self.scaling)
        return self._with_magnitude(x, change)

    def _with_magnitude(self, x: Tensor, change: Tensor) -> Tensor:
        """Dropped inputs count for the change alone, as peft has it."""
        assert self.lora_magnitude is not None
        bias = cast("Tensor | None", self.base_layer.bias)
        base = self.base_layer(x)
        factor_O = (self.lora_magnitude / self._lengths()).to(base.dtype)
        if bias is None:
            return factor_O * torch.add(base, change, alpha=self.scaling)
        return factor_O * torch.add(base - bias, change, alpha=self.scaling) + bias

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """The length of each row of W + s B A, without that matrix ever being made."""
        assert self.squares_O is not None
        a_RI, b_OR = self.lora_A.float(), self.lora_B.float()
        mixed_O = (dense_weight(self.base_layer).float() @ a_RI.t() * b_OR).sum(1)
        change_O = (b_OR @ (a_RI @ a_RI.t()) * b_OR).sum(1)
        return (self.squares_O + 2 * self.scaling * mixed_O + self.scaling**2 * change_O).clamp_(min=0).sqrt()

    def combined_weight(self) -> Tensor:
        """The weights that one linear layer would need to do the same, of shape O I."""
        weight = dense_weight(self.base_layer)
        # As one sum, not in place, so that the base stays what it is.
        combined = torch.addmm(weight, self.lora_B.to(weight.dtype), self.lora_A.to(weight.dtype), alpha=self.scaling)
        if self.lora_magnitude is None:
            return combined
        return (self.lora_magnitude / self._lengths()).unsqueeze(1).to(weight.dtype) * combined


class LowRankEmbedding(LowRankLayer):
    """A frozen embedding plus a trained change of low rank, row i of which is s B times column i of A.

    A starts at zero and B random. Where the embedding's weights are also those of the output layer, the change may
    count there too: ``ties_output``. With a magnitude, each column of the table has a length that is trained by itself.

    Source: Hu et al. 2021, LoRA, eq. 3; names and starts as in peft.
    """

    base_layer: nn.Embedding
    squares_D: Tensor | None

    def __init__(
        self,
        base_layer: nn.Embedding,
        shape: LowRankShape,
        generator: torch.Generator | None = None,
        *,
        ties_output: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer, self.shape, self.scaling, self.start = base_layer, shape, shape.scaling, None
        self.ties_output = ties_output
        like = base_layer.weight
        self.lora_embedding_A = nn.Parameter(like.new_zeros(shape.rank, base_layer.num_embeddings))
        self.lora_embedding_B = nn.Parameter(like.new_empty(base_layer.embedding_dim, shape.rank))
        if not like.is_meta:
            nn.init.normal_(self.lora_embedding_B, generator=generator)
        squares = like.detach().float().square().sum(0) if shape.magnitude else None
        self.register_buffer("squares_D", squares, persistent=False)
        self.lora_magnitude = nn.Parameter(squares.sqrt().to(like.dtype)) if squares is not None else None

    @property
    def weight(self) -> Tensor:
        """The base's weights."""
        return self.base_layer.weight

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights of an output layer that shares those of this embedding."""
        return self.combined_weight() if self.ties_output else self.base_layer.weight

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A of shape R x vocabulary and B of shape width x R."""
        return self.lora_embedding_A, self.lora_embedding_B

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of these ids, of shape ... D."""
        change = F.embedding(ids, self.lora_embedding_A.t()) @ self.lora_embedding_B.t()
        rows: Tensor = torch.add(self.base_layer(ids), change, alpha=self.scaling)
        return rows if self.lora_magnitude is None else (self.lora_magnitude / self._lengths()).to(rows.dtype) * rows

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """The length of each column of the changed table."""
        assert self.squares_D is not None
        a_RV, b_DR = self.lora_embedding_A.float(), self.lora_embedding_B.float()
        mixed_D = ((a_RV @ self.base_layer.weight.float()).t() * b_DR).sum(1)
        change_D = (b_DR @ (a_RV @ a_RV.t()) * b_DR).sum(1)
        return (self.squares_D + 2 * self.scaling * mixed_D + self.scaling**2 * change_D).clamp_(min=0).sqrt()

    def combined_weight(self) -> Tensor:
        """The table that one embedding would need to do the same, of shape V D."""
        weight = self.base_layer.weight
        combined = torch.addmm(weight, self.lora_embedding_A.t(), self.lora_embedding_B.t(), alpha=self.scaling)
        return combined if self.lora_magnitude is None else (self.lora_magnitude / self._lengths()) * combined


def _float_like(layer: nn.Linear) -> Tensor:
    """A tensor of the type and on the device that matrices beside a layer should have."""
    if not is_quantised(layer):
        return layer.weight
    return torch.empty(0, dtype=torch.float32, device=layer.weight.device)


def shape_of(config: AdapterConfig, rank: int = 0, alpha: float = 0.0) -> LowRankShape:
    """The change of a layer, with another rank or alpha than the configuration's where one is given."""
    return LowRankShape(
        rank=rank or config.rank,
        alpha=alpha or config.alpha,
        rank_stabilised=config.rank_stabilised,
        dropout=config.dropout,
        magnitude=config.magnitude,
    )


def wrapped(
    layer: nn.Module,
    shape: LowRankShape,
    generator: torch.Generator | None = None,
    *,
    pissa: bool = False,
    ties_output: bool = False,
) -> LowRankLayer:
    """A linear layer or an embedding with a change that starts at nothing, or as the largest part of the layer.

    Raises:
        ConfigError: the rank is larger than the matrix, the weights of the layer are in 4 bits, of which nothing can
            be taken out, or an embedding that is the output layer too is to have magnitudes.
    """
    if isinstance(layer, nn.Embedding):
        if shape.magnitude and ties_output:
            raise ConfigError(
                "magnitudes cannot be trained of an embedding that is also the output layer",
                path="finetuning.adapter.magnitude",
                remedy="leave the embedding out of target_modules, or set magnitude = false",
            )
        return LowRankEmbedding(layer, shape, generator, ties_output=ties_output)
    assert isinstance(layer, nn.Linear)
    if pissa and is_quantised(layer):
        raise ConfigError(
            'start = "pissa" takes a part out of the base, which cannot be done where it is in 4 bits',
            path="finetuning.adapter.start",
            remedy='set start = "random", or leave the base as it is',
        )
    if pissa and shape.rank > min(layer.in_features, layer.out_features):
        raise ConfigError(
            f"a layer from {layer.in_features} to {layer.out_features} has no {shape.rank} singular values",
            path="finetuning.adapter.rank",
            remedy=f"set a rank of at most {min(layer.in_features, layer.out_features)}",
        )
    return LowRankLinear(layer, shape, generator, pissa=pissa)
