"""Rows 1, 2, 3 and 13: a training that is killed, or asked to stop, at any moment."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from evidence import drafts, resumed_at, rows_read, steps, torn, weights

EVERY, STEPS = 4, 20
FILE_CALLS = "write,fsync,ftruncate,mkdir,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"
SHORT = {"num_steps": 13, "settings": {"keep_checkpoints": 1, "checkpoints_in_background": False}}
"""From step 4 on two saves, at steps 8 and 12, after each of which the older checkpoint is removed. By one thread, as
strace counts the calls of each thread for itself."""


@pytest.fixture(scope="session")
def undisturbed(nursery, tmp_path_factory):
    """The notes of two trainings that nothing has disturbed."""

    def made(**arguments):
        folder = tmp_path_factory.mktemp("undisturbed")
        code, said = nursery.run(folder / "run", folder / "notes", **arguments)
        assert code == 0, said
        return folder / "notes"

    return {"long": made(num_steps=STEPS), "short": made(**SHORT)}


@pytest.fixture(scope="session")
def begun(nursery, tmp_path_factory):
    """A training that was killed after its first checkpoint, at step 6."""
    folder = tmp_path_factory.mktemp("begun")
    trainee = nursery.start(folder / "run", folder / "notes", stop_at=[6], **SHORT)
    assert trainee.wait() == "stopped"
    trainee.send(signal.SIGKILL)
    assert trainee.wait() == -signal.SIGKILL and steps(folder / "run") == [4]
    return folder / "run"


def kill_at(nursery, run: Path, notes: Path, step: int) -> int:
    """The step at which a session began that was killed as it came to a step."""
    trainee = nursery.start(run, notes, num_steps=STEPS, stop_at=[step])
    assert trainee.wait() == "stopped"
    trainee.send(signal.SIGKILL)
    assert trainee.wait() == -signal.SIGKILL
    return resumed_at(trainee.said())


def test_row_01_killed_at_chosen_steps_loses_no_more_than_an_interval_and_no_bit(nursery, undisturbed, tmp_path):
    run, notes = tmp_path / "run", tmp_path / "notes"
    killed_at = (3, 4, 7, 12, 16, 20)
    began = [kill_at(nursery, run, notes, step) for step in killed_at]
    code, said = nursery.run(run, notes, num_steps=STEPS)
    assert code == 0
    for step, resumed in zip(killed_at, [*began[1:], resumed_at(said)], strict=True):
        saved = (step - 1) // EVERY * EVERY
        # The newest may still have been on its way to the disk, as training does not wait for it.
        assert resumed in (saved, max(0, saved - EVERY))
    assert weights(notes) == weights(undisturbed["long"])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == STEPS


def test_row_13_the_rows_of_each_step_are_the_same_after_a_kill_none_lost_none_twice(nursery, undisturbed, tmp_path):
    run, notes = tmp_path / "run", tmp_path / "notes"
    for step in (7, 14):
        kill_at(nursery, run, notes, step)
    assert nursery.run(run, notes, num_steps=STEPS)[0] == 0
    assert rows_read(notes) == rows_read(undisturbed["long"])
    seen = [row for _, rows in sorted(rows_read(notes).items()) for row in rows]
    epoch = len(set(seen))
    assert len(seen) == 4 * STEPS > 2 * epoch
    assert sorted(seen[:epoch]) == sorted(seen[epoch : 2 * epoch]) == sorted(set(seen))


def calls_in(nursery, begun: Path, folder: Path) -> dict[str, int]:
    """How often each call that changes files is made in an undisturbed session of the short training."""
    shutil.copytree(begun, folder / "run")
    code, said = nursery.run_traced(folder / "run", folder / "notes", f"trace={FILE_CALLS}", **SHORT)
    assert code == 0, said
    log = (folder / "notes" / "calls").read_text().splitlines()
    names = [line.split()[1].partition("(")[0] for line in log if "(" in line]
    return {name: names.count(name) for name in sorted(set(names) & set(FILE_CALLS.split(",")))}


def kill_in_call(nursery, begun: Path, folder: Path, call: str, number: int) -> int:
    """How many drafts are left by a session that is killed at a call, after which all promises have been looked at."""
    shutil.copytree(begun, folder / "run")
    rules = (f"trace={call}", f"inject={call}:signal=KILL:when={number}")
    code, said = nursery.run_traced(folder / "run", folder / "notes", *rules, **SHORT)
    assert code in (-signal.SIGKILL, 0), said
    left = drafts(folder / "run")
    assert steps(folder / "run") in ([4], [4, 8], [8], [8, 12], [12])
    return len(left) if code else -1


def go_on(nursery, folder: Path, expected: bytes) -> None:
    """Go on to the end: from the newest, swept by the next save, and to the same weights."""
    newest = steps(folder / "run")[-1]
    code, said = nursery.run(folder / "run", folder / "notes", **SHORT)
    assert code == 0 and resumed_at(said) == newest, said
    assert weights(folder / "notes") == expected
    if newest < 12:
        assert steps(folder / "run") == [12] and drafts(folder / "run") == []


@pytest.mark.usefixtures("can_strace")
@pytest.mark.parametrize(
    ("call", "number"), [("ftruncate", 2), ("fsync", 1), ("fsync", 3), ("rename", 1), ("rmdir", 1)]
)
def test_row_02_killed_in_a_save_the_older_checkpoint_stands_and_drafts_are_swept(
    nursery, undisturbed, begun, tmp_path, call, number
):
    assert kill_in_call(nursery, begun, tmp_path, call, number) >= 0, "it was not killed"
    go_on(nursery, tmp_path, weights(undisturbed["short"]))


@pytest.mark.faults
@pytest.mark.usefixtures("can_strace")
@pytest.mark.timeout(1200)
def test_row_02_killed_at_every_call_that_changes_a_file(nursery, undisturbed, begun, tmp_path, capsys):
    calls = calls_in(nursery, begun, tmp_path / "calls")
    assert calls["fsync"] > 5 and calls["rename"] and calls["write"] > 5
    killed = in_save = 0
    for call, count in calls.items():
        for number in range(1, count + 1):
            folder = tmp_path / f"{call}-{number}"
            left = kill_in_call(nursery, begun, folder, call, number)
            killed, in_save = killed + (left >= 0), in_save + (left > 0)
            go_on(nursery, folder, weights(undisturbed["short"]))
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{killed} kills, each at another call: {calls}; {in_save} left a draft")
    assert killed >= 0.9 * sum(calls.values()) and in_save > 10


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_row_01_fifty_kills_at_random_moments_change_no_bit(nursery, tmp_path, capsys):
    """One training, of which every step is saved, is killed fifty times on its way; KILL_SEED chooses the moments."""
    arguments = {"num_steps": 300, "settings": {"checkpoint_every_steps": 1, "validation_every_steps": 50}}
    run, notes = tmp_path / "run", tmp_path / "notes"
    seed = int(os.environ.get("KILL_SEED", "0"))
    chance = random.Random(seed)
    in_save = stands = 0
    for _ in range(50):
        trainee = nursery.start(run, notes, **arguments)
        wait_for_step(run, stands + chance.randrange(9))
        time.sleep(chance.random() * 0.06)
        trainee.send(signal.SIGKILL)
        assert trainee.wait() == -signal.SIGKILL, "it ended before it was killed; give it more steps"
        in_save += bool(drafts(run))
        assert torn(run) == []
        # It may have been killed before it had begun.
        assert resumed_at(trainee.said()) in ({stands} if trainee.said() else {0})
        stood, stands = stands, max(steps(run), default=0)
        # One save may be under way and one may wait; a third makes training wait. So at most these and a step are lost.
        assert stands >= max(stood, last_step(run) - 3)
    code, said = nursery.run(run, notes, **arguments)
    assert code == 0 and resumed_at(said) == stands > 100
    with capsys.disabled():
        print(f"\n50 kills (seed {seed}), {in_save} of them inside a save; the last session went on from step {stands}")
    alone = tmp_path / "alone"
    assert nursery.run(alone / "run", alone / "notes", **arguments)[0] == 0
    assert weights(notes) == weights(alone / "notes")
    assert rows_read(notes) == rows_read(alone / "notes")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 300
    assert drafts(run) == [] and in_save >= 5


def wait_for_step(run: Path, step: int) -> None:
    """Wait until a training has come to a step."""
    deadline = time.monotonic() + 200
    while last_step(run) < step and time.monotonic() < deadline:
        time.sleep(0.003)


def last_step(run: Path) -> int:
    """The last step that was finished, by the log of metrics."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"}\n") if path.exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_row_03_a_signal_ends_the_step_in_hand_and_what_was_trained_is_saved(
    nursery, undisturbed, tmp_path, number, code
):
    run, notes = tmp_path / "run", tmp_path / "notes"
    trainee = nursery.start(run, notes, num_steps=STEPS, stop_at=[6])
    assert trainee.wait() == "stopped"
    trainee.send(number)
    trainee.send(signal.SIGCONT)
    assert trainee.wait() == code and steps(run) in ([4, 5], [4, 6])
    newest = steps(run)[-1]
    code, said = nursery.run(run, notes, num_steps=STEPS)
    assert code == 0 and resumed_at(said) == newest
    assert weights(notes) == weights(undisturbed["long"])


