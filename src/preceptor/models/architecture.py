"""One of transformers' architectures as a row of a table: its configuration and its tensors in both sides' words."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from preceptor.models.family import ModelFamily

Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one of their tensors is made of ours, and how it is taken apart into tensors of our shapes."""

    join: Callable[[Sequence[Tensor], Any], Tensor]
    """Their tensor from ours and our configuration."""
    split: Callable[[Tensor, Sequence[Shape], Any], Sequence[Tensor]]
    """Our tensors, of the given shapes, from theirs."""


def _split_rows(tensor: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
    return torch.split(tensor, [shape[0] for shape in shapes])


def _transposed(tensor: Tensor) -> Tensor:
    """A matrix the other way round; a vector as it is."""
    return tensor.t() if tensor.dim() == 2 else tensor


AS_IS = Layout(lambda ours, _: ours[0], lambda theirs, shapes, _: [theirs])
"""One to one."""
STACKED = Layout(lambda ours, _: torch.cat(list(ours)), lambda theirs, shapes, _: _split_rows(theirs, shapes))
"""Several of ours, one below the other."""
TRANSPOSED = Layout(
    lambda ours, _: _transposed(torch.cat(list(ours))),
    lambda theirs, shapes, _: _split_rows(_transposed(theirs), shapes),
)
"""Stacked, and the other way round where it is a matrix, as in GPT-2's checkpoints."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor of theirs and those of ours that it holds.

    ``{layer}`` stands for the number of any layer; a name that ends in ``.*`` for its weight and its bias. A row counts
    only where our model has all of its tensors; tensors of which no row speaks have the same name on both sides.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout = AS_IS
    beside: str = ""
    """The row counts only where our model has this tensor too."""
    without: str = ""
    """The row counts only where our model lacks this tensor."""

    def counts(self, names: Collection[str]) -> bool:
        """Whether the row speaks of a model whose tensors have these names."""
        present = {*self.ours, *([self.beside] if self.beside else [])}
        return all(name in names for name in present) and self.without not in names


def rows(names: Mapping[str, str | tuple[str, ...]], layout: Layout = AS_IS) -> tuple[TensorRow, ...]:
    """Rows of one layout, from their names to ours."""
    pairs = ((theirs, (ours,) if isinstance(ours, str) else ours) for theirs, ours in names.items())
    return tuple(TensorRow(theirs, ours, layout) for theirs, ours in pairs)


def _always(config: Any) -> bool:
    return True


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A row of the table: what our configuration must say, and the names of both sides."""

    model_type: str
    class_name: str
    family: ModelFamily
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of our configuration that this architecture implies."""
    fits_also: Callable[[Any], bool] = _always
    """Whether a configuration that says what is fixed is of this architecture indeed."""
    config_names: Mapping[str, str]
    """Our field -> the key in config.json."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json that follow from the architecture."""
    to_json: Callable[[Any], Mapping[str, Any]] = _nothing
    """Keys of config.json that need more than another name, from our configuration."""
    from_json: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _nothing
    """Fields of our configuration that need more than another name, from config.json.

    Raises:
        ValueError: config.json asks for what our family cannot do; says what.
    """
    tensors: tuple[TensorRow, ...] = ()
    prefix: str = ""
    """What the names of a file begin with, and lack where the model was saved without its head."""
    stand_ins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Their tensors that a file may lack, and those that hold the same values there."""
    zeros: tuple[str, ...] = ()
    """Their tensors that are zero where a file lacks them."""
    tied: tuple[str, ...] = ()
    """Their tensors that may stand in a file beside the one they share their values with."""
    ignored: tuple[str, ...] = ()
    """Patterns of their tensors that hold nothing that was learned."""

    def fits(self, config: Any) -> bool:
        """Whether a model of this configuration is of this architecture."""
        is_ours = type(config) is self.family.config
        return is_ours and all(getattr(config, k) == v for k, v in self.fixed.items()) and self.fits_also(config)

    def pairs(self, shapes: Mapping[str, Shape]) -> list[TensorRow]:
        """The rows of a model whose tensors have these names and shapes, each name spelled out."""
        numbers = sorted({int(found[1]) for name in shapes if (found := _LAYER.search(name))})
        every = (row for pattern in self.tensors for row in _spelled_out(pattern, numbers))
        pairs = [row for row in every if row.counts(shapes)]
        named = {name for row in pairs for name in row.ours}
        return pairs + [TensorRow(name, (name,)) for name in shapes if name not in named]

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of theirs, saved with its head or without, holds nothing that is needed."""
        return any(re.fullmatch(pattern, each) for pattern in self.ignored for each in (name, self.prefix + name))


_LAYER = re.compile(r"\.(\d+)\.")


def _spelled_out(row: TensorRow, numbers: Sequence[int]) -> Iterator[TensorRow]:
    """The row for each layer, and for weight and bias."""
    kinds = (".weight", ".bias") if row.theirs.endswith(".*") else ("",)
    for number in numbers if "{layer}" in row.theirs else (0,):
        for kind in kinds:
            ours = tuple(_filled(name, number, kind) for name in row.ours)
            theirs, beside, without = (
                name and _filled(name, number, kind) for name in (row.theirs, row.beside, row.without)
            )
            yield TensorRow(theirs, ours, row.layout, beside, without)


def _filled(pattern: str, number: int, kind: str) -> str:
    return (pattern.removesuffix(".*") + kind if kind else pattern).replace("{layer}", str(number))
