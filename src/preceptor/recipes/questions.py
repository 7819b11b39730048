"""Texts that a fine-tuned model is asked about: from the command line, or from a file with the columns of training."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from preceptor.core.errors import DataError
from preceptor.core.files import require_file
from preceptor.data.example_fields import Fields, UnfitError
from preceptor.data.example_rows import read_rows
from preceptor.data.example_shapes import SHAPES
from preceptor.data.example_types import Message, Task
from preceptor.data.records import REMEDIES, FlawError
from preceptor.data.source_config import ReadLimits

_TABLES = (".json", ".jsonl", ".ndjson", ".jsonlines", ".csv", ".tsv", ".parquet")
_WHOLE = ("messages", "conversations", "translation")
"""Columns that hold what is asked together with the answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A text that a model is asked about, and what belongs to it."""

    text: str
    second: str | None = None
    """The other side of a pair."""
    question: str = ""
    """What is to be found in the text."""
    words: tuple[str, ...] = ()
    """The text as words, where it comes so."""
    messages: tuple[Message, ...] = ()
    """The conversation so far, where there is more than the text."""


def read_questions(path: Path, task: Task, columns: Mapping[str, str], question: str = "") -> Iterator[Asked]:
    """The texts of a file: the rows of a table, without labels, or the lines of a text that are not empty.

    ``columns`` maps our names of columns to those of the file; ``question`` is asked of texts that come without one.

    Raises:
        DataError: the file, or a row of it, cannot be read or lacks a column; names the place.
    """
    names = path.suffixes[-2:]
    try:
        require_file(path)
        if not any(suffix.lower() in _TABLES for suffix in names):
            with path.open(encoding="utf-8") as stream:
                yield from read_lines(stream, question)
            return
        for row in read_rows(path, ReadLimits()):
            if row.flaw or not isinstance(row.columns, Mapping):
                raise UnfitError(f"{row.place}: {row.flaw or 'no object with columns'}")
            held = {str(name): value for name, value in row.columns.items()}
            mapped = {ours: held[theirs] for ours, theirs in columns.items() if theirs in held}
            try:
                yield _asked(Fields(held | mapped, row.place), task, question)
            except UnfitError as error:
                raise UnfitError(f"{row.place}: {error}") from error
    except UnfitError as error:
        raise DataError(
            str(error), file=path, remedy="give every row the columns of training; labels may lack"
        ) from error
    except FlawError as error:
        remedy = REMEDIES.get(error.flaw.rule, "write the file again")
        raise DataError(error.flaw.message, file=path, line=error.flaw.line, remedy=remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy="name a file of UTF-8 text or a table") from error


def read_lines(stream: Iterable[str], question: str = "") -> Iterator[Asked]:
    """Each line that is not empty as a text."""
    for line in stream:
        if text := line.strip():
            yield Asked(text, question=question)


def _asked(row: Fields, task: Task, question: str) -> Asked:
    """What a row asks: the columns of one of the task's shapes but its last, which is the label."""
    if task == "tag" and (name := next((name for name in ("tokens", "words") if name in row), "")):
        words = tuple(row.words(name))
        return Asked(" ".join(words), words=words)
    for shape in SHAPES:
        if task not in shape.tasks:
            continue
        if shape.columns[0][0] in _WHOLE:
            name = shape.columns[0][0]
            if name not in row:
                continue
            return _of_whole(row, name)
        if task == "prefer":
            continue
        wanted = [next((name for name in names if name in row), "") for names in shape.columns[:-1]]
        if all(wanted):
            return _of_columns(row, task, wanted)
    if task == "prefer" and (name := next((n for n in ("prompt", "question", "instruction") if n in row), "")):
        return _talk(row.messages(name))
    if "text" in row or "context" in row:
        return Asked(row.text("text" if "text" in row else "context"), question=question)
    raise UnfitError(f"found the columns {', '.join(row.names[:30]) or 'none'}, none of which the task {task} reads")


def _of_columns(row: Fields, task: Task, names: list[str]) -> Asked:
    if task == "answer":
        return Asked(row.text(names[1]), question=row.text(names[0]))
    if task == "instruct":
        asked = row.text(names[0])
        more, system = row.optional("input") or row.optional("context"), row.optional("system")
        front = [Message("system", system)] if system else []
        return _talk([*front, Message("user", f"{asked}\n{more}" if more else asked)])
    return Asked(row.text(names[0]), second=row.text(names[1]) if len(names) > 1 else None)


def _of_whole(row: Fields, name: str) -> Asked:
    if name == "translation":
        value = row.parsed(name)
        source = next(iter(value.values()), None) if isinstance(value, Mapping) else None
        if not isinstance(source, str):
            raise UnfitError("translation does not hold a text")
        return Asked(source)
    return _talk(row.messages(name))


def _talk(messages: list[Message]) -> Asked:
    """The conversation up to what was asked last."""
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages:
        raise UnfitError("nothing is asked")
    return Asked(messages[-1].content, messages=tuple(messages))
