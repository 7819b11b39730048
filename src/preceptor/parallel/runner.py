"""A pipeline at work: the micro-batches of a step run through the stages of one process, in the order of a schedule."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.core.errors import ConfigError
from preceptor.core.progress import say
from preceptor.core.seeds import derive
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.messages import Messages
from preceptor.parallel.pipeline_stages import Handover
from preceptor.parallel.placed import ChunkPasses
from preceptor.parallel.schedules import Action, idle_share, schedule
from preceptor.parallel.split_backward import DueProducts

_EVALUATED_AT_ONCE = 4
"""For each process of a pipeline, how many batches may be on their way to the next when nothing is trained."""


class Runner:
    """Who runs the micro-batches of a step through the stages of this process."""

    def __init__(self, mesh: Mesh, parts: nn.ModuleList, handovers: Sequence[Handover], passes: ChunkPasses) -> None:
        self.mesh, self.parts, self.handovers, self.passes = mesh, parts, list(handovers), passes
        self.place, self.processes, self.kind = mesh.place.pipeline, mesh.sizes.pipeline, mesh.config.schedule
        self.last = self.processes * len(self.handovers) - 1
        self.messages = Messages(mesh)
        self.is_told = False
        self.due: DueProducts | None = None
        if self.kind == "zero-bubble":
            self.due = DueProducts()
            self.due.split(parts)

    def train(self, objective: Any, batches: Sequence[Any], scale: float) -> tuple[float, int, int]:
        """Loss, right predictions and supervised tokens, as the last stage knows them; 0 elsewhere."""
        for batch in batches:
            _require_no_memory(batch)
        if self.place:
            # Stages that drop the same elements would drop the same part of a state again and again.
            torch.manual_seed(derive(torch.initial_seed(), "stage", self.place))
        self._tell(len(batches))
        actions = self._actions(self.kind, len(batches))
        last_backward = {action.chunk: action.microbatch for action in actions if action.kind.startswith("backward")}
        kept: dict[tuple[int, int], tuple[tuple[Tensor, ...], tuple[Any, ...]]] = {}
        due: dict[tuple[int, int], Callable[[], None]] = {}
        sums = (0.0, 0, 0)
        for action in actions:
            key, number = (action.chunk, action.microbatch), self._number(action.chunk)
            if action.kind == "forward":
                kept[key] = self._forward(objective, batches[action.microbatch], action)
                if number == self.last:
                    total, correct, tokens = kept[key][1]
                    sums = (sums[0] + total.item(), sums[1] + int(correct), sums[2] + tokens)
            elif action.kind == "backward-weight":
                due.pop(key)()
            else:
                self.passes.parts[action.chunk].begin(last_backward[action.chunk] == action.microbatch)
                self._backward(*kept.pop(key), action, scale)
                if self.due is not None:
                    due[key] = self.due.taken()
        self.messages.finish()
        return sums

    def evaluate(self, objective: Any, batches: Sequence[Any]) -> list[tuple[float, int, int]]:
        """The same of each batch, without gradients."""
        # No backward pass holds back a stage that is faster than those behind it.
        size = _EVALUATED_AT_ONCE * self.processes
        parts = [batches[start : start + size] for start in range(0, len(batches), size)]
        return [each for part in parts for each in self._evaluated(objective, part)]

    def _evaluated(self, objective: Any, batches: Sequence[Any]) -> list[tuple[float, int, int]]:
        found: list[tuple[Any, ...]] = [(0.0, 0, 0)] * len(batches)
        for action in self._actions("gpipe", len(batches)):
            if action.kind == "forward":
                _require_no_memory(batches[action.microbatch])
                _, left = self._forward(objective, batches[action.microbatch], action)
                if self._number(action.chunk) == self.last:
                    found[action.microbatch] = left
        self.messages.finish()
        return [(float(total), int(correct), int(tokens)) for total, correct, tokens in found]

    def _tell(self, microbatches: int) -> None:
        """Say once how long processes wait, where a step has fewer micro-batches than there are processes."""
        if microbatches < self.processes and self.mesh.is_first and not self.is_told:
            chunks = len(self.handovers)
            idle = idle_share(schedule(self.kind, self.processes, chunks, microbatches), chunks)
            say(
                f"warning: with {microbatches} micro-batches a step the {self.processes} processes of the pipeline "
                f"wait {idle:.0%} of the time; lower micro_batch_tokens to have more of them"
            )
        self.is_told = True

    def _number(self, chunk: int) -> int:
        return chunk * self.processes + self.place

    def _actions(self, kind: Any, microbatches: int) -> list[Action]:
        return schedule(kind, self.processes, len(self.handovers), microbatches)[self.place]

    def _forward(self, objective: Any, batch: Any, action: Action) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """What a stage got and what it makes of it, which is on its way to the next one."""
        number = self._number(action.chunk)
        device = next(self.parts.parameters()).device
        got = self.messages.state(number, action.microbatch, device) if number else ()
        if torch.is_grad_enabled():
            for tensor in got:
                tensor.requires_grad_()
        self.handovers[action.chunk].state = got
        left = self.passes.parts[action.chunk].loss(objective, batch)
        self.handovers[action.chunk].state = ()
        if number < self.last:
            self.messages.send_state(left, number + 1, action.microbatch)
        return got, left

    def _backward(self, got: tuple[Tensor, ...], left: tuple[Any, ...], action: Action, scale: float) -> None:
        number = self._number(action.chunk)
        if number == self.last:
            outputs = [left[0] if scale == 1.0 else left[0] * scale]
            gradients = [torch.ones_like(outputs[0])]
        else:
            outputs = list(left)
            gradients = self.messages.gradients(outputs, number, action.microbatch)
        pairs = [each for each in zip(outputs, gradients, strict=True) if each[0].requires_grad]
        if pairs:
            with torch.autocast(outputs[0].device.type, enabled=False):
                torch.autograd.backward([each[0] for each in pairs], [each[1] for each in pairs])
        if number:
            answers = [torch.zeros_like(each) if each.grad is None else each.grad for each in got]
            self.messages.send_gradients(answers, number - 1, action.microbatch)


def _require_no_memory(batch: Any) -> None:
    if getattr(getattr(batch, "inputs", None), "before", None) is not None:
        raise ConfigError(
            "what stands before a row is read by all layers before the row is, and no process of a pipeline has all",
            path="mesh.pipeline",
            remedy="set memory_tokens = 0 in the objective, or mesh.pipeline = 1",
        )
