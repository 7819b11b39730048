"""Rows 4, 5 and 6: disks that are full, that fail, that may not be written."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evidence import drafts, steps, torn, weights

STEPS = 20
NOT_SAVED = "could not be saved"


@pytest.fixture(scope="module")
def expected(nursery, tmp_path_factory):
    """The weights of an undisturbed training."""
    folder = tmp_path_factory.mktemp("expected")
    assert nursery.run(folder / "run", folder / "notes", num_steps=STEPS)[0] == 0
    return weights(folder / "notes")


def test_row_04_a_full_disk_is_told_the_old_stands_and_the_next_save_succeeds(small_disk, expected, tmp_path):
    run = small_disk.path / "full"
    seen = small_disk.seen / "full"
    trainee = small_disk.nursery.start(run, tmp_path, num_steps=STEPS, stop_at=[6, 10])
    assert trainee.wait() == "stopped"
    assert steps(seen) == [4]
    ballast = small_disk.seen / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    trainee.send(signal.SIGCONT)
    assert trainee.wait() == "stopped"
    # Step 8 could not be saved.
    assert steps(seen) == [4] and NOT_SAVED in trainee.said() and "free some space" in trainee.said()
    assert drafts(seen) == []
    ballast.unlink()
    trainee.send(signal.SIGCONT)
    assert trainee.wait() == 0, trainee.said()
    assert steps(seen) == [12, 16] and weights(tmp_path) == expected
    assert len((seen / "metrics.jsonl").read_text().splitlines()) == STEPS
    shutil.rmtree(seen)


def test_row_04_a_disk_without_room_for_two_checkpoints_is_told_before_the_first_step(small_disk, tmp_path):
    run, seen = small_disk.path / "small", small_disk.seen / "small"
    ballast = small_disk.seen / "ballast"
    ballast.write_bytes(bytes(980_000))
    code, said = small_disk.nursery.run(run, tmp_path, num_steps=STEPS)
    assert code == 1 and "2 of them must fit" in said and "free some space" in said
    assert steps(seen) == [] and not (seen / "metrics.jsonl").exists()
    ballast.unlink()
    assert small_disk.nursery.run(run, tmp_path, num_steps=STEPS)[0] == 0
    shutil.rmtree(seen)


def test_row_04_a_limit_on_the_size_of_files_is_told_and_training_ends(nursery, expected, tmp_path):
    run, notes = tmp_path / "run", tmp_path / "notes"
    # The optimizer's state is larger than this, the weights are not.
    code, said = nursery.run(run, notes, num_steps=STEPS, limits={"RLIMIT_FSIZE": 22_000})
    assert code == 0 and said.count(NOT_SAVED) == 4 and "ulimit -f" in said
    assert steps(run) == [] == drafts(run) and weights(notes) == expected


@pytest.mark.usefixtures("can_strace")
@pytest.mark.parametrize("number", range(1, 9))
def test_row_05_a_disk_that_fails_to_sync_has_saved_nothing_and_training_goes_on(nursery, expected, tmp_path, number):
    run, notes = tmp_path / "run", tmp_path / "notes"
    rules = ("trace=fsync", f"inject=fsync:error=EIO:when={number}")
    code, said = nursery.run_traced(run, notes, *rules, num_steps=STEPS, settings={"keep_checkpoints": 9})
    assert code == 0 and "(INJECTED)" in (notes / "calls").read_text()
    assert said.count(NOT_SAVED) == 1 and "step-0000004 could" in said and "check the disk" in said
    assert torn(run) == [] == drafts(run)
    assert steps(run)[-3:] == [8, 12, 16] and weights(notes) == expected


@pytest.mark.usefixtures("can_strace")
def test_row_05_a_disk_that_never_syncs_is_told_at_every_save(nursery, expected, tmp_path):
    run, notes = tmp_path / "run", tmp_path / "notes"
    rules = ("trace=fsync", "inject=fsync:error=EIO")
    code, said = nursery.run_traced(run, notes, *rules, num_steps=STEPS)
    assert code == 0 and said.count(NOT_SAVED) == 4
    assert steps(run) == [] == drafts(run) and weights(notes) == expected


PRECEPTOR = str(Path(sys.executable).parent / "preceptor")


@pytest.mark.usefixtures("can_mount")
@pytest.mark.parametrize("where", ["", "/missing/folder"])
def test_row_06_an_output_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, where):
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && mount -o remount,ro {tmp_path} && "
        f"exec {PRECEPTOR} run tiny --out {tmp_path}{where}"
    )
    process = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    said = process.stderr
    # It is the first that is said: no stage had begun.
    assert process.returncode == 1 and said.startswith("error: cannot write ") and "Read-only file system" in said
    assert "To fix it: make the folder writable" in said
