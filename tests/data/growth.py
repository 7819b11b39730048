"""Whether work grows in line with its text: hostile text makes it go back over what it has read, again and again."""

import time
from collections.abc import Callable

_CHARACTERS, _TIMES, _LIMIT, _TRIES = 8_000, 16, 64, 5


def assert_in_line(work: Callable[[str], object], atom: str) -> None:
    """Sixteen times the text takes about sixteen times as long, where work that grows with its square takes 256 times.

    The limit lies in the middle of the two. Processor time is taken, the least of several, and more than once if need
    be: another process must not decide a test.
    """
    once = atom * max(_CHARACTERS // len(atom), 1)
    many = once * _TIMES
    for _ in range(_TRIES):
        ratio = _seconds(work, many) / max(_seconds(work, once), 1e-4)
        if ratio <= _LIMIT:
            return
    raise AssertionError(f"{_TIMES} times the text took {ratio:.0f} times as long: {atom[:40]!r}")


def _seconds(work: Callable[[str], object], text: str) -> float:
    spent = []
    for _ in range(3):
        started = time.process_time()
        work(text)
        spent.append(time.process_time() - started)
    return min(spent)
