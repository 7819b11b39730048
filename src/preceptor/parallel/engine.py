"""The engine: the only one who knows how many processes there are. One process is the mesh of one."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from preceptor.parallel.cutting import cut_up
from preceptor.parallel.layout import Piece, owned
from preceptor.parallel.mesh import ALONE, Mesh, all_reduce
from preceptor.parallel.placed import Objective, OnePass, Placed

Batch = TypeVar("Batch")
_LAYER = re.compile(r"(?:^|\.)layers\.\d+(?=\.)")
_NO_TABLE: Mapping[str, str] = MappingProxyType({})


class StepSums(NamedTuple):
    """What the micro-batches of a step come to."""

    total: float
    """The loss in nats."""
    correct: int
    tokens: int
    first_tokens: int = 0
    """The supervised tokens of the first micro-batch, where there are several."""
    first_norm: float = 0.0
    """The norm of the gradients after the first micro-batch, as far as they are scaled then."""


class GivenUp(Exception):
    """Someone asked to give up a step between two micro-batches; nothing is left of it but gradients."""


def _never() -> bool:
    return False


def _no_wish() -> int:
    return 0


class Engine:
    """A placed model with its gradients.

    Gradients are those of the summed loss until they are scaled once by the count of supervised tokens of the whole
    step, so micro-batches, packing, masked labels and any mesh all give the same update. The products are computed in
    ``dtype``, the weights and the sums of gradients stay in float32. Everyone else sees plain tensors: those pieces of
    the weights that this process holds.
    """

    def __init__(
        self, placed: Placed, device: torch.device, dtype: torch.dtype = torch.float32, mesh: Mesh = ALONE
    ) -> None:
        self.placed, self.model, self.device, self.dtype, self.mesh = placed, placed.model, device, dtype, mesh
        self.parameters = {name: weight for name, weight in placed.weights.items() if weight.requires_grad}
        self.pieces = placed.pieces
        self._owned = owned(placed.pieces, mesh.coordinates)
        self.loss_scale = 1.0
        """What losses are multiplied by before their gradients are taken; ``scale_and_clip`` takes it out again."""
        self.wish: Callable[[], int] = _no_wish
        """The signal by which this process was asked to stop; 0 for none."""
        self.asked_to_stop = 0
        """The signal by which any process had been asked to stop in the last step; all know it then."""

    def forward_backward(
        self,
        objective: Objective[Batch],
        microbatches: Sequence[Batch],
        give_up: Callable[[], bool] = _never,
    ) -> StepSums:
        """The sums of a step over all processes, whose gradients are accumulated and summed.

        Several processes give up no step: what one of them wishes, all know after the step.

        Raises:
            GivenUp: ``give_up`` said so between two micro-batches.
        """
        self.model.train()
        if self.placed.schedule is not None:
            moved_there = [self._on_device(batch) for batch in microbatches]
            with self._computing():
                sums = StepSums(*self.placed.schedule.train(objective, moved_there, self.loss_scale))
        else:
            sums = self._accumulate(objective, microbatches, give_up if self.mesh.is_alone else _never)
        self.placed.passes.collect()
        self._sum_gradients()
        return self._agreed(sums, asks=True)

    def _accumulate(
        self, objective: Objective[Batch], microbatches: Sequence[Batch], give_up: Callable[[], bool]
    ) -> StepSums:
        total, correct, tokens = 0.0, 0, 0
        first_tokens, first_norm = 0, 0.0
        for number, batch in enumerate(microbatches):
            if number and give_up():
                raise GivenUp
            self.placed.passes.begin(number == len(microbatches) - 1)
            with self._computing():
                loss, right, count = self.placed.passes.loss(objective, self._on_device(batch))
            scaled = loss if self.loss_scale == 1.0 else loss * self.loss_scale
            scaled.backward()
            total, correct, tokens = total + loss.item(), correct + int(right), tokens + count
            if number == 0 and len(microbatches) > 1 and self.mesh.is_alone:
                first_tokens, first_norm = tokens, self._norm()
        return StepSums(total, correct, tokens, first_tokens, first_norm)

    def _sum_gradients(self) -> None:
        """Sum the gradients over the axes on which they are partial; where a weight has one anywhere, all have it."""
        if self.mesh.is_alone:
            return
        along = [(self.mesh.group(axis), names) for axis, names in self.placed.sums]
        for group, names in [*self.placed.shared, *along]:
            trained = [name for name in names if name in self.parameters]
            if not trained or group is None:
                continue
            has = self.mesh.highest([float(self.parameters[name].grad is not None) for name in trained], group)
            held = [self.parameters[name] for name, is_there in zip(trained, has, strict=True) if is_there]
            for parameter in held:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            all_reduce([cast(Tensor, parameter.grad) for parameter in held], group)

    def _agreed(self, sums: StepSums, *, asks: bool = False) -> StepSums:
        """The sums over all processes, and whether one of them is to stop; those that compute the same count once."""
        wish = self.wish() if asks else self.asked_to_stop
        self.asked_to_stop = wish
        if self.mesh.is_alone:
            return sums
        place, last = self.mesh.place, self.mesh.sizes.pipeline - 1
        counts = place.tensor == 0 and place.pipeline == last
        told = [sums.total, float(sums.correct), float(sums.tokens)] if counts else [0.0, 0.0, 0.0]
        wishes = [float(wish) if rank == self.mesh.rank else 0.0 for rank in range(self.mesh.sizes.world)]
        total, correct, tokens, *wished = self.mesh.summed([*told, *wishes])
        self.asked_to_stop = int(max(wished))
        return StepSums(total, int(correct), int(tokens))

    @torch.no_grad()
    def evaluate(self, objective: Objective[Batch], batches: Iterable[tuple[Batch, bool]]) -> tuple[float, int, int]:
        """Summed loss in nats, right predictions and supervised tokens of all processes, without gradients or dropout.

        With each batch stands whether it counts: those that do not are there so that all processes have as many.
        """
        self.model.eval()
        with self._computing():
            if self.placed.schedule is not None:
                given = [(self._on_device(batch), counts) for batch, counts in batches]
                found = self.placed.schedule.evaluate(objective, [batch for batch, _ in given])
                sums = [each for each, (_, counts) in zip(found, given, strict=True) if counts]
            else:
                # What a loss holds on a device is read when all are on their way.
                losses = [
                    (self.placed.passes.loss(objective, self._on_device(batch)), counts) for batch, counts in batches
                ]
                sums = [(loss.item(), int(right), count) for (loss, right, count), counts in losses if counts]
        total = math.fsum(loss for loss, _, _ in sums)
        agreed = self._agreed(StepSums(total, sum(each[1] for each in sums), sum(each[2] for each in sums)))
        return agreed.total, agreed.correct, agreed.tokens

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _on_device(self, batch: Batch) -> Batch:
        return batch if self.device.type == "cpu" else moved(batch, self.device)

    def gradients(self) -> list[Tensor]:
        """The gradients of the trainable parameters that have one."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def checksum(self) -> int:
        """A number that changes with any bit of any gradient."""
        total = 0
        for place, gradient in enumerate(self.gradients()):
            words = gradient.detach().contiguous().view(torch.uint8).to(torch.int64)
            total += (place + 1) * int(words.sum())
        return total if self.mesh.is_alone else int(self.mesh.summed([float(total % (1 << 32))])[0])

    @torch.no_grad()
    def layer_gradients(self, scale: float) -> dict[str, tuple[float, float]]:
        """For each part, the lowest first, the norm and the root mean square of its gradients times a scale.

        A part is a layer, or the weights below or above all layers: ``below`` and ``above``.
        """
        names = [name for name, p in self.parameters.items() if p.grad is not None]
        inside = [place for place, name in enumerate(names) if _LAYER.search(name)]
        squares: dict[str, tuple[float, int]] = {}
        for place, name in enumerate(names):
            if not self._owned[name]:
                continue
            found = _LAYER.search(name)
            part = name[: found.end()] if found else "below" if not inside or place < inside[0] else "above"
            gradient = cast(Tensor, self.parameters[name].grad)
            before, count = squares.get(part, (0.0, 0))
            squares[part] = before + float(gradient.norm()) ** 2 * scale**2, count + gradient.numel()
        squares = self._all_parts(squares)
        return {part: (math.sqrt(square), math.sqrt(square / count)) for part, (square, count) in squares.items()}

    def _all_parts(self, squares: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
        """The squares and counts of all processes by part, the lowest first."""
        if self.mesh.is_alone:
            return squares
        merged: dict[str, tuple[float, int]] = {}
        for said in self.mesh.gathered(json.dumps(squares)):
            for part, (square, count) in json.loads(said).items():
                before, counted = merged.get(part, (0.0, 0))
                merged[part] = before + square, counted + count
        places = {"below": -1, "above": len(merged)}
        by_number = sorted(merged, key=lambda part: [int(n) for n in re.findall(r"\d+", part)])
        return {part: merged[part] for part in sorted(by_number, key=lambda part: places.get(part, 0))}

    def scale_and_clip(self, scale: float, max_norm: float | None, max_value: float | None = None) -> float:
        """The norm of the scaled gradients before clipping; they are then scaled and clipped in place.

        Where both limits are given each element is brought within ``max_value`` first, and then all within the norm.
        """
        gradients = self.gradients()
        scale /= self.loss_scale
        norm = total = self._norm() * scale
        if max_value is not None:
            torch._foreach_mul_(gradients, scale)
            torch._foreach_clamp_min_(gradients, -max_value)
            torch._foreach_clamp_max_(gradients, max_value)
            total, scale = self._norm(), 1.0
        factor = scale if max_norm is None or total <= max_norm else scale * max_norm / (total + 1e-12)
        torch._foreach_mul_(gradients, factor)
        return norm

    def _norm(self) -> float:
        """The norm of all gradients, those that other processes hold included."""
        mine = [p.grad for name, p in self.parameters.items() if p.grad is not None and self._owned[name]]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(mine)))) if mine else 0.0
        return norm if self.mesh.is_alone else math.sqrt(self.mesh.summed([norm**2])[0])

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
        self.placed.passes.clear()


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch whose tensors are on a device: a tensor, or a tuple or dataclass of such and of anything else."""
    found: Any = batch
    if isinstance(found, Tensor):
        found = found.to(device, non_blocking=True)
    elif isinstance(found, tuple) and hasattr(found, "_fields"):
        found = type(found)(*(moved(each, device) for each in found))
    elif is_dataclass(found) and not isinstance(found, type):
        found = replace(found, **{each.name: moved(getattr(found, each.name), device) for each in fields(found)})
    return cast(Batch, found)


def chosen_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def place(
    model: nn.Module,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    mesh: Mesh = ALONE,
    table: Mapping[str, str] = _NO_TABLE,
) -> Engine:
    """An engine for a model on one device, the CPU where none is named, or for this process's part of it in a mesh.

    ``table`` says how its weights may be split, as its family declares it.
    """
    device = device or torch.device("cpu")
    model = model.to(device)
    if mesh.is_alone:
        weights = dict(model.named_parameters())
        pieces = {name: Piece.whole(weight.shape) for name, weight in weights.items()}
        return Engine(Placed(model, weights, pieces, OnePass(model)), device, dtype)
    return Engine(cut_up(model, mesh, table), device, dtype, mesh)
