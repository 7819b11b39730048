"""Rows 14 to 16: processes that train together are killed, stopped, left without their launcher, or become fewer."""

import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

import launched
import psutil
import torch

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TIMEOUT = 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training by two processes, and what it read."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source = launched.documents(folder / "docs")
    done = launched.finished(launched.command(source, folder / "run", "mesh.processes=2"))
    assert done.returncode == 0, done.stderr
    return source, folder / "run"


@pytest.fixture
def training(undisturbed, tmp_path):
    """Two processes at the seventh step of the same training: the launcher, their folder, and what it says."""
    source, run = undisturbed
    out, said = tmp_path / "run", tmp_path / "said"
    shutil.copytree(run, out)
    for name in ("artifacts/checkpoint", "checkpoints", "metrics"):
        shutil.rmtree(out / name)
    process = launched.started(
        launched.command(source, out, "mesh.processes=2", f"mesh.timeout_seconds={TIMEOUT}"), said
    )
    launched.wait_for_step(process, out, 7)
    yield process, out, said
    process.kill()
    process.wait()


def same_weights(out, run):
    return (launched.artifact(out) / "model.safetensors").read_bytes() == (
        launched.artifact(run) / "model.safetensors"
    ).read_bytes()


def assert_all_end(team):
    """All end soon after their time-out, where the libraries below would let them wait for half an hour."""
    _, alive = psutil.wait_procs(team, timeout=TIMEOUT + 60)
    assert not alive


@pytest.mark.parametrize("rank", [0, 1])
def test_row_14_a_killed_process_ends_the_others_and_all_go_on_bit_for_bit(training, undisturbed, rank):
    process, out, said = training
    team = launched.ranks(process)
    team[rank].kill()
    assert_all_end(team)
    assert process.wait(timeout=240) == 0
    told = said.read_text()
    assert f"process {rank} (pid {team[rank].pid}) was killed by SIGKILL" in told and "(1 of 3)" in told
    assert "going on from step 5" in told
    assert same_weights(out, undisturbed[1])


def test_row_15_a_process_that_hangs_is_found_its_stack_written_and_all_go_on_bit_for_bit(training, undisturbed):
    process, out, said = training
    team = launched.ranks(process)
    team[1].send_signal(signal.SIGSTOP)
    assert_all_end(team)
    assert process.wait(timeout=240) == 0
    told = said.read_text()
    assert f"process 1 (pid {team[1].pid} on " in told and "does not answer" in told
    for rank in range(2):
        log = (out / "logs" / f"rank-{rank}.log").read_text()
        # Where in the loop they stood is chance: at a sum of the gradients, of the loss, of the seconds.
        assert "most recent call first" in log and " in fit\n" in log, rank
    assert same_weights(out, undisturbed[1])


def test_row_15_without_its_launcher_no_process_stays(training):
    process, _, _ = training
    team = launched.ranks(process)
    team[1].send_signal(signal.SIGSTOP)
    process.kill()
    assert_all_end(team)


def test_row_16_a_training_goes_on_with_fewer_and_with_more_processes(training, undisturbed):
    process, out, _ = training
    source, run = undisturbed
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    alone = launched.started(launched.command(source, out), out.parent / "alone")
    launched.wait_for_step(alone, out, launched.steps_done(out) + 5)
    alone.send_signal(signal.SIGTERM)
    assert alone.wait(timeout=60) == 143
    done = launched.finished(launched.command(source, out, "mesh.processes=4"))
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    expected, found = launched.weights(run), launched.weights(out)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)
