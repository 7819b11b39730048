"""What processes tell each other within a forward pass, with its counterpart in the backward pass.

A tensor is either the same on all processes, or each has a part of it, or each has a summand. Source: Shoeybi et al.
2019, Megatron-LM, section 3; Korthikanti et al. 2022, section 4.2.2, for parts along the tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from preceptor.core.dealing import even_part
from preceptor.parallel.mesh import Mesh


@dataclass(frozen=True, slots=True)
class Circle:
    """The processes along an axis, as one of them sees them; no gradient flows through its methods."""

    group: dist.ProcessGroup
    size: int
    place: int

    @classmethod
    def along(cls, mesh: Mesh, axis: str) -> "Circle":
        """The processes beside this one along an axis that is more than one long."""
        group = mesh.group(axis)
        assert group is not None
        return cls(group, getattr(mesh.sizes, axis), getattr(mesh.place, axis))

    def summed(self, x: Tensor) -> Tensor:
        """The sum of all summands, the same bits everywhere."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def highest(self, x: Tensor) -> Tensor:
        """The highest of each element."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, how, group=self.group)
        return x

    def part(self, x: Tensor, dim: int) -> Tensor:
        """This process's part of what all have."""
        return x.narrow(dim, *even_part(x.shape[dim], self.size, self.place))

    def joined(self, x: Tensor, dim: int, length: int) -> Tensor:
        """All parts along a dimension whose whole length is given."""
        lengths = [even_part(length, self.size, place)[1] for place in range(self.size)]
        own = x.detach().transpose(0, dim)
        own = F.pad(own.flatten(1), (0, 0, 0, lengths[0] - len(own))).contiguous()
        parts = [torch.empty_like(own) for _ in lengths]
        dist.all_gather(parts, own, group=self.group)
        whole = torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])
        return whole.view(length, *x.transpose(0, dim).shape[1:]).transpose(0, dim).contiguous()

    def summed_part(self, x: Tensor, dim: int) -> Tensor:
        """This process's part of the sum of all summands; all parts are of one length."""
        rows = x.detach().transpose(0, dim).contiguous()
        own = rows.new_empty((len(rows) // self.size, *rows.shape[1:]))
        dist.reduce_scatter_single(own, rows, group=self.group)
        return own.transpose(0, dim).contiguous()


class _Entered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, circle: Circle) -> Tensor:
        ctx.circle = circle
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.circle.summed(gradient), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, circle: Circle) -> Tensor:
        return circle.summed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, circle: Circle, dim: int) -> Tensor:
        ctx.circle, ctx.dim, ctx.length = circle, dim, x.shape[dim]
        return circle.part(x, dim).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.circle.joined(gradient, ctx.dim, ctx.length), None, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, circle: Circle, dim: int, length: int, sums: bool) -> Tensor:
        ctx.circle, ctx.dim, ctx.sums = circle, dim, sums
        return circle.joined(x, dim, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        take = ctx.circle.summed_part if ctx.sums else ctx.circle.part
        return take(gradient, ctx.dim).contiguous(), None, None, None, None


class _SummedPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, circle: Circle, dim: int) -> Tensor:
        ctx.circle, ctx.dim, ctx.length = circle, dim, x.shape[dim]
        return circle.summed_part(x, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.circle.joined(gradient, ctx.dim, ctx.length), None, None


def _applied(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    apply: Callable[..., Tensor] = function.apply
    if torch.compiler.is_compiling():
        # A compiled layer ends its graph where it speaks with others, and begins a new one after it.
        apply = torch.compiler.disable(apply)  # type: ignore[no-untyped-call]
    return apply(*given)


def entered(x: Tensor, circle: Circle) -> Tensor:
    """What all have, at the entrance of what each computes a part of: the gradients are summands, and are summed."""
    return _applied(_Entered, x, circle)


def summed(x: Tensor, circle: Circle) -> Tensor:
    """The sum of all summands; the gradient of each summand is that of the sum."""
    return _applied(_Summed, x, circle)


def own_part(x: Tensor, circle: Circle, dim: int) -> Tensor:
    """This process's part of what all have; the gradients of all parts are joined."""
    return _applied(_Own, x, circle, dim)


def joined(x: Tensor, circle: Circle, dim: int, length: int, *, sums: bool) -> Tensor:
    """All parts, joined; ``sums`` says that the gradients of the whole are summands, and not the same everywhere."""
    return _applied(_Joined, x, circle, dim, length, sums)


def summed_part(x: Tensor, circle: Circle, dim: int) -> Tensor:
    """This process's part of the sum of all summands; the gradients of all parts are joined."""
    return _applied(_SummedPart, x, circle, dim)
