"""Tensor parallel: each layer's matrices are cut over processes, which compute whole heads and parts of the inside.

Attention and feed-forward read what all have, each process computes a part, and what they add to the residual stream is
summed. Vocabularies are cut along the tokens. With sequence parallel the residual stream between them is cut up too.
Source: Shoeybi et al. 2019, Megatron-LM, section 3; Korthikanti et al. 2022, section 4.2.2, sequence parallel.

Dropout: all draw from the same seed. On the residual stream it is therefore the same everywhere; inside the layers the
heads or columns of one process are dropped like those of every other, so masks repeat from process to process there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.core.dealing import even_part
from preceptor.nn.attention import Attention
from preceptor.nn.layers import FeedForward
from preceptor.nn.relative import RelativeAttention
from preceptor.parallel.collectives import Circle, entered, joined, own_part, summed, summed_part
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.placed import Placed
from preceptor.parallel.split_vocabulary import Share, share_vocabulary
from preceptor.parallel.tensor_limits import require_splittable, sequence_refused

_DIMENSIONS = {"column": 0, "row": 1, "vocabulary": 0}
_TOKENS = 1
"""The dimension of tokens in B T D."""


def split(placed: Placed, mesh: Mesh, table: Mapping[str, str]) -> Placed:
    """A placed model whose weights are cut as a table says, whose modules tell each other what they need.

    The table maps patterns of names to ``column``, ``row``, ``vocabulary``, or ``partial`` for weights that stay whole
    while each process knows only a summand of their gradients.

    Raises:
        ConfigError: the model cannot be cut into so many parts; names the nearest number that works.
    """
    roles = {name: role for name in placed.weights if (role := _role(name, table))}
    require_splittable(placed.model, mesh, bool(_DIMENSIONS.keys() & roles.values()))
    circle = Circle.along(mesh, "tensor")
    vocabulary = [placed.weights[name] for name, role in roles.items() if role == "vocabulary"]
    whole_size = vocabulary[0].shape[0] if vocabulary else 0
    pieces = planned(placed.pieces, mesh, table)
    for name, weight in placed.weights.items():
        before, now = placed.pieces[name], pieces[name]
        if now != before:
            weight.data = weight.data[before.within(now.overlap(before) or ())].clone()
    for name, buffer in list(placed.model.named_buffers()):
        # A stage of a pipeline stands in a list of stages.
        if _role(name.lstrip("0123456789."), table) == "column":
            # Others may hold the whole one too.
            owner, _, own = name.rpartition(".")
            setattr(placed.model.get_submodule(owner), own, circle.part(buffer, 0).clone())
    by_weight = {id(placed.weights[name]): role for name, role in roles.items()}
    inside = _join_layers(placed.model, by_weight, circle, along_tokens=mesh.config.sequence_parallel)
    if vocabulary:
        share_vocabulary(placed.model, by_weight, Share(circle, whole_size))
    summands = tuple(
        name
        for name, weight in placed.weights.items()
        if roles.get(name) == "partial" or (name not in roles and id(weight) in inside)
    )
    return replace(placed, pieces=pieces, sums=(*placed.sums, ("tensor", summands)))


def planned(pieces: Mapping[str, Piece], mesh: Mesh, table: Mapping[str, str]) -> dict[str, Piece]:
    """What is left of each piece when its layer is cut up as a table says; no other process is asked."""
    found = dict(pieces)
    for name, piece in pieces.items():
        dim = _DIMENSIONS.get(_role(name, table) or "")
        if dim is not None:
            found[name] = piece.cut(dim, *even_part(piece.lengths[dim], mesh.sizes.tensor, mesh.place.tensor), "tensor")
    return found


def _role(name: str, table: Mapping[str, str]) -> str | None:
    return next((role for pattern, role in table.items() if fnmatchcase(name, pattern)), None)


def _join_layers(model: nn.Module, roles: Mapping[int, str], circle: Circle, *, along_tokens: bool) -> set[int]:
    """Make attention and feed-forward speak with those of the other processes.

    The result is the weights, by id, of which each process sees only a part of the work.
    """
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, Attention | RelativeAttention | FeedForward):
            own = {roles.get(id(weight)) for weight in module.parameters()}
            if "column" in own:
                module.register_forward_pre_hook(_Entrance(circle, along_tokens), with_kwargs=True)
                _sum_rows(module, roles, circle, along_tokens=along_tokens)
                inside |= {id(weight) for weight in module.parameters()}
        if isinstance(module, Attention) and isinstance(module.prefix, nn.Module):
            module.prefix.register_forward_hook(partial(_own_heads, circle))
    if along_tokens:
        for layers in _stacks(model):
            layers[0].register_forward_pre_hook(partial(_part_of_tokens, circle))
            layers[-1].register_forward_hook(partial(_all_tokens, circle))
            for layer in layers:
                inside |= {id(weight) for weight in layer.parameters()}
                for name, child in list(layer.named_children()):
                    if isinstance(child, nn.Dropout):
                        setattr(layer, name, _TokensDropout(child.p, circle))
    return inside


def _stacks(model: nn.Module) -> Iterator[nn.ModuleList]:
    for name, module in model.named_modules():
        if name.split(".")[-1] == "layers" and isinstance(module, nn.ModuleList) and len(module):
            yield module


@dataclass(frozen=True, slots=True)
class _Entrance:
    """Before attention or feed-forward: once for all matrices that read the same."""

    circle: Circle
    along_tokens: bool

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        count = 2 if isinstance(module, RelativeAttention) else 1
        read = tuple(self._entered(x) for x in args[:count])
        if kwargs.get("source_BSD") is not None:
            kwargs = kwargs | {"source_BSD": self._entered(kwargs["source_BSD"])}
        return (*read, *args[count:]), kwargs

    def _entered(self, x: Tensor) -> Tensor:
        if not self.along_tokens:
            return entered(x, self.circle)
        return joined(x, self.circle, _TOKENS, x.shape[_TOKENS] * self.circle.size, sums=True)


def _sum_rows(module: nn.Module, roles: Mapping[int, str], circle: Circle, *, along_tokens: bool) -> None:
    """Sum what the layers at the end of attention or feed-forward give, with the bias of the first process."""
    for child in module.children():
        if not any(roles.get(id(weight)) == "row" for weight in child.parameters()):
            continue
        child.register_forward_hook(partial(_added_part if along_tokens else _added, circle))
        for layer in child.modules():
            if circle.place and isinstance(layer, nn.Linear) and layer.bias is not None:
                layer.__class__ = _BiasElsewhere


class _BiasElsewhere(nn.Linear):
    """A linear layer whose bias the first process adds, once for all."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the weights, of shape ... by the number of outputs."""
        return F.linear(input, self.weight)


