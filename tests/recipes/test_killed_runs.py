"""Killed at ten random moments of pre-training and started again each time: the same weights, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 120
COMMAND = [
    str(Path(sys.executable).parent / "preceptor"),
    "pretrain",
    "tiny",
    f"pretraining.duration={STEPS} steps",
    "pretraining.checkpoint_every_steps=6",
    "pretraining.validation_every_steps=40",
    "model.dropout=0.1",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which everything before pre-training is done."""
    folder = tmp_path_factory.mktemp("prepared")
    command = [COMMAND[0], "tokenizer", "tiny", "--out", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run"


def checkpoint(out: Path) -> Path:
    (folder,) = (out / "artifacts" / "checkpoint").iterdir()
    return folder


def steps_done(out: Path) -> int:
    logs = list((out / "metrics").glob("pretrain-*.jsonl"))
    return len(logs[0].read_bytes().splitlines()) if logs else 0


def kill_at(out: Path, step: int, delay: float, number: int) -> bool:
    """Whether the run was still going when the signal was sent, some time after it had reached the step."""
    process = subprocess.Popen([*COMMAND, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while steps_done(out) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    is_running = process.poll() is None
    process.send_signal(number)
    process.wait(timeout=60)
    return is_running


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(prepared, out)
    subprocess.run([*COMMAND, "--out", str(out)], check=True, capture_output=True)
    return checkpoint(out)


@pytest.mark.timeout(1200)  # up to eleven starts of Python and PyTorch, on a machine that may be busy
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.faults)])
def test_kills_change_no_bit_of_the_weights(prepared, undisturbed, tmp_path, kills):
    out = tmp_path / "run"
    shutil.copytree(prepared, out)
    seed = int(os.environ.get("KILL_SEED", "0"))
    chance = random.Random(seed)
    hits = 0
    for kill in range(kills):
        # From kill to kill a part of the way further, so that the last one still finds it running.
        step = min(STEPS - 10, 1 + kill * (STEPS - 12) // kills + chance.randrange(8))
        hits += kill_at(out, step, chance.random() * 0.1, signal.SIGKILL)
    assert hits >= kills - 1
    subprocess.run([*COMMAND, "--out", str(out)], check=True, capture_output=True)
    again = checkpoint(out)
    assert (again / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert again.name == undisturbed.name, "the curve or the facts differ"
    assert not list(out.rglob("*.tmp*")) and not list((out / "checkpoints").rglob("step-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_polite_stop_saves_says_how_to_go_on_and_changes_nothing(prepared, undisturbed, tmp_path, number, code):
    out = tmp_path / "run"
    shutil.copytree(prepared, out)
    process = subprocess.Popen([*COMMAND, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    while steps_done(out) < 20 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "same command" in said and "Traceback" not in said
    stopped_at = steps_done(out)
    assert 20 <= stopped_at < STEPS
    result = subprocess.run([*COMMAND, "--out", str(out)], check=True, capture_output=True, text=True)
    assert f"going on from step {stopped_at}" in result.stderr
    assert checkpoint(out).name == undisturbed.name
