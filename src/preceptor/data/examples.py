"""Questions with answers: read from a file, and split so that nothing asked in training is asked in the evaluation."""

import codecs
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.core.files import require_file
from preceptor.core.seeds import derive
from preceptor.core.units import human_bytes
from preceptor.data.document import is_encodable
from preceptor.data.record_files import STRICT_JSON
from preceptor.data.source_config import ReadLimits

_SHAPES = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
_FRONT_BYTES = 4096
_MAX_LIST_BYTES = 256 << 20
"""A list of JSON can only be read whole, so that its length is bounded; lines are not."""
_WANTED = " or ".join(" and ".join(pair) for pair in _SHAPES)


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its answer, and the group that must stay on one side of a split."""

    question: str
    answer: str
    group: str
    kind: str = ""


def split_examples(
    examples: Iterable[Example], seed: int, held_out_fraction: float
) -> tuple[list[Example], list[Example]]:
    """The examples to train on and those held out; a group is wholly on one side, decided by its name and the seed."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        is_held_out = derive(seed, "held-out", example.group) < held_out_fraction * (1 << 63)
        sides[is_held_out].append(example)
    return sides


def read_examples(path: Path, max_record_bytes: int = ReadLimits().max_record_bytes) -> list[Example]:
    """The examples of a JSON or JSONL file, whose keys are one of three pairs that the field uses.

    Raises:
        DataError: the file cannot be read, or a record is not such a pair or too long; names the file and the record.
        EmptyDataError: there is no example.
    """
    try:
        require_file(path)
        with path.open("rb") as stream:
            examples = [_Record(path, *each).example() for each in _records(path, stream, max_record_bytes)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot be read: {reason}", file=path, remedy="name a file of JSON lines with the keys question and answer"
        ) from error
    if not examples:
        raise EmptyDataError("holds no example", file=path, remedy="add records with the keys question and answer")
    return examples


def _records(path: Path, stream: BinaryIO, limit: int) -> Iterator[tuple[int | None, int | None, object]]:
    """Line number, or number in the list, and the record of each example."""
    is_list = stream.read(_FRONT_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    stream.seek(0)
    if is_list:
        # A text that starts so can only be parsed to a list.
        text = _text(path, stream.read(_MAX_LIST_BYTES + 1), 1, _MAX_LIST_BYTES)
        records = cast(list[object], _parsed(path, text, None))
        yield from ((None, number, record) for number, record in enumerate(records, 1))
        return
    for number in itertools.count(1):
        line = stream.readline(limit + 1)
        if not line:
            return
        if text := _text(path, line, number, limit).strip():
            yield number, None, _parsed(path, text, number)


def _text(path: Path, raw: bytes, line: int, limit: int) -> str:
    """The text of a line, or of a file that begins at line 1."""
    if len(raw) > limit:
        message = f"longer than {human_bytes(limit)}"
        raise DataError(
            message, file=path, line=line, remedy="write one JSON object on each line; mend or remove this one"
        )
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        place = error.start - raw.rfind(b"\n", 0, error.start) - 1
        message = f"byte {raw[error.start]:#04x} at {place} of the line is not UTF-8"
        raise DataError(message, file=path, line=line, remedy="convert the file to UTF-8") from error


def _parsed(path: Path, text: str, line: int | None) -> object:
    try:
        return STRICT_JSON.decode(text)
    except (ValueError, RecursionError) as error:
        line = line if line is not None else getattr(error, "lineno", None)
        remedy = "write one JSON object on each line, or one list of them; mend or remove this record"
        raise DataError(f"broken JSON: {error}", file=path, line=line, remedy=remedy) from error


@dataclass(frozen=True, slots=True)
class _Record:
    """A record of a file of examples, and where it stands."""

    path: Path
    line: int | None
    number: int | None
    content: object

    def example(self) -> Example:
        if not isinstance(self.content, Mapping):
            raise self._error(f"expected an object with the keys {_WANTED}; found {type(self.content).__name__}")
        record = self.content
        for question, answer in _SHAPES:
            if question in record and answer in record:
                asked, said = self._text(question), self._text(answer)
                if isinstance(more := record.get("input"), str) and more.strip():
                    asked = f"{asked}\n{self._encodable(more)}"
                group = record.get("group")
                return Example(asked, said, asked if group is None else self._encodable(str(group)))
        found = ", ".join(map(str, record)) or "none"
        raise self._error(f"expected an object with the keys {_WANTED}; found the keys {found}")

    def _text(self, key: str) -> str:
        value = self.content[key] if isinstance(self.content, Mapping) else None
        if not isinstance(value, str) or not value.strip():
            raise self._error(f"{key} must be text that is not empty")
        return self._encodable(value)

    def _encodable(self, value: str) -> str:
        if not is_encodable(value):
            raise self._error("half of a surrogate pair, which is no text")
        return value

    def _error(self, message: str) -> DataError:
        front = f"record {self.number}: " if self.number is not None else ""
        return DataError(front + message, file=self.path, line=self.line, remedy="mend, rename or remove it")
