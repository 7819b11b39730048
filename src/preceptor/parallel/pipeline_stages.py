"""Stages of a model: copies of its structure that share its weights, each of which runs some of its layers.

The layers of other stages are replaced by slots that do nothing, so that names stay those of the whole model. A stage
begins where what the one before it handed on takes the place of its own states, and ends by handing on its own.
"""

import copy
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from preceptor.parallel.placed import Handed

_VOCABULARY = frozenset({"embed_tokens", "shared"})
_BELOW = _VOCABULARY | {"embed_positions", "embed_token_types", "embedding_norm", "layernorm_embedding"}
"""What stands below all layers of a stack."""
_VECTORS_BELOW = frozenset({"unknown_token"})
_BESIDE = frozenset({"relative_bias", "prefix_network"})
"""What all layers of a stack read."""


class Stack(NamedTuple):
    """A list of layers of a model, as a range of the slots of all lists."""

    prefix: str
    """With which the names of all that belongs to it begin."""
    start: int
    end: int


def stacks_of(model: nn.Module) -> list[Stack]:
    """The lists of layers of a model in the order in which they run."""
    found: list[Stack] = []
    for name, module in model.named_modules():
        if name.split(".")[-1] == "layers" and isinstance(module, nn.ModuleList):
            start = found[-1].end if found else 0
            found.append(Stack(name.removesuffix("layers"), start, start + len(module)))
    return found


class Handover:
    """What the stage before has handed on, for the slots of a stage to take."""

    state: tuple[Tensor, ...] = ()


class _Passed(nn.Module):
    """The slot of a layer of another stage."""

    def forward(self, x_BTD: Tensor, *_: Any) -> Tensor:
        return x_BTD


class _Entry(nn.Module):
    """The slot before the first layer of a stage."""

    def __init__(self, handover: Handover) -> None:
        super().__init__()
        self.handover = handover

    def forward(self, *_: Any) -> Tensor:
        return self.handover.state[-1]


class _Exit(nn.Module):
    """The slot behind the last layer of a stage; what an encoder said travels with the states of a decoder."""

    def forward(self, x_BTD: Tensor, *others: Any) -> Tensor:
        source_BSD = getattr(others[0], "source_BSD", None) if others else None
        raise Handed((x_BTD,) if source_BSD is None else (source_BSD, x_BTD))


class _Encoded(nn.Module):
    """In the place of an encoder, what it said in an earlier stage."""

    def __init__(self, handover: Handover) -> None:
        super().__init__()
        self.handover = handover

    def mask(self, *_: Any) -> None:
        """None: nothing looks at it."""

    def forward(self, *_: Any) -> Tensor:
        return self.handover.state[0]


class _ToBeDecoded(nn.Module):
    """In the place of a decoder that is in later stages."""

    def mask(self, *_: Any) -> None:
        """None: nothing looks at it."""

    def forward(self, x_BTD: Tensor, positions_BT: Tensor, context: Any) -> Tensor:
        raise Handed((context.source_BSD,))


class _NoEmbedding(nn.Module):
    """In the place of an embedding whose states nobody reads."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.weight = torch.zeros(0, like.shape[1], dtype=like.dtype, device=like.device)
        self.nothing = torch.zeros((), dtype=like.dtype, device=like.device)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.nothing.expand(*tokens_BT.shape, self.weight.shape[1])


def holders(model: nn.Module, name: str, stage_of: Sequence[int], *, is_tied: bool) -> set[int]:
    """The stages that hold a weight of a model; ``stage_of`` says which has each slot."""
    stacks, last = stacks_of(model), stage_of[-1]
    home = next((stack for stack in stacks if name.startswith(stack.prefix)), None)
    head, *rest = name.removeprefix(home.prefix if home else "").split(".")
    if home and head == "layers":
        return {stage_of[home.start + int(rest[0])]}
    if head in _BESIDE:
        of = home if home and head == "relative_bias" else stacks[-1]
        return set(stage_of[of.start : of.end])
    if head in _BELOW | _VECTORS_BELOW:
        first = {stage_of[stack.start] for stack in ([home] if home else stacks)}
        return first | ({last} if is_tied and head in _VOCABULARY else set())
    return {stage_of[home.end - 1]} if home else {last}


def stage(model: nn.Module, number: int, stage_of: Sequence[int], held: Collection[str]) -> tuple[nn.Module, Handover]:
    """A copy of the model's structure that runs the layers of a stage, with the weights that are ``held`` in it."""
    tensors = (*model.parameters(), *model.buffers())
    part: Any = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    handover, stacks = Handover(), stacks_of(model)
    first, end = stage_of.index(number), len(stage_of) - stage_of[::-1].index(number)
    for stack in stacks:
        _put_slots(part.get_submodule(f"{stack.prefix}layers"), first - stack.start, end - stack.start, handover)
        if not first <= stack.start < end:
            _drop_below(part, stack.prefix, held)
    if len(stacks) > 1:
        if first >= stacks[0].end:
            part.encoder = _Encoded(handover)
        if end <= stacks[0].end:
            part.decoder = _ToBeDecoded()
    if all(stack.prefix for stack in stacks):
        _drop_below(part, "", held)
    for name, _ in list(part.named_parameters()):
        if name not in held:
            above, _, leaf = name.rpartition(".")
            # Nothing of another stage is run.
            part.get_submodule(above)._parameters[leaf] = None
    return part.train(model.training), handover


def _put_slots(layers: nn.ModuleList, first: int, end: int, handover: Handover) -> None:
    """Put slots in the place of all layers but those from the first to the end of a stage."""
    for slot in range(len(layers)):
        if slot == first - 1:
            layers[slot] = _Entry(handover)
        elif slot == end:
            layers[slot] = _Exit()
        elif not first <= slot < end:
            layers[slot] = _Passed()


def _drop_below(part: nn.Module, prefix: str, held: Collection[str]) -> None:
    """Put what costs nothing in the place of what stands below the layers of a stack and is not held."""
    home = part.get_submodule(prefix.removesuffix("."))
    for name, child in list(home.named_children()):
        own = [weight for weight, _ in child.named_parameters()]
        if name not in _BELOW or any(f"{prefix}{name}.{weight}" in held for weight in own):
            continue
        if name in _VOCABULARY:
            like: Any = child.weight
            setattr(home, name, _NoEmbedding(like))
        elif name.startswith("embed_"):
            setattr(home, name, None)
        else:
            setattr(home, name, nn.Identity())
    for name, weight in list(home.named_parameters(recurse=False)):
        if name in _VECTORS_BELOW and f"{prefix}{name}" not in held:
            delattr(home, name)
            setattr(home, name, torch.zeros_like(weight))


_Cut = tuple[float, float, tuple[int, ...]]


def cut_by_cost(costs: Sequence[float], parts: int) -> list[int]:
    """How many of a row of things each part gets, at least one, so that the dearest part is as cheap as can be.

    Of cuts that are alike in that, the one whose parts are the most alike.
    """
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    # The best cut of the first things into some parts: its dearest part, its sum of squares, and its lengths.
    best: list[_Cut] = [(0.0, 0.0, ()), *((float("inf"), 0.0, ()) for _ in costs)]
    for part in range(1, parts + 1):
        now: list[_Cut] = [(float("inf"), 0.0, ())] * (len(costs) + 1)
        for end in range(part, len(costs) + 1):
            now[end] = min(
                (max(best[start][0], cost), best[start][1] + cost**2, (*best[start][2], end - start))
                for start in range(part - 1, end)
                for cost in [sums[end] - sums[start]]
            )
        best = now
    return list(best[-1][2])
