"""How far the work is: a bar on a terminal, a plain line now and then in a log. All of it goes to standard error."""

import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from preceptor.core.units import human_count, human_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 5.0
_DRAWS_PER_SECOND = 4


def say(text: str) -> None:
    """Print a line to standard error, above the bar if there is one."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        # Whoever read the log has gone; hours of training should not go with them.
        sys.stderr = None


def is_terminal() -> bool:
    """Whether standard error is a terminal that can redraw a line."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "")


class Progress:
    """A piece of work with a name, a count of what is done and, if known, how much there is."""

    _on_screen = False

    def __init__(self, label: str, total: float | None = None, unit: str = "") -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done: float = 0
        self.text = ""
        self._rows: Sequence[Sequence[str]] = ()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        # One bar at a time: what runs inside another piece of work prints lines above that one's bar.
        if is_terminal() and not Progress._on_screen:
            self._bar = _new_bar()
            self._task = self._bar.add_task(self.label, total=self.total, amount=self._amount(), text="", rows=())
            self._bar.start()
            Progress._on_screen = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            Progress._on_screen = False
        seconds = human_seconds(time.monotonic() - self._started)
        ending = f"stopped after {seconds}" if kind else f"done in {seconds}"
        say("  ".join(filter(None, [self.label, self._amount(), self._words(), ending])))

    def advance(self, amount: float = 1) -> None:
        """Count more work as done."""
        self.done += amount
        self._show()

    def note(self, text: str) -> None:
        """Say something about the present state, in the place of what was said before."""
        self.text = text
        self._show()

    def board(self, rows: Sequence[Sequence[str]]) -> None:
        """Show rows of figures: below the bar on a terminal, one behind the other in a log."""
        self._rows = rows
        self._show()

    def _words(self) -> str:
        """The note, or all figures in one line."""
        return self.text or " · ".join(figure for row in self._rows for figure in row)

    def _amount(self) -> str:
        done = human_count(self.done)
        if self.total is None:
            return f"{done} {self.unit}".rstrip()
        percent = f"{100 * self.done / self.total:.0f} %" if self.total else "100 %"
        return f"{done}/{human_count(self.total)} {self.unit}".rstrip() + f"  {percent}"

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            shown: dict[str, Any] = {"amount": self._amount(), "text": self.text, "rows": self._rows}
            self._bar.update(self._task, completed=self.done, total=self.total, **shown)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say("  ".join(filter(None, [self.label, self._amount(), self._words()])))


def _new_bar() -> "Bar":
    from collections.abc import Iterable

    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """The time left, where no figure says it better."""

        def render(self, task: Task) -> Text:
            return Text() if task.fields["rows"] else super().render(task)

    class Board(Progress):
        """A bar with rows of figures below it, in columns."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                grid = Table.grid(padding=(0, 3))
                for row in task.fields["rows"]:
                    grid.add_row("", *(Text(figure, no_wrap=True) for figure in row))
                yield grid

    return Board(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        Left(compact=True),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=_DRAWS_PER_SECOND,
        transient=True,
    )
