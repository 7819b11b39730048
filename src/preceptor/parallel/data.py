"""Data parallel: rows dealt over processes, with whole copies of the weights or with sharded ones (FSDP2).

Copies need nothing here: their gradients are summed by the engine once a step. Source: Rajbhandari et al. 2019, ZeRO,
stage 3, and Zhao et al. 2023, PyTorch FSDP, for sharded ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from preceptor.core.dealing import chunk_part
from preceptor.core.errors import ConfigError
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.placed import ChunkPasses, Placed, passed


class _WholePass(nn.Module):
    """One pass from batch to loss as the forward of a module, around which sharded weights are gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, objective: Any, batch: Any) -> tuple[Any, ...]:
        """The summed loss of a batch with its right predictions and supervised tokens."""
        return passed(objective, self.model, batch)


def shard(placed: Placed, mesh: Mesh) -> Placed:
    """A placed model whose weights, gradients and optimizer states are cut along their first dimension.

    The weights of a layer are gathered when it runs; those outside all layers at the beginning of a pass.

    Raises:
        ConfigError: layers are left out by chance.
    """
    for chunk in placed.chunks:
        require_all_layers(chunk)
    parts = [_ShardedPasses(chunk, mesh) for chunk in placed.chunks]
    sharded = {name: weight for part in parts for name, weight in part.sharded.items()}
    weights = {name: _local(sharded[name]) for name in placed.weights}
    for part in parts:
        part.weights = weights
    pieces = planned(placed.pieces, mesh)
    if isinstance(placed.passes, ChunkPasses):
        # Whoever runs the stages has these passes already.
        placed.passes.parts[:] = parts
        return replace(placed, weights=weights, pieces=pieces)
    return replace(placed, weights=weights, pieces=pieces, passes=parts[0])


class _ShardedPasses:
    """Passes through a model whose weights are gathered from shards, and its gradients summed into shards."""

    weights: dict[str, nn.Parameter]
    """The shards as everyone else sees them."""

    def __init__(self, model: nn.Module, mesh: Mesh) -> None:
        self.config, self.whole = mesh.config, _WholePass(model)
        over = mesh.submesh("replicate", "shard") if mesh.sizes.replicate > 1 else mesh.submesh("shard")
        gathered = torch.bfloat16 if self.config.gather_precision == "bfloat16" else None
        policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32 if gathered else None)
        for layer in _layers(model):
            fully_shard(layer, mesh=over, reshard_after_forward=self.config.reshard_after_forward, mp_policy=policy)
        self.root = fully_shard(self.whole, mesh=over, reshard_after_forward=False, mp_policy=policy)
        # Losses are sums, so that gradients are too.
        for module in self.whole.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                # Otherwise float32 is summed by an operation that only NCCL has.
                module.set_force_sum_reduction_for_comms(True)
        self.sharded = dict(model.named_parameters())

    def begin(self, is_last: bool) -> None:
        """Gradients that are not yet summed are kept whole, so that they travel once a step."""
        self.root.set_requires_gradient_sync(is_last or self.config.reduce_every_microbatch)
        self.root.set_is_last_backward(is_last)

    def loss(self, objective: Any, batch: Any) -> tuple[Any, ...]:
        """The summed loss of a batch with its right predictions and supervised tokens."""
        return cast(tuple[Any, ...], self.whole(objective, batch))

    def collect(self) -> None:
        """Put the gradients of a step beside the weights."""
        for name, weight in self.sharded.items():
            if weight.grad is not None:
                self.weights[name].grad = cast(DTensor, weight.grad).to_local()

    def clear(self) -> None:
        """Forget them where they were."""
        for weight in self.sharded.values():
            weight.grad = None


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of all stacks of a model."""
    stacks = [each for name, each in model.named_modules() if name.split(".")[-1] == "layers"]
    layers = [layer for stack in stacks if isinstance(stack, nn.ModuleList) for layer in stack]
    # Where the layers of another stage would be there is nothing to shard.
    return [layer for layer in layers if any(True for _ in layer.parameters())]


def _local(weight: nn.Parameter) -> nn.Parameter:
    """This process's rows of a sharded weight as a plain tensor; it is the same memory."""
    with torch.no_grad():
        local = cast(DTensor, weight).to_local()
    return nn.Parameter(local, requires_grad=weight.requires_grad)


def require_all_layers(model: nn.Module) -> None:
    """Refuse a model whose layers are left out by chance: who reads other rows draws others.

    Raises:
        ConfigError: says so.
    """
    if getattr(getattr(model, "config", None), "layer_drop", 0.0):
        raise ConfigError(
            "the weights of a layer are gathered by all processes together, and with layer_drop some would not run it",
            path="mesh.shard",
            remedy="set layer_drop = 0, or mesh.shard = 1 with more copies",
        )


def planned(pieces: Mapping[str, Piece], mesh: Mesh) -> dict[str, Piece]:
    """What is left of each piece when its rows are cut up once more; no other process is asked."""
    sizes, place = mesh.sizes.shard, mesh.place.shard
    return {name: each.cut(0, *chunk_part(each.lengths[0], sizes, place), "shard") for name, each in pieces.items()}
