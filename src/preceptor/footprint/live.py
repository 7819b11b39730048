"""The cost of a piece of work while it goes on, read in the background."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from preceptor.core.progress import say
from preceptor.footprint.meter import Meter, Reading

_FIRST_SECONDS, _SECONDS_BETWEEN = 0.5, 5.0


class LiveMeter:
    """A meter that is read now and then by a thread of its own, and by whoever calls it; never by two at a time."""

    def __init__(self, meter: Meter, seconds_between: float = _SECONDS_BETWEEN) -> None:
        self._meter = meter
        self._seconds_between = seconds_between
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="preceptor-live-meter", daemon=True)
        self.latest = Reading()
        """The last reading, which is there without waiting."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self) -> Mapping[str, Any]:
        """The cost so far, as JSON."""
        return self._read().facts()

    def _read(self) -> Reading:
        with self._lock:
            self.latest = self._meter.read()
            return self.latest

    def _poll(self) -> None:
        delay = min(_FIRST_SECONDS, self._seconds_between)
        while not self._ended.wait(delay):
            try:
                self._read()
            except Exception as error:  # showing the cost is never worth more than the work
                say(f"warning: the energy is no longer shown, as it cannot be read ({type(error).__name__}: {error})")
                return
            # Often at first, so that short work shows its cost too.
            delay = min(2 * delay, self._seconds_between)
