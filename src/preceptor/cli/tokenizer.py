"""The commands about tokenizers: train one and encode the corpus, compare several."""

from pathlib import Path

import click

from preceptor.cli.options import StageGroup, open_pipeline, say_artifact, stage_options


@click.group(cls=StageGroup)
def tokenizer() -> None:
    """Train a tokenizer: `tokenizer [RECIPE] [KEY=VALUE]...` trains it and encodes the corpus with it."""


@tokenizer.command()
@stage_options
def make(words: tuple[str, ...], out: Path) -> None:
    """Train a tokenizer on the corpus, and encode the corpus with it."""
    with open_pipeline(words, out) as pipeline:
        say_artifact(pipeline.tokenizer())
        say_artifact(pipeline.tokens())


COMMANDS = (tokenizer,)
