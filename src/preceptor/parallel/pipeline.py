"""Pipeline parallel: the layers dealt over processes, each of which runs every micro-batch through its own.

Every process collates every micro-batch itself, so that nothing but states, and the gradients of states, travels.
They travel by way of host memory. Source: Huang et al. 2019, GPipe; for the orders see schedules.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from preceptor.core.errors import ConfigError
from preceptor.models.describe import output_matrix
from preceptor.models.language_model import LanguageModel
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.pipeline_stages import cut_by_cost, holders, stacks_of, stage
from preceptor.parallel.placed import ChunkPasses, OnePass, Placed
from preceptor.parallel.runner import Runner


def stages(placed: Placed, mesh: Mesh) -> Placed:
    """The stages of a model that are this process's; what it holds of other stages is freed.

    Raises:
        ConfigError: the model cannot be cut into so many stages, or not at all.
    """
    model = placed.model
    assert isinstance(model, LanguageModel)
    deal, pieces = _dealt(model, mesh), planned(model, placed.pieces, mesh)
    built = [stage(model, number, deal.stage_of, deal.weights_of(number)) for number in deal.mine]
    parts = nn.ModuleList(part for part, _ in built)
    weights = {name: placed.weights[name] for name in pieces}
    _free(model, parts)
    passes = ChunkPasses([OnePass(part) for part, _ in built])
    return replace(
        placed,
        model=parts,
        weights=weights,
        pieces=pieces,
        passes=passes,
        schedule=Runner(mesh, parts, [handover for _, handover in built], passes),
        shared=_shared(deal.held_by, mesh),
    )


def planned(model: LanguageModel, pieces: Mapping[str, Piece], mesh: Mesh) -> dict[str, Piece]:
    """Of the pieces of a whole model those that a process's stages have; no other process is asked.

    Raises:
        ConfigError: the model cannot be cut into so many stages, or not at all.
    """
    deal = _dealt(model, mesh)
    held = {name: by for name, by in deal.held_by.items() if by.intersection(deal.mine)}
    return {name: _piece(pieces[name], by, mesh) for name, by in held.items()}


class _Deal(NamedTuple):
    """Which stages there are, and what is whose."""

    stage_of: list[int]
    """The stage of each layer."""
    held_by: dict[str, set[int]]
    """The stages that hold each weight."""
    mine: list[int]
    """The stages of this process."""

    def weights_of(self, number: int) -> set[str]:
        """The weights of a stage."""
        return {name for name, by in self.held_by.items() if number in by}


def _dealt(model: LanguageModel, mesh: Mesh) -> _Deal:
    processes, chunks = mesh.sizes.pipeline, mesh.config.stages_per_process
    stage_of = _stage_of(model, processes, chunks)
    _require_whole_layers(model, mesh)
    is_tied = bool(getattr(model.config, "tie_word_embeddings", False)) and output_matrix(model) is not None
    weights = dict(model.named_parameters())
    held_by = {name: holders(model, name, stage_of, is_tied=is_tied) for name in weights}
    _require_trained(weights, held_by, mesh)
    _require_apart(held_by, mesh)
    return _Deal(stage_of, held_by, [chunk * processes + mesh.place.pipeline for chunk in range(chunks)])


def _stage_of(model: LanguageModel, processes: int, chunks: int) -> list[int]:
    """The stage of each layer: a layer costs what its weights do, and the last one the output layer too."""
    costs = [
        float(sum(tensor.numel() for tensor in (*layer.parameters(), *layer.buffers())))
        for stack in stacks_of(model)
        for layer in model.get_submodule(f"{stack.prefix}layers").children()
    ]
    if len(costs) < processes * chunks:
        raise ConfigError(
            f"a pipeline of {processes} processes with {chunks} stages each needs as many layers, and the model has "
            f"{len(costs)}",
            path="mesh.pipeline",
            remedy=f"lower mesh.pipeline or mesh.stages_per_process until they make at most {len(costs)} stages",
        )
    output = output_matrix(model)
    costs[-1] += 0 if output is None else output.numel()
    lengths = cut_by_cost(costs, processes * chunks)
    return [number for number, length in enumerate(lengths) for _ in range(length)]


def _require_whole_layers(model: LanguageModel, mesh: Mesh) -> None:
    if getattr(model.config, "layer_drop", 0.0):
        raise ConfigError(
            "which layers are left out is drawn for all of them at once, and no process of a pipeline has all",
            path="mesh.pipeline",
            remedy="set layer_drop = 0, or mesh.pipeline = 1 with more shards",
        )
    if mesh.config.schedule == "zero-bubble" and mesh.sizes.shard > 1:
        raise ConfigError(
            "the gradients of sharded weights are summed when a layer's backward pass ends, and zero-bubble computes "
            "them later",
            path="mesh.schedule",
            remedy='set mesh.schedule = "1f1b", or mesh.shard = 1 with more copies',
        )


def _require_trained(weights: dict[str, nn.Parameter], held_by: dict[str, set[int]], mesh: Mesh) -> None:
    trained = {
        place for name, weight in weights.items() if weight.requires_grad for place in _places(held_by[name], mesh)
    }
    for place in range(mesh.sizes.pipeline):
        if place not in trained:
            raise ConfigError(
                f"process {place} of the pipeline holds no weight that is trained",
                path="mesh.pipeline",
                remedy="set mesh.pipeline = 1, or train weights in every layer",
            )


def _require_apart(held_by: dict[str, set[int]], mesh: Mesh) -> None:
    """Each stage gathers and lets go the weights that are sharded in it by itself."""
    for name, numbers in held_by.items():
        if mesh.sizes.shard > 1 and len(_places(numbers, mesh)) < len(numbers):
            raise ConfigError(
                f"several stages of one process read {name}, and sharded weights are gathered by one stage alone",
                path="mesh.stages_per_process",
                remedy='set mesh.schedule = "1f1b" and mesh.stages_per_process = 1, or mesh.shard = 1',
            )


@torch.no_grad()
def _free(model: nn.Module, parts: nn.Module) -> None:
    """Let go the memory of everything that no stage of this process has."""
    kept = {id(tensor) for tensor in (*parts.parameters(), *parts.buffers())}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in kept:
            tensor.data = tensor.new_empty(0)


def _places(held_by: set[int], mesh: Mesh) -> list[int]:
    """The processes along the pipeline that hold a weight."""
    return sorted({number % mesh.sizes.pipeline for number in held_by})


def _piece(piece: Piece, held_by: set[int], mesh: Mesh) -> Piece:
    is_first = _places(held_by, mesh)[0] == mesh.place.pipeline
    return replace(piece, copies=piece.copies - {"pipeline"}, is_counted=is_first)


def _shared(held_by: dict[str, set[int]], mesh: Mesh) -> tuple[tuple[dist.ProcessGroup, tuple[str, ...]], ...]:
    """The weights that several processes of the pipeline hold, with these processes."""
    by_places: dict[tuple[int, ...], list[str]] = {}
    for name, numbers in held_by.items():
        if len(places := _places(numbers, mesh)) > 1:
            by_places.setdefault(tuple(places), []).append(name)
    groups = [(mesh.group_among("pipeline", places), tuple(names)) for places, names in by_places.items()]
    return tuple((group, names) for group, names in groups if group is not None)
