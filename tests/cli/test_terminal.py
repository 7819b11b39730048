"""Browsing a corpus on a real terminal, and commands whose reader leaves."""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

PRECEPTOR = str(Path(sys.executable).parent / "preceptor")
WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a corpus of six documents, one of which is too short."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "docs").mkdir()
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll"]
    for number in range(6):
        text = " ".join(f"{word} {(number + 2) * place}" for place, word in enumerate(words * 12, number))
        (folder / "docs" / f"{number}.txt").write_text("short" if number == 5 else f"Page {number}: {text}")
    command = [PRECEPTOR, "data", 'data.sources=[{path="docs", licence="MIT"}]', "--out", "out"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=200)
    return folder


def _at_a_terminal():
    """Take the terminal, and Ctrl-C, which a shell's background jobs are deaf to and pass that on."""
    ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Screen:
    """A command on a terminal of 60 columns and 20 lines."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.said = ""
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
        extra = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [PRECEPTOR, *words], cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**extra, "TERM": "xterm-256color", **environment},
            preexec_fn=_at_a_terminal,
        )  # fmt: skip
        os.close(slave)

    def until(self, text: str) -> None:
        """Read until a text has been said that was not there before."""
        start, deadline = len(self.said), time.monotonic() + WAIT_SECONDS
        while text not in self.said[start:]:
            assert time.monotonic() < deadline, f"{text!r} did not come after {self.said!r}"
            if not self._read():
                break
        assert text in self.said[start:], self.said

    def _read(self) -> bool:
        if not select.select([self.master], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return False
        self.said += data.decode(errors="replace")
        return bool(data)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end(self) -> int:
        """The exit code, once all was said."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self._read():
            assert time.monotonic() < deadline, self.said
            if self.process.poll() is not None and not select.select([self.master], [], [], 0.2)[0]:
                break
        return self.process.wait(WAIT_SECONDS)

    def close(self) -> None:
        """Close the terminal, and leave nothing running."""
        if self.master >= 0:
            os.close(self.master)
        self.master = -1
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def start():
    """Commands on terminals, which are closed in the end."""
    screens = []

    def begin(*words, **environment):
        screens.append(Screen(*words, **environment))
        return screens[-1]

    yield begin
    for screen in screens:
        screen.close()


INSPECT = ("data", "inspect", "--out", "out")


@pytest.mark.parametrize("key", ["q", "\x03", "\x04"])
def test_keys_turn_pages_on_a_real_terminal_and_end_quietly(made, start, key):
    screen = start(made, *INSPECT)
    screen.until("n next")
    assert "0.txt" in screen.said
    assert "kept" in screen.said and "\x1b[1;32m" in screen.said
    assert all(len(line) < 400 for line in screen.said.splitlines())
    screen.press("n\x1b[Cn")
    screen.until("3.txt")
    screen.press("p")
    screen.until("2.txt")
    screen.press(key)
    assert screen.end() == 0
    assert "error" not in screen.said and "Traceback" not in screen.said
    # The head of every page is still on the screen: none has more lines than the terminal.
    for page in screen.said.split("\x1b[2J")[1:]:
        assert page.count("\n") < 20, page


def test_a_terminal_without_colours_gets_none_and_the_reason_is_told(made, start):
    screen = start(made, *INSPECT, "--dropped", NO_COLOR="1")
    screen.until("n next")
    assert "at least" in screen.said and "5.txt" in screen.said
    assert "\x1b[1;33m" not in screen.said
    screen.press("n")
    screen.until("that was the last one")
    assert screen.end() == 0


def test_a_terminal_that_is_closed_ends_it(made, start):
    screen = start(made, *INSPECT)
    screen.until("n next")
    os.close(screen.master)
    screen.master = -1
    assert screen.process.wait(WAIT_SECONDS) in (0, 129, 141, -signal.SIGHUP)


def test_kept_and_dropped_together_are_all(made):
    command = [PRECEPTOR, *INSPECT]
    for words in (["--kept", "--dropped"], ["--dropped", "--kept"], []):
        result = subprocess.run([*command, *words], cwd=made, capture_output=True, text=True, check=True, timeout=100)
        verdicts = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
        assert verdicts == ["kept"] * 5 + ["dropped"]


@pytest.mark.parametrize(
    "words",
    [
        ["recipes", "settings"],
        ["--help"],
        ["data", "inspect", "--json", "--out", "out"],
        ["data", "trace", "docs/1.txt", "--out", "out"],
        ["data", "inspect", "--rule", "nothing-like-it", "--out", "out"],
    ],
)
def test_a_reader_that_leaves_is_no_error(made, words):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [PRECEPTOR, *words], cwd=made, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=100
    )
    os.close(write)
    if "nothing-like-it" in words:
        assert result.returncode == 2 and result.stderr.count("error:") == 1
    else:
        assert result.returncode == 141 and result.stderr == ""
