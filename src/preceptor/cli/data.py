"""The commands about data: documents to a corpus, text to tokens, and who saw what."""

from pathlib import Path

import click

from preceptor.cli.options import open_pipeline, say_artifact, stage_options


@click.command()
@stage_options
def data(words: tuple[str, ...], out: Path) -> None:
    """Read, clean and de-duplicate documents into a corpus, and say what became of each."""
    with open_pipeline(words, out) as pipeline:
        corpus = pipeline.corpus()
        click.echo(corpus.file("datasheet.json").read_text(encoding="utf-8").strip())
        click.echo(f"in {corpus.path}", err=True)


@click.command()
@stage_options
def tokenizer(words: tuple[str, ...], out: Path) -> None:
    """Train a tokenizer on the corpus, and encode the corpus with it."""
    with open_pipeline(words, out) as pipeline:
        say_artifact(pipeline.tokenizer())
        say_artifact(pipeline.tokens())


COMMANDS = (data, tokenizer)
