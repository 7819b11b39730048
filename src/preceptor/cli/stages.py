"""The commands that make something: run does everything, and each later stage is also a command of its own."""

from pathlib import Path

import click

from preceptor.cli.options import hand_over, open_pipeline, say_artifact, stage_options


@click.command()
@stage_options
def run(words: tuple[str, ...], out: Path) -> None:
    """Do everything: documents, tokenizer, pre-training, fine-tuning, evaluation, report.

    Ends with what each stage gave and cost, three answers, and what to type next. Run again, it uses what exists; after
    a change of settings it makes what follows from that change. A run that was killed goes on where it was saved.
    """
    from preceptor.recipes.report import write_report
    from preceptor.recipes.summary import summary

    hand_over(words, out)
    with open_pipeline(words, out) as pipeline:
        pipeline.evaluation()
        if not pipeline.team.is_first:
            return
        report = write_report(pipeline)
        click.echo(summary(pipeline, report))


@click.command()
@stage_options
def pretrain(words: tuple[str, ...], out: Path) -> None:
    """Train a model from its starting weights; goes on from the last checkpoint of a run that was stopped or killed."""
    hand_over(words, out)
    with open_pipeline(words, out) as pipeline:
        say_artifact(pipeline.checkpoint())


@click.command()
@stage_options
def finetune(words: tuple[str, ...], out: Path) -> None:
    """Teach the base model a task from examples (finetuning.examples), by an adapter or by training all of it."""
    hand_over(words, out)
    with open_pipeline(words, out) as pipeline:
        say_artifact(pipeline.adapter(), nothing="finetuning.examples is empty: there is nothing to fine-tune on")


@click.command()
@stage_options
def evaluate(words: tuple[str, ...], out: Path) -> None:
    """Measure the model: language modelling beside two rulers, memorisation, the task beside baselines. Prints JSON."""
    with open_pipeline(words, out) as pipeline:
        artifact = pipeline.evaluation()
        click.echo(artifact.file("evaluation.json").read_text(encoding="utf-8").strip())


@click.command()
@stage_options
def report(words: tuple[str, ...], out: Path) -> None:
    """Write report.html and report.json from what the stages have left; without RECIPE, of the run in the folder."""
    from preceptor.recipes.report import write_report

    with open_pipeline(words, out, of_folder=True) as pipeline:
        pipeline.evaluation()
        if not pipeline.team.is_first:
            return
        write_report(pipeline)
        click.echo(out / "report.html")
        click.echo(out / "report.json")