def test_row_03_a_second_signal_ends_at_once_and_what_stood_stands(nursery, undisturbed, tmp_path):
    run, notes = tmp_path / "run", tmp_path / "notes"
    trainee = nursery.start(run, notes, num_steps=STEPS, stop_at=[6])
    assert trainee.wait() == "stopped"
    # Both are pending, and so taken before the step can end.
    trainee.send(signal.SIGTERM)
    trainee.send(signal.SIGINT)
    trainee.send(signal.SIGCONT)
    assert trainee.wait() in (130, 143)
    assert steps(run) in ([], [4])
    assert nursery.run(run, notes, num_steps=STEPS)[0] == 0
    assert weights(notes) == weights(undisturbed["long"])


def signal_in_call(nursery, begun: Path, folder: Path, call: str, number: int) -> int | str:
    """How a session ended to which SIGTERM came in a call; what it left is looked at."""
    shutil.copytree(begun, folder / "run")
    rules = (f"trace={call}", f"inject={call}:signal=TERM:when={number}")
    code, said = nursery.run_traced(folder / "run", folder / "notes", *rules, **SHORT)
    # What catches signals begins with the training and ends with it; before and after, SIGTERM ends the process itself.
    assert code in (143, 0, -signal.SIGTERM) and "Traceback" not in said, said
    assert steps(folder / "run") and drafts(folder / "run") == []
    return code


