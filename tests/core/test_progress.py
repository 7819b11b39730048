"""Progress on a terminal, in a log and for nobody."""

import os
import pty
import re
import subprocess
import sys

import pytest

from preceptor.core import progress
from preceptor.core.progress import Progress, say

SHOW = (
    "import sys\n"
    "from preceptor.core.progress import Progress, say\n"
    "with Progress('pretrain', 4, 'steps') as bar:\n"
    "    for step in range(4):\n"
    "        bar.advance()\n"
    "        bar.note(f'loss [{step}.5]')\n"
    "        with Progress('validate') as inner:\n"
    "            inner.advance(10)\n"
    "    say('saved')\n"
    "print('rich' in sys.modules)\n"
)


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 200, "steps") as bar:
        for step in range(200):
            bar.advance()
            bar.note(f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [lines[0]]
    assert lines[0].startswith("pretrain  200/200 steps  100 %  loss 199  done in 0.")


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("read", unit="documents") as bar:
        for _ in range(12):
            now += 1
            bar.advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "read  500 documents",
        "read  1,000 documents",
        "read  1,200 documents  done in 12 s",
    ]


def test_figures_stand_in_one_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 2, "steps") as bar:
        bar.board((("loss 3.1", "norm 0.5"), ("12 J",)))
        bar.advance(2)
    assert "pretrain  2/2 steps  100 %  loss 3.1 · norm 0.5 · 12 J  done in" in capsys.readouterr().err


def test_figures_stand_below_the_bar_on_a_terminal() -> None:
    show = SHOW.replace("bar.note(f'loss [{step}.5]')", "bar.board(((f'loss [{step}.5]', 'norm 1'), ('12 J',)))")
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_a_terminal(show))
    assert re.search(r"4/4 steps  100 % *\r?\n +loss \[3\.5\] +norm 1 *\r?\n +12 J", seen)


def test_an_error_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Progress("read", 10) as bar:
        bar.advance(5)
        _ = 1 / 0
    assert capsys.readouterr().err.startswith("read  5/10  50 %  stopped after ")


def test_nothing_to_do_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("read", 0, "files"):
        say("empty")
    assert capsys.readouterr().err.splitlines()[1].startswith("read  0/0 files  100 %  done")


def test_a_log_does_not_need_rich() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "\x1b" not in done.stderr
    assert "saved\n" in done.stderr


def on_a_terminal(code: str = SHOW, **environment: str) -> str:
    """What the run prints to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**env, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    ) as child:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how a terminal says that the other side is gone
                break
            if not chunk:
                break
            seen += chunk
    os.close(ours)
    assert child.returncode == 0, seen
    return seen.decode()


def test_a_terminal_gets_a_bar() -> None:
    seen = on_a_terminal()
    assert "\x1b[" in seen
    assert "━" in seen
    assert "loss [3.5]" in seen  # brackets are text, not markup
    assert "saved" in seen
    assert "4/4 steps  100 %" in seen


def colours(seen: str) -> set[int]:
    """The codes that set a colour, of all codes that set how text looks."""
    codes = (int(code) for codes in re.findall(r"\x1b\[([0-9;]+)m", seen) for code in codes.split(";"))
    return {code for code in codes if 30 <= code <= 49 or 90 <= code <= 107}


def test_colours_can_be_refused() -> None:
    assert colours(on_a_terminal())
    assert not colours(on_a_terminal(NO_COLOR="1"))


def test_a_dumb_terminal_gets_plain_lines() -> None:
    seen = on_a_terminal(TERM="dumb")
    assert "\x1b" not in seen
    assert "pretrain  4/4 steps  100 %" in seen


def test_a_reader_who_leaves_does_not_stop_the_run() -> None:
    code = (
        "import sys\n"
        "from preceptor.core.progress import say\n"
        "sys.stdin.read()\n"
        "for _ in range(3): say('x' * 100_000)\n"
        "print('went on')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert child.stdin is not None
        assert child.stdout is not None
        child.stderr.close()
        child.stdin.close()
        assert child.stdout.read() == "went on\n"
    assert child.returncode == 0
