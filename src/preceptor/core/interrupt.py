"""Stopping in good order: the first Ctrl-C or SIGTERM asks, the second ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from preceptor.core.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Left(KeyboardInterrupt):
    """Raised by the handler inside a block that may be left anywhere; no `except Exception` takes it for its own."""


class Stop:
    """Whether somebody has asked the work to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._leaves = False
        self._grace_seconds: float | None = None
        self._timer: threading.Timer | None = None

    @property
    def requested(self) -> bool:
        """Whether somebody has asked."""
        return self.signal is not None

    def check(self) -> None:
        """Stop here if asked to; for loops that have nothing to save.

        Raises:
            Interrupted: a signal has asked to stop.
        """
        if self.signal is not None:
            raise Interrupted(self.signal)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """A block that the first signal ends wherever it is; for work of which whatever is done stands on the disk.

        Raises:
            Interrupted: a signal has asked to stop.
        """
        self.check()
        before, self._leaves = self._leaves, True
        try:
            yield
        except _Left:
            self.check()
            raise
        finally:
            self._leaves = before

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """A block that is left at once if it still runs so many seconds after the first signal."""
        before, self._grace_seconds = self._grace_seconds, seconds
        try:
            yield
        finally:
            self._grace_seconds = before
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _run_out(self, number: int) -> None:
        os.write(2, b"\nSaving took longer than grace_seconds; stopping at once.\n")
        os.kill(os.getpid(), number)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: note the first, end at once on the second."""
        if self.signal is None:
            self.signal = number
            # Not print: the signal may have come in the middle of one.
            if self._leaves:
                os.write(2, b"\nStopping; what is finished stays. Once more to stop at once.\n")
                raise _Left
            os.write(2, b"\nStopping after this step and saving; once more to stop at once.\n")
            if self._grace_seconds is not None:
                self._timer = threading.Timer(self._grace_seconds, self._run_out, [number])
                self._timer.daemon = True
                self._timer.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)


_current: Stop | None = None


@contextmanager
def grace() -> Iterator[Stop]:
    """A block in which the first SIGINT or SIGTERM only sets `requested`; a block inside it shares its answer.

    Outside the main thread signals cannot be caught, and nothing is ever requested.
    """
    global _current
    if _current is not None:
        yield _current
        return
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in _SIGNALS}
    _current = stop
    try:
        yield stop
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
