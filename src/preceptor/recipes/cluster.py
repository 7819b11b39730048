"""What starts a recipe on several hosts, as text: a batch script of Slurm, or a job of Kubernetes."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor.core.errors import ConfigError
from preceptor.parallel.mesh_config import MeshConfig, MeshSizes, sizes_of

_PORT = 29500
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A command of ours on several hosts, which share the folder of the run."""

    name: str
    arguments: Sequence[str]
    """What follows ``preceptor``."""
    nodes: int
    """How many hosts."""
    min_nodes: int
    """With how many the job still goes on when hosts are lost."""
    processes: int
    """How many on each host."""
    gpus: int
    """How many GPUs of each host; 0 for none."""
    cores: int = 1
    """How many cores each process gets."""
    max_restarts: int
    hours: float = 24.0
    """After how long a queue ends it; the same job goes on from the last checkpoint."""

    def __post_init__(self) -> None:
        """Refuse counts and names that no cluster takes."""
        if not 1 <= self.min_nodes <= self.nodes:
            raise ConfigError(
                f"a job of {self.nodes} hosts cannot need at least {self.min_nodes}",
                remedy=f"choose --min-nodes from 1 to {self.nodes}",
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} cannot name a job",
                remedy="choose a --name of at most 63 small letters, digits and hyphens, a letter first",
            )

    def torchrun(self, endpoint: str) -> list[str]:
        """The command that each host runs, all of which meet at an address."""
        nodes = str(self.nodes) if self.min_nodes == self.nodes else f"{self.min_nodes}:{self.nodes}"
        return [
            "torchrun",
            f"--nnodes={nodes}",
            f"--nproc-per-node={self.processes}",
            f"--max-restarts={self.max_restarts}",
            "--rdzv-backend=c10d",
            f"--rdzv-id={self.name}",
            f"--rdzv-endpoint={endpoint}",
            *("-m", "preceptor", *self.arguments),
        ]


def require_mesh(mesh: MeshConfig, job: Job) -> MeshSizes:
    """The mesh of all processes of a job; where hosts may be lost it must fit what is left, too.

    Raises:
        ConfigError: it does not fit.
    """
    for nodes in range(job.min_nodes, job.nodes):
        sizes_of(mesh, nodes * job.processes)
    return sizes_of(mesh, job.nodes * job.processes)


def slurm(job: Job, partition: str = "") -> str:
    """A batch script, for ``sbatch``."""
    hours, minutes = divmod(round(60 * job.hours), 60)
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.processes * job.cores}",
        *([f"--gres=gpu:{job.gpus}"] if job.gpus else []),
        *([f"--partition={partition}"] if partition else []),
        f"--time={hours}:{minutes:02d}:00",
        "--output=%x-%j.log",
        "--signal=B:TERM@120",
        "--requeue",
        "--open-mode=append",
    ]
    head = '"$head"'
    command = shlex.join(job.torchrun("HEAD"))
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "set -euo pipefail",
        'head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        "# What sbatch is told of cores srun does not hear of since Slurm 22.05.",
        'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        "# One agent on each host starts the processes there.",
        f"srun --kill-on-bad-exit=1 {command.replace('=HEAD', f'={head}:{_PORT}')} &",
        "agents=$! asked= code=0",
        "# Two minutes before the time is over all processes save; the job is queued again, and goes on from there.",
        """trap 'asked=1; kill -TERM "$agents"' TERM""",
        'wait "$agents" || code=$?',
        'if [ -n "$asked" ]; then',
        '  wait "$agents" || true',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def kubernetes(job: Job, image: str, claim: str, mounted_at: str) -> str:
    """A PyTorchJob of the Kubeflow training operator, for ``kubectl apply``.

    ``claim`` is a volume that all hosts can write, where the folder of the run is.
    """
    resources = f"""
              resources:
                limits:
                  nvidia.com/gpu: {job.gpus}"""
    command = "\n".join(f"                - {json.dumps(word)}" for word in job.torchrun("$(PET_RDZV_ENDPOINT)"))
    return f"""apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: {job.name}
spec:
  nprocPerNode: "{job.processes}"
  elasticPolicy:
    rdzvBackend: c10d
    minReplicas: {job.min_nodes}
    maxReplicas: {job.nodes}
    maxRestarts: {job.max_restarts}
  runPolicy:
    cleanPodPolicy: None
  pytorchReplicaSpecs:
    Worker:
      replicas: {job.nodes}
      restartPolicy: OnFailure
      template:
        spec:
          terminationGracePeriodSeconds: 120
          containers:
            - name: pytorch
              image: {json.dumps(image)}
              command:
{command}{resources if job.gpus else ""}
              volumeMounts:
                - name: shared
                  mountPath: {json.dumps(mounted_at)}
                - name: memory
                  mountPath: /dev/shm
          volumes:
            - name: shared
              persistentVolumeClaim:
                claimName: {json.dumps(claim)}
            - name: memory
              emptyDir:
                medium: Memory
"""
