"""Processes from one command: the same artifacts as one process, stops that save, refusals before any work."""

import shutil
import signal
import subprocess
import sys
import threading

import launched
import pytest
import torch
from processes import free_port

from preceptor.core.errors import ConfigError, LostError, OutputError
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.parallel.team import Team, was_started_together

pytestmark = pytest.mark.timeout(300)  # several starts of Python and PyTorch, on a machine that may be busy


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return launched.documents(tmp_path_factory.mktemp("source") / "docs")


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory):
    """The folder of a training by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = launched.finished(launched.command(source, out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def untrained(alone, tmp_path):
    """A folder in which everything before pre-training is done."""
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    for name in ("artifacts/checkpoint", "checkpoints", "metrics"):
        shutil.rmtree(out / name)
    return out


def test_two_processes_make_what_one_makes(source, alone, untrained):
    done = launched.finished(launched.command(source, untrained, "mesh.processes=2"))
    assert done.returncode == 0, done.stderr
    expected, found = launched.weights(alone), launched.weights(untrained)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)
    assert "num_parameters: " in done.stdout and f"{launched.STEPS}/{launched.STEPS} steps" in done.stderr
    assert done.stderr.count("pretrain: made") == 1
    assert "pretrain: checkpoint" in (untrained / "logs" / "rank-1.log").read_text()
    assert launched.steps_done(untrained) == launched.STEPS
    again = launched.finished(launched.command(source, untrained, "mesh.processes=1"))
    assert "pretrain: exists" in again.stderr, "with another number of processes it is the same run"


def test_a_stop_reaches_all_saves_and_goes_on(source, alone, untrained, tmp_path):
    words = launched.command(source, untrained, "mesh.processes=2")
    process = launched.started(words, tmp_path / "said")
    launched.wait_for_step(process, untrained, 7)
    team = launched.ranks(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not any(rank.is_running() for rank in team)
    said, stopped_at = (tmp_path / "said").read_text(), launched.steps_done(untrained)
    assert "same command" in said and "Traceback" not in said
    assert "same command" in (untrained / "logs" / "rank-1.log").read_text()
    # The rest by one process: the folder of a run knows of no processes.
    done = launched.finished(launched.command(source, untrained))
    assert f"going on from step {stopped_at}" in done.stderr
    for name, weight in launched.weights(alone).items():
        torch.testing.assert_close(launched.weights(untrained)[name], weight, rtol=0, atol=1e-5)


def test_a_mesh_that_cannot_be_is_refused_before_any_work(source, tmp_path):
    out = tmp_path / "run"
    done = launched.finished(launched.command(source, out, "mesh.processes=3", "mesh.shard=2"))
    assert done.returncode == 2 and "mesh.shard = 1, mesh.replicate = 3" in done.stderr
    assert not out.exists()


@pytest.mark.layouts
def test_an_error_of_the_first_process_ends_all_and_is_told_once(tmp_path):
    out = tmp_path / "run"
    nowhere = f'data.sources=[{{path="{tmp_path}/nowhere", licence="MIT"}}]'
    done = launched.finished(launched.command(nowhere, out, "mesh.processes=2"))
    assert done.returncode == 1 and "nowhere" in done.stderr and done.stderr.count("error:") == 1
    assert "start again" not in done.stderr


def test_a_stage_that_starts_no_processes_refuses_a_training_for_several(source, alone, untrained):
    done = launched.finished(launched.command(source, untrained, "mesh.processes=2", stage="evaluate"))
    assert done.returncode == 2 and "mesh.processes" in done.stderr and "preceptor run" in done.stderr


@pytest.mark.layouts
def test_processes_that_something_else_has_started_join_and_share_the_weights(source, alone, untrained):
    words = launched.command(source, untrained, "mesh.shard=2")
    port = str(free_port())
    team = [
        subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=launched.environment()
            | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in team] == [0, 0]
    for name, weight in launched.weights(alone).items():
        torch.testing.assert_close(launched.weights(untrained)[name], weight, rtol=0, atol=1e-5)


def test_half_an_environment_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="not WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        was_started_together()


@pytest.mark.parametrize("rank", ["5", "-1", "first"])
def test_a_number_that_no_process_has_is_refused(monkeypatch, rank):
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="number no process"):
        was_started_together()


def teams(count=2):
    store = torch.distributed.HashStore()
    return [Team(rank, count, store) for rank in range(count)]


def test_a_folder_that_is_not_shared_is_refused_in_words(tmp_path):
    first, second = teams()

    def look():
        with pytest.raises(LostError, match="not seen by process 1"):
            second.require_shared(tmp_path / "b", seconds=0.2)

    other = threading.Thread(target=look)
    (tmp_path / "b").mkdir()
    other.start()
    with pytest.raises(OutputError, match="not seen by process 1"), first.failing_together():
        first.require_shared(tmp_path / "a")
    other.join(timeout=20)
    assert not other.is_alive()


def test_who_waits_hears_of_a_failure(tmp_path):
    first, second = teams()
    with pytest.raises(ConfigError), first.failing_together():
        raise ConfigError("nothing there")
    with pytest.raises(LostError, match="process 0 has ended: nothing there") as heard:
        second.hear("data")
    assert heard.value.exit_code == ConfigError.exit_code


def test_the_mesh_is_a_setting_that_no_stage_depends_on():
    from preceptor.recipes.run import load_run

    run = load_run("tiny", ["mesh.processes=2", "mesh.timeout_seconds=10"])
    assert run.mesh == MeshConfig(processes=2, timeout_seconds=10)


def test_the_launcher_is_not_loaded_with_the_command_line():
    code = "import sys, preceptor.cli; sys.exit('torch' in sys.modules or 'preceptor.parallel.agent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
