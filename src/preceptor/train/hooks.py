"""What listens to a training run: the progress line and the log of metrics."""

import json
import time
from pathlib import Path

from preceptor.core.drafts import write_file
from preceptor.core.errors import OutputError
from preceptor.core.progress import Progress, say
from preceptor.train.state import Hook, StepRecord


def report_progress(progress: Progress, smoothing: float = 0.9) -> Hook:
    """A hook that moves a progress bar and notes loss and speed."""
    speed = 0.0
    seen = 0
    validation = ""

    def hook(record: StepRecord, seconds: float) -> None:
        nonlocal speed, seen, validation
        now = (record.tokens - seen) / max(seconds, 1e-9) if seen else 0.0
        speed = now if not speed else smoothing * speed + (1 - smoothing) * now
        seen = record.tokens
        if record.validation_loss is not None:
            validation = f" · validation {record.validation_loss:.3f}"
        progress.note(f"loss {record.loss:.3f}{validation} · norm {record.grad_norm:.2f} · {speed:,.0f} tokens/s")
        progress.advance(1)

    return hook


class MetricsLog:
    """A file of one JSON object per step. What cannot be written now is kept and written with the next step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        self.pending: list[str] = []
        self.warned = False
        self.lines = self._up_to(resumed_step)
        self._rewrite()

    def __call__(self, record: StepRecord, seconds: float) -> None:
        """Append a step."""
        self.pending.append(json.dumps({**record.facts(), "seconds": round(seconds, 6), "at": round(time.time(), 3)}))
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in self.pending))
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
