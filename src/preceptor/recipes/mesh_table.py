"""What each process of a mesh would hold of a model, as tables for people and as JSON."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from preceptor.core.config import decode
from preceptor.core.errors import ConfigError
from preceptor.core.units import human_bytes, human_count
from preceptor.models.describe import family_of
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh_config import AXES, MeshConfig, MeshSizes, sizes_of
from preceptor.parallel.plan import planned_by_rank

_BYTES_A_WEIGHT = 16
"""A weight, its gradient and AdamW's two averages, in float32."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class CutTensor:
    """Tensors of one name and shape, and how they are cut; ``*`` stands for the number of the layer."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """The axes along which processes hold different parts, or some hold it and others do not."""
    most: tuple[int, ...]
    """The shape of the largest part."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process holds."""

    rank: int
    place: Mapping[str, int]
    weights: int
    layers: str
    bytes: int
    """Of weights, gradients and AdamW's averages, in float32."""


@dataclass(frozen=True, slots=True)
class CutModel:
    """A model cut up for the processes of a mesh."""

    sizes: MeshSizes
    weights: int
    """Of the whole model."""
    tensors: tuple[CutTensor, ...]
    holdings: tuple[Holding, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)


def mesh_of(said: str) -> MeshConfig:
    """The mesh that ``tensor=2,shard=4`` says.

    Raises:
        ConfigError: it has an unknown key, or a value that is none.
    """
    pairs = [each.strip().partition("=") for each in re.split(r"[,\s]+", said.strip()) if each.strip()]
    values: dict[str, Any] = {}
    for name, sign, value in pairs:
        if not sign:
            raise ConfigError(
                f"--mesh: {name!r} has no value",
                path="mesh",
                remedy="write it as tensor=2,shard=4, as in [mesh]",
            )
        plain = {"true": True, "false": False}.get(value, value)
        values[name] = int(value) if value.isdecimal() else plain
    return decode(MeshConfig, values, where="mesh")


def describe_mesh(config: Any, mesh: MeshConfig) -> CutModel:
    """Who would hold what of a model, which is built without memory for its weights.

    Raises:
        ConfigError: the model cannot be cut up in this way; names what works.
    """
    family = family_of(config)
    with torch.device("meta"):
        model = family.module(config)
    by_rank = planned_by_rank(model, mesh, family.sharding)
    sizes = sizes_of(mesh, len(by_rank))
    holdings = tuple(_holding(rank, sizes, pieces) for rank, pieces in enumerate(by_rank))
    whole = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    total = sum(weight.numel() for weight in model.parameters())
    return CutModel(sizes, total, tuple(_tensors(whole, by_rank, sizes)), holdings)


def _holding(rank: int, sizes: MeshSizes, pieces: Mapping[str, Piece]) -> Holding:
    count = sum(piece.numel for piece in pieces.values())
    numbers = sorted({int(found[0]) for name in pieces if (found := _NUMBER.search(name)) and pieces[name].numel})
    return Holding(rank, asdict(sizes.coordinates(rank)), count, _ranges(numbers), count * _BYTES_A_WEIGHT)


def _ranges(numbers: list[int]) -> str:
    """Numbers in order as ranges: 0-3, 8-11."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _tensors(
    whole: Mapping[str, tuple[int, ...]], by_rank: list[dict[str, Piece]], sizes: MeshSizes
) -> list[CutTensor]:
    found: dict[tuple[str, tuple[int, ...]], CutTensor] = {}
    for name, shape in whole.items():
        key = (_NUMBER.sub("*", name, count=1), shape)
        if key in found:
            continue
        pieces = [pieces[name] for pieces in by_rank if name in pieces]
        apart = {axis for axis in AXES if getattr(sizes, axis) > 1} - frozenset.union(*(each.copies for each in pieces))
        largest = max(pieces, key=lambda piece: piece.numel)
        found[key] = CutTensor(key[0], shape, tuple(axis for axis in AXES if axis in apart), largest.lengths)
    return list(found.values())


def print_mesh(cut: CutModel, title: str) -> None:
    """Print how each tensor is cut, and what each process holds, with a bar as long as its share."""
    console = Console(highlight=False)
    console.print(escape(f"{title}: {cut.sizes} (of {cut.sizes.world}), {human_count(cut.weights)} weights"))
    table = Table(box=None, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for name in ("shape", "cut by", "a part"):
        table.add_column(name, justify="right")
    for tensor in cut.tensors:
        shape, part = (" x ".join(map(str, lengths)) for lengths in (tensor.shape, tensor.most))
        table.add_row(escape(tensor.name), shape, ", ".join(tensor.axes) or "nothing", part)
    console.print(table)
    console.print()
    ranks = Table(box=None, pad_edge=False)
    axes = [axis for axis in AXES if getattr(cut.sizes, axis) > 1]
    for name in ("process", *axes, "layers", "weights", "of all", "with AdamW"):
        ranks.add_column(name, justify="right")
    ranks.add_column("")
    most = max(each.weights for each in cut.holdings)
    for each in cut.holdings:
        places = [str(each.place[axis]) for axis in axes]
        share, bar = f"{each.weights / cut.weights:.0%}", "█" * max(1, round(12 * each.weights / most))
        held = (human_count(each.weights), share, human_bytes(each.bytes), bar)
        ranks.add_row(str(each.rank), *places, each.layers, *held)
    console.print(ranks)
