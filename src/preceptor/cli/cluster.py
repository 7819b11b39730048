"""The commands that print what starts a recipe on several hosts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preceptor.cli.options import Command, parse_words

if TYPE_CHECKING:
    from preceptor.recipes.cluster import Job


@click.group()
def cluster() -> None:
    """Print what starts a recipe on several hosts: a script for Slurm, or a job for Kubernetes. Nothing is started.

    All hosts must see the folder of the run under the same path.
    """


def _job_options(command: Command) -> Command:
    for option in (
        click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]..."),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run; shared."),
        click.option("--nodes", type=click.IntRange(1), default=2, show_default=True, help="How many hosts."),
        click.option("--min-nodes", type=click.IntRange(1), help="With how many it still goes on.  [default: all]"),
        click.option("--processes", type=click.IntRange(1), help="On each host.  [default: mesh.processes]"),
        click.option("--gpus", type=click.IntRange(0), help="Of each host.  [default: one a process; 0 on CPUs]"),
        click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="For each process."),
        click.option("--name", default="preceptor", show_default=True, help="What the job is called."),
        click.option("--stage", type=click.Choice(["run", "pretrain", "finetune"]), default="run", show_default=True),
    ):
        command = option(command)
    return command


def _job(
    words: tuple[str, ...],
    out: Path,
    *,
    nodes: int,
    min_nodes: int | None,
    processes: int | None,
    gpus: int | None,
    cores: int,
    name: str,
    stage: str,
    hours: float = 24.0,
) -> "Job":
    from preceptor.recipes.cluster import Job, require_mesh
    from preceptor.recipes.run import load_run

    recipe, overrides = parse_words(words)
    run = load_run(recipe, overrides)
    mesh, here = run.mesh, processes or run.mesh.processes
    on_cpus = {run.pretraining.device, run.finetuning.device} == {"cpu"}
    job = Job(
        name=name,
        arguments=[stage, *words, "--out", str(out)],
        nodes=nodes,
        min_nodes=min_nodes or nodes,
        processes=here,
        gpus=gpus if gpus is not None else 0 if on_cpus else here,
        cores=cores,
        max_restarts=mesh.max_restarts,
        hours=hours,
    )
    require_mesh(mesh, job)
    return job


@cluster.command()
@_job_options
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=24.0,
    show_default=True,
    help="After how long the queue ends it.",
)
@click.option("--partition", default="", help="Of the cluster.  [default: that of the cluster]")
def slurm(partition: str, **job: Any) -> None:
    """Print a batch script for sbatch."""
    from preceptor.recipes import cluster as texts

    click.echo(texts.slurm(_job(**job), partition), nl=False)


@cluster.command()
@_job_options
@click.option("--image", required=True, help="The image that holds preceptor.")
@click.option("--claim", required=True, help="A volume claim that all hosts can write.")
@click.option("--mounted-at", default="/shared", show_default=True, help="Where it is in the container.")
def kubernetes(image: str, claim: str, mounted_at: str, **job: Any) -> None:
    """Print a PyTorchJob for kubectl apply, which the training operator of Kubeflow runs."""
    from preceptor.recipes import cluster as texts

    click.echo(texts.kubernetes(_job(**job), image, claim, mounted_at), nl=False)