class _TokensDropout(nn.Dropout):
    """Dropout of a part of the tokens as it would be of all of them, so that no two parts are dropped alike."""

    def __init__(self, probability: float, circle: Circle) -> None:
        super().__init__(probability)
        self.circle = circle

    def forward(self, input: Tensor) -> Tensor:
        """The input with some elements dropped, in training."""
        if not self.training or not self.p:
            return input
        whole = input.new_ones((input.shape[0], input.shape[_TOKENS] * self.circle.size, *input.shape[2:]))
        return input * self.circle.part(F.dropout(whole, self.p), _TOKENS)


def _added(circle: Circle, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return summed(output, circle)


def _added_part(circle: Circle, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return summed_part(output, circle, _TOKENS)


def _own_heads(circle: Circle, module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    keys_PKH, values_PKH = output
    return circle.part(keys_PKH, 1), circle.part(values_PKH, 1)


def _part_of_tokens(circle: Circle, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if args[0].shape[_TOKENS] % circle.size:
        raise sequence_refused(f"rows of {args[0].shape[_TOKENS]} tokens are not {circle.size} parts of one length")
    return own_part(args[0], circle, _TOKENS), *args[1:]


def _all_tokens(circle: Circle, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return joined(output, circle, _TOKENS, output.shape[_TOKENS] * circle.size, sums=False)
