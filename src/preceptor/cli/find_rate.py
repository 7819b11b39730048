"""The command that looks for a learning rate before a run is paid for."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from preceptor.cli.options import open_pipeline, stage_options

if TYPE_CHECKING:
    from preceptor.recipes.rate_plot import Suggestions
    from preceptor.train.rate_finder import RangeTest

_EPILOG = """\b
How to read it
  The plot shows the loss against the rate, on a logarithmic axis. On the left the rate is too low to
  change anything; then the loss falls; near its minimum training begins to break; beyond, it diverges.
  steepest            where the loss falls fastest: the rate to begin with
  a tenth of minimum  a second opinion; where the two differ much, take the smaller or try both
  Both are for a schedule that warms up and falls; a run of many thousand steps wants somewhat less.

\b
Examples
  preceptor find-rate                                      the default recipe, into runs/default/plots
  preceptor find-rate mine.toml --from 1e-4 --to 1 --steps 60
  preceptor find-rate pretraining.optimizer.kind=adamw     for another optimizer
  preceptor find-rate --stage finetune --out runs/mine     for the adapter; makes the base model first
"""


@click.command("find-rate", epilog=_EPILOG)
@stage_options
@click.option("--stage", type=click.Choice(["pretrain", "finetune"]), default="pretrain", help="What to train.")
@click.option("--from", "lowest", type=float, default=1e-6, show_default="1e-6", help="First learning rate.")
@click.option("--to", "highest", type=float, default=10.0, show_default=True, help="Last learning rate.")
@click.option("--steps", type=int, default=100, show_default=True, help="How many rates are tried, one a step.")
@click.option("--smoothing", type=float, default=0.9, show_default=True, help="Share of the past in the running mean.")
@click.option("--stop-at", type=float, default=1.5, show_default=True, help="End at so many times the smallest loss.")
def find_rate(
    words: tuple[str, ...],
    out: Path,
    stage: str,
    lowest: float,
    highest: float,
    steps: int,
    smoothing: float,
    stop_at: float,
) -> None:
    """Suggest a learning rate: a range test, in which the rate rises with each step until training breaks.

    It trains a copy of the run's starting weights and throws it away. OUT keeps plots/find-rate.png, .svg and .json,
    and what the stage starts from (the tokens, or the base model); no checkpoint, no metrics. Under muon the rate is
    learning_rate, and adamw_learning_rate rises with it in the proportion that the recipe gives them.

    A teacher (finetuning.distil.teacher) is left out: the loss is that of the answers alone.

    Sources: Smith 2017, Cyclical Learning Rates, section 3.3; Howard and Gugger 2020, fastai.
    """
    from preceptor.core.progress import Progress
    from preceptor.recipes.rate_plot import suggestions, write
    from preceptor.train.rate_finder import RateSweep

    sweep = RateSweep(lowest=lowest, highest=highest, steps=steps, smoothing=smoothing, stop_at=stop_at)
    with open_pipeline(words, out, is_trial=True) as pipeline:
        config = pipeline.run.pretraining if stage == "pretrain" else pipeline.run.finetuning
        # What the stage starts from has progress of its own, so it is made before the bar is drawn.
        pipeline.tokens() if stage == "pretrain" else pipeline.checkpoint()
        with Progress("find-rate", total=steps, unit="rates") as progress:

            def note(rate: float, loss: float) -> None:
                progress.note(f"rate {rate:.2g} · loss {loss:.3f}")
                progress.advance(1)

            found = pipeline.range_test(stage, sweep, note)
        has_teacher = stage == "finetune" and bool(pipeline.run.finetuning.distil.teacher)
        said = suggestions(found, config.optimizer, stage, has_teacher=has_teacher)
        for path in write(found, said, out / "plots"):
            click.echo(path)
    _tell(found, said)


def _tell(found: "RangeTest", said: "Suggestions") -> None:
    """Print what was found, and what to put into the recipe."""
    click.echo(f"{len(found.losses)} steps; {found.stopped}")
    for name, rate in (
        ("steepest", said["steepest"]),
        ("minimum", said["minimum"]),
        ("a tenth of minimum", said["tenth_of_minimum"]),
    ):
        click.echo(f"{name:20s} {rate:.2g}")
    for warning in said["warnings"]:
        click.echo(f"warning: {warning}")
    click.echo("to take the steepest, in the recipe or on the command line:")
    for line in said["settings"]:
        click.echo(f"  {line}")
