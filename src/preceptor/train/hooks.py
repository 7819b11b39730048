"""What listens to a training run: the measures of each step, the figures that are shown, and the file of them all."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from preceptor.core.drafts import write_file
from preceptor.core.errors import OutputError
from preceptor.core.progress import Progress, say
from preceptor.core.units import human_bytes, human_joules, human_seconds
from preceptor.models.step_flops import StepFlops
from preceptor.train.state import StepRecord
from preceptor.train.trackers import Tracker, numbers

_STEPS_LOOKED_BACK = 50
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What a step is for the hardware."""

    rows: Callable[[int], int]
    """Of a step, counted from 0."""
    row_tokens: int
    """All that are read, whether they are supervised or not, padding too; of an encoder-decoder on both sides."""
    flops: StepFlops
    peak_flops: float | None
    """What the device reaches at best, in operations per second; None where that is not known."""
    device: torch.device


class StepMeter:
    """The measures of a step beside its loss: speed, share of the peak, memory and energy."""

    def __init__(self, workload: Workload, supervised_tokens: int, joules: Callable[[], float | None]) -> None:
        self._workload = workload
        self._supervised = supervised_tokens
        self._joules = joules
        self._process = psutil.Process()
        self._resident, self._resident_at = 0, -math.inf
        self._had_plain_step = False

    def __call__(self, record: StepRecord, seconds: float) -> dict[str, float]:
        """The measures of a step that took so many seconds."""
        supervised, self._supervised = record.tokens - self._supervised, record.tokens
        measures: dict[str, float] = {}
        # A step with a validation takes longer by that; its speed would say nothing of training.
        if record.validation_loss is None or not self._had_plain_step:
            self._had_plain_step |= record.validation_loss is None
            rows, seconds = self._workload.rows(record.step - 1), max(seconds, 1e-9)
            measures["tokens_per_second"] = round(rows * self._workload.row_tokens / seconds, 1)
            if peak := self._workload.peak_flops:
                reached = self._workload.flops.step(rows, supervised) / seconds
                measures["share_of_peak"] = round(reached / peak, 8)
        measures["memory_bytes"] = self._memory_bytes()
        if self._workload.device.type == "cuda":
            measures["accelerator_memory_bytes"] = torch.cuda.max_memory_allocated(self._workload.device)
        if (joules := self._joules()) is not None:
            measures["joules"] = round(joules, 3)
        return measures

    def _memory_bytes(self) -> int:
        """The memory that the process holds, asked of the system now and then."""
        if (now := time.monotonic()) - self._resident_at > _SECONDS_BETWEEN_LOOKS:
            self._resident, self._resident_at = self._process.memory_info().rss, now
        return self._resident


class Board:
    """The figures on the screen, of which the speeds are smoothed. ``num_steps`` may change from step to step."""

    def __init__(
        self, progress: Progress, first_step: int, num_steps: Callable[[], int], smoothing: float = 0.9
    ) -> None:
        self._progress = progress
        self._num_steps = num_steps
        self._smoothing = smoothing
        self._smooth: dict[str, float] = {}
        self._validation = ""
        self._times: deque[float] = deque([time.monotonic()], maxlen=_STEPS_LOOKED_BACK + 1)
        progress.advance(first_step)

    def show(self, record: StepRecord, measures: Mapping[str, float]) -> None:
        """Show a step."""
        self._times.append(time.monotonic())
        self._progress.total = self._num_steps()
        if record.validation_loss is not None:
            self._validation = f"validation {record.validation_loss:.3f}"
        learning = (
            f"loss {record.loss:.3f}",
            self._validation,
            f"learning rate {record.learning_rate:.2e}",
            f"norm {record.grad_norm:.2f}",
        )
        self._progress.board((tuple(filter(None, learning)), self._machine(record, measures)))
        self._progress.advance(1)

    def _machine(self, record: StepRecord, measures: Mapping[str, float]) -> Sequence[str]:
        for name in ("tokens_per_second", "share_of_peak"):
            if name in measures:
                before = self._smooth.get(name, measures[name])
                self._smooth[name] = self._smoothing * before + (1 - self._smoothing) * measures[name]
        memory = human_bytes(measures["memory_bytes"])
        if "accelerator_memory_bytes" in measures:
            memory += f" + {human_bytes(measures['accelerator_memory_bytes'])} on the device"
        figures = [f"{self._smooth['tokens_per_second']:,.0f} tokens/s"]
        if "share_of_peak" in self._smooth:
            figures.append(f"{100 * self._smooth['share_of_peak']:.0f} % of peak")
        figures.append(memory)
        if "joules" in measures:
            figures.append(human_joules(measures["joules"]))
        if (left := self._num_steps() - record.step) > 0:
            figures.append(f"{human_seconds(left * self._seconds_per_step())} left")
        return figures

    def _seconds_per_step(self) -> float:
        """Of the last steps, with all that goes on between them."""
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1)


class MetricsLog:
    """A file of one JSON object per step. What cannot be written now is kept and written with the next step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        self.pending: list[str] = []
        self.warned = False
        self.lines = self._up_to(resumed_step)
        self._rewrite()

    def __call__(self, record: StepRecord, seconds: float, measures: Mapping[str, Any] | None = None) -> None:
        """Append a step with its measures."""
        ends = {"seconds": round(seconds, 6), "at": round(time.time(), 3)}
        self.pending.append(json.dumps({**record.facts(), **(measures or {}), **ends}))
        try:
            # Without Python's layers of text and buffers, which take longer than all the rest.
            with self.path.open("ab", buffering=0) as file:
                file.write("".join(f"{line}\n" for line in self.pending).encode())
            self.pending = []
        except OSError as error:
            if not self.warned:
                say(f"warning: {self.path} cannot be written ({error.strerror}); training goes on")
            self.warned = True

    def _up_to(self, step: int) -> list[str]:
        """The lines of an earlier session that are still true: those up to the step it is resumed from."""
        if not self.path.is_file():
            return []
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                # A kill may tear the last line; what it told is trained again.
                continue
        return kept

    def _rewrite(self) -> None:
        try:
            # Whole or not at all: a kill in the middle of it must not take what earlier sessions have measured.
            write_file(self.path, "".join(f"{line}\n" for line in self.lines))
        except OutputError as error:
            say(f"warning: {error.message}; training goes on")
            self.warned = True


@dataclass(frozen=True, slots=True)
class Watcher:
    """The hook that measures each step once and tells the file, the trackers and the screen."""

    meter: StepMeter
    log: MetricsLog
    trackers: Sequence[Tracker]
    board: Board

    def __call__(self, record: StepRecord, seconds: float) -> None:
        """Tell of a step."""
        measures = self.meter(record, seconds)
        self.log(record, seconds, measures)
        if self.trackers:
            said = numbers({**record.facts(), **measures, "seconds": seconds})
            del said["step"]
            for tracker in self.trackers:
                tracker.log(record.step, said)
        self.board.show(record, measures)
