"""Scripts and jobs for clusters, as text."""

import shlex
import subprocess

import pytest
import yaml
from click.testing import CliRunner

from preceptor.cli import cli
from preceptor.core.errors import ConfigError

OPTIONS = ["tiny", "mesh.processes=4", "mesh.tensor=2", "--out", "/shared/my run", "--nodes", "3"]


def printed(*words):
    done = CliRunner().invoke(cli, ["cluster", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_batch_script_starts_one_agent_on_each_host(tmp_path):
    script = printed("slurm", *OPTIONS, "--hours", "1.5", "--stage", "pretrain", "--cores", "2")
    assert "#SBATCH --nodes=3\n" in script and "#SBATCH --gres=gpu:4\n" in script and "--time=1:30:00\n" in script
    assert "#SBATCH --cpus-per-task=8\n" in script
    path = tmp_path / "job.sh"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    words = shlex.split(next(line for line in script.splitlines() if line.startswith("srun ")))
    assert words.pop() == "&" and "--nproc-per-node=4" in words and "--nnodes=3" in words
    assert words[words.index("preceptor") + 1 :] == ["pretrain", *OPTIONS[:3], "--out", "/shared/my run"]


def test_a_job_of_kubernetes_is_yaml_with_the_same_command_on_each_host():
    words = [*OPTIONS, "--image", "registry/preceptor:1", "--claim", "runs", "--min-nodes", "1", "--name", "mine"]
    job = yaml.safe_load(printed("kubernetes", *words))
    assert (job["kind"], job["metadata"]["name"]) == ("PyTorchJob", "mine")
    assert job["spec"]["elasticPolicy"] == {
        "rdzvBackend": "c10d",
        "minReplicas": 1,
        "maxReplicas": 3,
        "maxRestarts": 3,
    }
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert worker["replicas"] == 3 and container["image"] == "registry/preceptor:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert "--nnodes=1:3" in container["command"] and container["command"][-2:] == ["--out", "/shared/my run"]
    assert job == yaml.safe_load(yaml.safe_dump(job))


def test_without_gpus_none_is_asked_for():
    words = [*OPTIONS, "--gpus", "0"]
    assert "gres" not in printed("slurm", *words)
    assert "nvidia" not in printed("kubernetes", *words, "--image", "i", "--claim", "c")
    assert "gres" not in printed("slurm", *OPTIONS, "pretraining.device=cpu", "finetuning.device=cpu")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--min-nodes", "4"], "at least 4"),
        (["--name", "My Job"], "cannot name a job"),
        (["mesh.replicate=6", "--min-nodes", "2"], "make 12 processes, and there are 8"),
    ],
)
def test_what_cannot_be_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(cli, ["cluster", "slurm", *OPTIONS, *words], catch_exceptions=False)
