"""The command that asks a fine-tuned model about texts."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preceptor.cli.options import OUT_OPTION
from preceptor.core.errors import ConfigError

if TYPE_CHECKING:
    from preceptor.recipes.questions import Asked

_EPILOG = """\b
Examples
  preceptor predict "What a lovely film." --out runs/mine            a class, a number, tags or a text
  preceptor predict "A man sleeps." --second "Nobody is awake."      a pair of texts
  preceptor predict "The bridge was built in 1894." --question "When was it built?"
  preceptor predict --file reviews.csv --out runs/mine --json        a line of JSON for each row
  cat lines.txt | preceptor predict --file -                         a text on each line
"""
_SHOWN_CHARACTERS = 70


@click.command(epilog=_EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--file", "file", type=click.Path(path_type=Path, allow_dash=True), help="Texts of a file; - is stdin.")
@click.option("--second", help="The other side of a pair, for every TEXT.")
@click.option("--question", default="", help="What is asked of every TEXT, where the model finds answers.")
@click.option("--beams", type=click.IntRange(min=1), help="How many beginnings an encoder-decoder follows.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each text.")
@OUT_OPTION
def predict(
    texts: tuple[str, ...],
    file: Path | None,
    second: str | None,
    question: str,
    beams: int | None,
    as_json: bool,
    out: Path,
) -> None:
    """Say what the newest fine-tuned model of a run makes of each TEXT, in the terms of its task.

    A class comes with its probability; several may come where the model was taught so. An answer comes with the
    character at which it begins. FILE is a table (JSON, JSON lines, CSV, TSV, Parquet) with the columns of training,
    without labels, or a text whose lines are asked one by one; it is read bit by bit, so it may be larger than memory.
    A row that cannot be read ends the command; what stands before it has been answered by then.
    """
    from preceptor.recipes.predict import load_predictor

    if bool(texts) == (file is not None):
        raise ConfigError(
            "there is no text to ask about" if file is None else "TEXT and --file exclude each other",
            remedy='write `preceptor predict "a text"`, or name a file with --file',
        )
    if any(not text.strip() for text in texts):
        raise ConfigError("a TEXT is empty", remedy="write the text in quotes")
    predictor = load_predictor(out, beams)
    asked = _asked(texts, file, second, question, predictor.learned.task, out)
    for each, said in predictor.predict(asked):
        if as_json:
            click.echo(json.dumps({"text": each.text, **said}, ensure_ascii=False))
        else:
            click.echo(_line(said) if len(texts) == 1 else f"{_line(said)}\t{_short(each.text)}")
        sys.stdout.flush()


def _asked(
    texts: tuple[str, ...], file: Path | None, second: str | None, question: str, task: Any, out: Path
) -> Iterator["Asked"]:
    from preceptor.recipes.questions import Asked, read_lines, read_questions
    from preceptor.recipes.run import stored_run

    if file is None:
        for text in texts:
            yield Asked(text, second, question)
    elif str(file) == "-":
        yield from read_lines(sys.stdin, question)
    else:
        yield from read_questions(file, task, stored_run(out).finetuning.columns, question)


def _line(said: dict[str, Any]) -> str:
    """What is said of a text, for people."""
    if "label" in said:
        return f"{said['label']}  {100 * said['probability']:.1f} %"
    if "labels" in said:
        found = [f"{name}  {100 * said['probabilities'][name]:.1f} %" for name in said["labels"]]
        return ", ".join(found) or "none"
    if "number" in said:
        return f"{said['number']:.4g}"
    if "numbers" in said:
        return ", ".join(f"{name} {number:.4g}" for name, number in said["numbers"].items())
    if "tags" in said:
        return " ".join(f"{word}/{tag or '-'}" for word, tag in zip(said["words"], said["tags"], strict=True))
    if "answer" in said:
        return f"{said['answer']}  (from character {said['start']})" if said["answer"] else "no answer"
    return str(said["text"])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 3] + "..."
