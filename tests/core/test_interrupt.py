"""Stopping in good order."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from preceptor.core.errors import Interrupted
from preceptor.core.interrupt import Stop, grace


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught, grace() as stop:
        assert not stop.requested
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number
        with pytest.raises(Interrupted) as asked:
            stop.check()
        assert asked.value.exit_code == 128 + number
        os.kill(os.getpid(), number)
        pytest.fail("went on after the second signal")
    if number == signal.SIGTERM:
        assert isinstance(caught.value, SystemExit)
        assert caught.value.code == 143
    else:
        assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before
    assert "once more to stop at once" in capfd.readouterr().err


def test_a_block_inside_shares_the_answer() -> None:
    with grace() as outer:
        with grace() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.requested
        assert outer.requested
    with grace() as fresh:
        assert not fresh.requested


def test_outside_the_main_thread_nothing_is_asked() -> None:
    found: list[Stop] = []

    def work() -> None:
        with grace() as stop:
            found.append(stop)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not found[0].requested
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_saves_and_exits_with_the_code_of_the_signal(number: int) -> None:
    code = (
        "import sys, time\n"
        "from preceptor.core.errors import Interrupted\n"
        "from preceptor.core.interrupt import grace\n"
        "try:\n"
        "    with grace() as stop:\n"
        "        print('ready', flush=True)\n"
        "        while not stop.requested:\n"
        "            time.sleep(0.01)\n"
        "        print('saved', flush=True)\n"
        "        stop.check()\n"
        "except Interrupted as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    assert out == "saved\n"
    assert "Stopping after this step" in err
    assert child.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_may_be_left_anywhere_is_left_at_the_first_signal(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with grace() as stop:
        with pytest.raises(Interrupted) as caught, stop.anywhere():
            try:
                os.kill(os.getpid(), number)
                pytest.fail("went on after the signal")
            except Exception:  # as a reader of broken files may do
                pytest.fail("took the stop for an error of its own")
        assert caught.value.exit_code == 128 + number
        with pytest.raises(Interrupted), stop.anywhere():
            pytest.fail("began after the signal")
    assert "what is finished stays" in capfd.readouterr().err
