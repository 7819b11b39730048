"""The command that looks at a file of examples."""

from pathlib import Path
from typing import get_args

import click

from preceptor.core.errors import ConfigError
from preceptor.data.example_types import Task

_EPILOG = """\b
Examples
  preceptor examples reviews.csv --column text=review --column label=stars
  preceptor examples chats.jsonl --tokenizer runs/default --show 5
  preceptor examples train.parquet --held-out test.parquet
"""
_PATH = click.Path(path_type=Path)


@click.command(epilog=_EPILOG)
@click.argument("file", type=_PATH)
@click.option(
    "--task", type=click.Choice(["auto", *get_args(Task)]), default="auto", show_default=True, help="What is learned."
)
@click.option(
    "--column", "pairs", multiple=True, metavar="OURS=THEIRS", help="What a column is called here; may be given again."
)
@click.option(
    "--tokenizer", type=_PATH, help="A tokenizer, a model's folder or a run's; without one, words are counted."
)
@click.option("--held-out", type=_PATH, help="A file that is only evaluated on, in place of a share of FILE.")
@click.option("--show", type=click.IntRange(min=0), default=3, show_default=True, help="How many examples to show.")
def examples(
    file: Path, task: str, pairs: tuple[str, ...], tokenizer: Path | None, held_out: Path | None, show: int
) -> None:
    """Look at a file of examples before anything is trained on it.

    FILE is JSON, JSON lines, CSV, TSV, Parquet or CoNLL. Printed are what it holds, the rows that are refused, the
    first examples as the model sees them, with what is learned in colour (in brackets where there is no colour), and
    what is odd about them once a share is held out.
    """
    from preceptor.recipes.examples_view import find_tokenizer, print_examples

    print_examples(
        file,
        task=task,  # type: ignore[arg-type]
        columns=dict(map(_column, pairs)),
        tokenizer=None if tokenizer is None else find_tokenizer(tokenizer),
        held_out=held_out,
        show=show,
    )


def _column(pair: str) -> tuple[str, str]:
    ours, is_pair, theirs = pair.partition("=")
    if not (ours and is_pair and theirs):
        raise ConfigError(f"--column {pair!r} is no pair of names", remedy="write it as text=review")
    return ours, theirs
