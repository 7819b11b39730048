"""The commands about tokenizers: train one and encode the corpus, compare several."""

from pathlib import Path

import click

from preceptor.cli.options import OUT_OPTION, StageGroup, open_pipeline, say_artifact, stage_options


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


@tokenizer.command()
@click.argument("others", nargs=-1, metavar="[TOKENIZER]...")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@OUT_OPTION
def report(others: tuple[str, ...], as_json: bool, out: Path) -> None:
    """Compare the run's tokenizer with others on the same text.

    TOKENIZER is a kind that is trained for the purpose (byte-bpe, word, char, unigram, sentencepiece-bpe, with a size
    as in unigram:8000), or the path of one that exists: a Hugging Face folder, a tokenizer.json, a tiktoken file or a
    SentencePiece model. Without any, all kinds are trained at the size of the run's own. The same as a page with a
    picture is written to tokenizers.html in the run's folder.
    """
    from preceptor.core.drafts import write_file
    from preceptor.recipes.tokenizer_choice import compare_for_run
    from preceptor.recipes.tokenizer_report import as_html, as_text
    from preceptor.recipes.tokenizer_report import as_json as to_json

    rows = compare_for_run(out, others)
    write_file(out / "tokenizers.html", as_html(rows))
    click.echo(to_json(rows) if as_json else as_text(rows), nl=False)
    click.echo(f"in {out / 'tokenizers.html'}", err=True)
