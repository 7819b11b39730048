"""The commands about data: documents to a corpus, what became of each, and who saw it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from preceptor.cli.options import OUT_OPTION, StageGroup, open_pipeline, stage_options

if TYPE_CHECKING:
    from preceptor.data.corpus import Corpus

_EPILOG = """\b
Examples
  preceptor data data.sources='[{path="docs", licence="CC-BY-4.0"}]' --out runs/mine
  preceptor data inspect --dropped --rule near-duplicate --out runs/mine
  preceptor data trace docs/a.html --out runs/mine      who saw this document
  preceptor data forget 3f9a… --why "its author asked"   and train again without it
"""


_COUNTS = (
    *("documents_in", "documents_kept", "documents_dropped", "drops_by_rule", "bytes_in", "bytes_kept", "edits"),
    *("redactions", "licences", "consents", "languages", "sources", "collections", "train", "validation", "warnings"),
)


@click.group(cls=StageGroup, epilog=_EPILOG)
def data() -> None:
    """Make a corpus and account for it: `data [RECIPE] [KEY=VALUE]...` makes it, the commands below look into it."""


@data.command()
@stage_options
def make(words: tuple[str, ...], out: Path) -> None:
    """Read, clean and de-duplicate documents into a corpus, and say what became of each.

    Prints the counts of the datasheet as JSON. The whole of it, with histograms and samples of what was dropped, is
    datasheet.json, and for people datasheet.html, in the folder that is named at the end. A run that was stopped or
    killed goes on with the same command.
    """
    with open_pipeline(words, out) as pipeline:
        corpus = pipeline.corpus()
        datasheet = json.loads(corpus.file("datasheet.json").read_text(encoding="utf-8"))
        click.echo(json.dumps({key: datasheet[key] for key in _COUNTS}, indent=2))
        click.echo(f"read {corpus.path / 'datasheet.html'}", err=True)


def _newest_corpus(out: Path) -> "Corpus":
    from preceptor.data.corpus import Corpus
    from preceptor.recipes.folder import newest

    return Corpus.load(newest(out, "corpus").path)


@data.command()
@click.option("--dropped", is_flag=True, help="Documents that were dropped; with --kept, or without either, all.")
@click.option("--kept", is_flag=True, help="Documents that were kept.")
@click.option("--rule", default="", help="Only what this rule dropped.")
@click.option("--source", default="", help="Only what comes from here: a part of a source's name or of a path.")
@click.option("--licence", default="", help="Only documents under this licence.")
@click.option("--search", default="", help="Only documents with these words in text, reason or source.")
@click.option("--limit", default=0, help="So many at most; 0 for all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@OUT_OPTION
def inspect(dropped: bool, kept: bool, as_json: bool, out: Path, **chosen: Any) -> None:
    """Browse documents that were kept and dropped, with the reason for each.

    On a terminal one at a time (n next, p previous, q leaves), else as a list.
    """
    from preceptor.recipes.inspect import Selection, browse

    verdict: Literal["", "kept", "dropped"] = "" if kept == dropped else "kept" if kept else "dropped"
    browse(_newest_corpus(out), Selection(verdict=verdict, **chosen), as_json=as_json)


@data.command()
@click.argument("query")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@OUT_OPTION
def trace(query: str, as_json: bool, out: Path) -> None:
    """Say what became of a document, and which tokens, steps, models and adapters saw it.

    QUERY is an id or its start, a source, a file, a URL, the id the record states, the text, or a piece of it.
    """
    from preceptor.recipes.trace import as_text
    from preceptor.recipes.trace import trace as find

    traced = find(out, query)
    click.echo(json.dumps(traced, indent=2) if as_json else as_text(traced))


@data.command()
@click.argument("queries", nargs=-1)
@click.option("--why", default="", help="The reason, for the record.")
@click.option("--only", is_flag=True, help="Leave its duplicates, which would come back in its place.")
@click.option("--delete", is_flag=True, help="Remove what descends from it from the disk.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@OUT_OPTION
def forget(queries: tuple[str, ...], why: str, only: bool, delete: bool, as_json: bool, out: Path) -> None:
    """Withdraw documents: what descends from them is refused from now on, until `preceptor run` makes it anew."""
    from preceptor.recipes.forget import as_text
    from preceptor.recipes.forget import forget as withdraw

    done = withdraw(out, queries, why=why, duplicates=not only, delete=delete)
    click.echo(json.dumps(done, indent=2) if as_json else as_text(done, out))