@pytest.mark.usefixtures("can_strace")
@pytest.mark.parametrize(("call", "number"), [("fsync", 2), ("rename", 1), ("read", 10)], ids=["save", "place", "load"])
def test_row_03_a_signal_inside_a_save_or_a_load(nursery, undisturbed, begun, tmp_path, call, number):
    assert signal_in_call(nursery, begun, tmp_path, call, number) == 143
    assert nursery.run(tmp_path / "run", tmp_path / "notes", **SHORT)[0] == 0
    assert weights(tmp_path / "notes") == weights(undisturbed["short"])


@pytest.mark.faults
@pytest.mark.usefixtures("can_strace")
@pytest.mark.timeout(1200)
def test_row_03_a_signal_at_every_call_that_changes_a_file(nursery, undisturbed, begun, tmp_path):
    stopped = 0
    for call, count in calls_in(nursery, begun, tmp_path / "calls").items():
        for number in range(1, count + 1):
            folder = tmp_path / f"{call}-{number}"
            stopped += signal_in_call(nursery, begun, folder, call, number) == 143
            assert nursery.run(folder / "run", folder / "notes", **SHORT)[0] == 0
            assert weights(folder / "notes") == weights(undisturbed["short"])
            shutil.rmtree(folder)
    assert stopped > 20


@pytest.mark.parametrize(("num_signals", "grace_seconds"), [(2, 3600.0), (1, 1.0)], ids=["told-twice", "given-up"])
def test_row_03_a_disk_that_hangs_is_not_waited_for(nursery, tmp_path, num_signals, grace_seconds):
    """The disk hangs for an hour: a second signal ends the training at once, and the first after its grace."""
    run, notes = tmp_path / "run", tmp_path / "notes"
    trainee = nursery.start(run, notes, num_steps=5000, settings={"grace_seconds": grace_seconds}, disk_hangs=True)
    wait_for_step(run, 5)
    trainee.send(signal.SIGTERM)
    for _ in range(num_signals - 1):
        time.sleep(0.5)
        trainee.send(signal.SIGTERM)
    assert trainee.wait() in (143, -signal.SIGTERM), trainee.said()
    assert steps(run) == []
