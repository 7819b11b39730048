"""The whole weights of a placed model, brought to the first process one at a time, as it asks for them.

No process ever holds all of them: what is asked for is put together from its pieces, and is gone when the asker lets
go.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from preceptor.core.errors import OutputError
from preceptor.parallel.engine import Engine
from preceptor.parallel.layout import Piece, owned
from preceptor.parallel.mesh import Mesh

_NO_MORE = -1


@contextmanager
def whole_weights(engine: Engine) -> Iterator[Mapping[str, Tensor] | None]:
    """All weights by their names in the whole model for the first process; None for others, who have sent theirs then.

    What the first process does in the block, it does alone.

    Raises:
        OutputError: the block failed in the first process, which raises what it was.
    """
    weights = {name: weight.detach() for name, weight in engine.placed.weights.items()}
    if engine.mesh.is_alone:
        yield weights
        return
    mesh = engine.mesh.apart()
    mine = owned(engine.pieces, mesh.coordinates)
    kept = {name: weight for name, weight in weights.items() if mine[name] and weight.numel()}
    table = _table(mesh, engine, kept)
    if not mesh.is_first:
        _send(mesh, table, kept)
        if failure := mesh.said_by_first(""):
            raise OutputError(f"the first process has failed: {failure}")
        yield None
        return
    failure = ""
    try:
        yield _Whole(mesh, table, kept)
    except BaseException as error:
        failure = str(error) or type(error).__name__
        raise
    finally:
        mesh.of_first(_NO_MORE)
        mesh.said_by_first(failure)


def _table(mesh: Mesh, engine: Engine, kept: Mapping[str, Tensor]) -> dict[str, list[dict[str, Any]]]:
    """Of each weight, who has which piece of it; the same everywhere."""
    rows = {}
    for name, weight in kept.items():
        piece = engine.pieces[name]
        rows[name] = [piece.shape, piece.starts, piece.lengths, str(weight.dtype).removeprefix("torch.")]
    table: dict[str, list[dict[str, Any]]] = {}
    for rank, said in enumerate(mesh.gathered(json.dumps(rows))):
        for name, (shape, starts, lengths, dtype) in json.loads(said).items():
            piece = Piece(tuple(shape), tuple(starts), tuple(lengths))
            if all(row["piece"] != piece for row in table.get(name, [])):
                table.setdefault(name, []).append({"rank": rank, "piece": piece, "dtype": dtype})
    return table


def _send(mesh: Mesh, table: Mapping[str, list[dict[str, Any]]], kept: Mapping[str, Tensor]) -> None:
    """Send pieces of weights as the first process asks for them, until it wants no more."""
    names = [*table]
    while (number := int(mesh.of_first(0))) != _NO_MORE:
        if any(row["rank"] == mesh.rank for row in table[names[number]]):
            dist.send(_flat(kept[names[number]].cpu()), dst=0, group=mesh.everyone)


def _flat(tensor: Tensor) -> Tensor:
    """The bytes of a tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


class _Whole(Mapping[str, Tensor]):
    """Weights that are brought when they are looked up, and are nobody else's then."""

    def __init__(self, mesh: Mesh, table: Mapping[str, list[dict[str, Any]]], kept: Mapping[str, Tensor]) -> None:
        self.mesh, self.table, self.kept = mesh, table, kept
        self.numbers = {name: number for number, name in enumerate(table)}

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self.table)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.table)

    def __getitem__(self, name: str) -> Tensor:
        """One weight, put together in the memory of the host."""
        rows = self.table[name]
        self.mesh.of_first(self.numbers[name])
        shape, dtype = rows[0]["piece"].shape, getattr(torch, rows[0]["dtype"])
        if sum(row["piece"].numel for row in rows) != torch.Size(shape).numel():
            raise OutputError(f"the pieces of {name} that the processes hold do not make the whole of it")
        whole = torch.empty(shape, dtype=dtype)
        for row in rows:
            if row["rank"] == self.mesh.rank:
                part = self.kept[name].cpu()
            else:
                part = torch.empty(row["piece"].lengths, dtype=dtype)
                dist.recv(_flat(part), src=row["rank"], group=self.mesh.everyone)
            ranges = row["piece"].overlap(Piece.whole(shape))
            assert ranges is not None
            whole[ranges] = part
        return whole
