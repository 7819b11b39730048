"""A built model cut up for one process of a mesh: by layers, within layers, by rows of weights."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from preceptor.parallel import data, pipeline, tensor
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.placed import OnePass, Placed


def cut_up(model: nn.Module, mesh: Mesh, table: Mapping[str, str]) -> Placed:
    """The part of a model that this process holds.

    The order matters: a pipeline takes its layers out of the whole, what is left is split within layers, and the pieces
    that come of it are sharded.
    """
    copies = frozenset(axis for axis, place in mesh.coordinates.items() if getattr(mesh.sizes, axis) > 1)
    weights = dict(model.named_parameters())
    pieces = {name: Piece.whole(weight.shape, copies) for name, weight in weights.items()}
    placed = Placed(model, weights, pieces, OnePass(model))
    if mesh.sizes.pipeline > 1:
        placed = pipeline.stages(placed, mesh)
    if mesh.sizes.tensor > 1:
        placed = tensor.split(placed, mesh, table)
    if mesh.sizes.shard > 1:
        return data.shard(placed, mesh)
    return replace(placed, sums=(*placed.sums, ("replicate", tuple(placed.weights))))
