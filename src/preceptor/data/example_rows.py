"""The rows of a file, one at a time: JSON, CSV, TSV, Parquet, SQuAD, and CoNLL's columns of words."""

import codecs
import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow
import pyarrow.parquet

from preceptor.core.units import human_bytes
from preceptor.data.compression import open_file, stem_and_compression
from preceptor.data.document import is_encodable
from preceptor.data.record_files import STRICT_JSON, CsvLines, RefusedError, batch_rows, json_values, skip_line
from preceptor.data.records import Flaw, FlawError
from preceptor.data.source_config import ReadLimits

FORMATS = "JSON, JSON lines, CSV, TSV, Parquet or CoNLL"
_FRONT_BYTES = 4096
_MAX_WHOLE_BYTES = 256 << 20
"""An object with a list inside can only be read whole, so that its length is bounded; a list or lines are not."""
_LINES = {".jsonl", ".ndjson", ".jsonlines"}
_COLUMNS_OF_WORDS = {".conll", ".conllu", ".bio", ".iob", ".iob2", ".txt"}
_OWN_LISTS = {"messages", "conversations", "chosen", "rejected", "prompt", "completion", "answers", "paragraphs"}
"""Lists of objects that belong to one example, and are no list of examples."""
_CONLLU_FIELDS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its columns, or why there is none."""

    place: str
    """Where in the file it stands: "line 17"."""
    columns: object = None
    flaw: str = ""
    line: int | None = None


def read_rows(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """The rows of a file, whose format is told by its name and its first bytes.

    Raises:
        FlawError: the file as a whole, or the rest of it, cannot be read.
        OSError: it cannot be opened.
    """
    for row in _read(path, limits):
        if isinstance(row.columns, Mapping) and isinstance(row.columns.get("paragraphs"), list):
            yield from _questions(row.place, row.columns)
        else:
            yield row


def _read(path: Path, limits: ReadLimits) -> Iterator[Row]:
    suffix = Path(stem_and_compression(path.name)[0]).suffix.lower()
    with open_file(path, limits) as stream:
        raw = stream.read(_FRONT_BYTES)
    front = raw.removeprefix(codecs.BOM_UTF8).lstrip()
    if raw.startswith(b"PAR1") or suffix == ".parquet":
        yield from _parquet(path, limits)
        return
    is_json = front.startswith((b"{", b"["))
    quotes_are_text = False
    if suffix == ".tsv":
        with open_file(path, limits) as stream:
            quotes_are_text = _quotes_are_text(stream)
    with open_file(path, limits) as stream:
        if suffix in (".csv", ".tsv") and not (suffix == ".tsv" and _has_sentences(front)):
            yield from _csv(stream, "\t" if suffix == ".tsv" else ",", limits, quotes_are_text=quotes_are_text)
        elif suffix == ".tsv" or (suffix in _COLUMNS_OF_WORDS and not (suffix == ".txt" and is_json)):
            yield from _conll(stream, limits)
        elif front.startswith(b"["):
            yield from _list(stream, limits)
        elif suffix in _LINES or not front:
            yield from _lines(stream, limits)
        elif suffix == ".json" or is_json:
            yield from _objects(stream, limits)
        else:
            raise FlawError(Flaw("unreadable", f"its name and its first bytes are not those of {FORMATS}"))


def _has_sentences(front: bytes) -> bool:
    """Whether lines of several columns stand in groups with empty lines between."""
    lines = front.replace(b"\r", b"").split(b"\n")[:-1]
    widths = Counter(len(line.split(b"\t")) for line in lines if line.strip())
    return b"" in lines[:-1] and widths.most_common(1)[0][0] > 1


def _lines(stream: IO[bytes], limits: ReadLimits) -> Iterator[Row]:
    for number in itertools.count(1):
        line = stream.readline(limits.max_record_bytes + 1)
        if not line:
            return
        place = f"line {number}"
        if len(line) > limits.max_record_bytes:
            skip_line(stream, line, limits)
            yield Row(place, flaw=f"longer than {human_bytes(limits.max_record_bytes)}", line=number)
        elif line.strip():
            yield _parsed(line, place, number)


def _parsed(line: bytes, place: str, number: int) -> Row:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        return Row(place, STRICT_JSON.decode(text), line=number) if text else Row(place, flaw="empty", line=number)
    except UnicodeDecodeError as error:
        flaw = f"byte {line[error.start]:#04x} at {error.start} of the line is not UTF-8"
    except (ValueError, RecursionError) as error:
        flaw = f"broken JSON: {error}"
    return Row(place, flaw=flaw, line=number)


def _list(stream: IO[bytes], limits: ReadLimits) -> Iterator[Row]:
    number = 0
    try:
        for number, found in enumerate(json_values(stream, limits, refuses_more=True), 1):
            refused = f"broken JSON: {found}" if isinstance(found, RefusedError) else ""
            yield Row(f"record {number}", None if refused else found, refused)
    except FlawError as error:
        message = f"{error.flaw.message}; it stands after record {number}"
        raise FlawError(Flaw(error.flaw.rule, message)) from error


def _objects(stream: IO[bytes], limits: ReadLimits) -> Iterator[Row]:
    """The rows of a file that begins with an object: lines of them, or one with a list of the rows inside."""
    whole = stream.read(_MAX_WHOLE_BYTES + 1)
    first, _, rest = whole.partition(b"\n")
    content, is_line = _whole(first), True
    # What is broken in one of many lines is told of that line, not of the file.
    if content is None and (len(whole) > _MAX_WHOLE_BYTES or not rest.lstrip(b"\r\n").startswith(b"{")):
        content, rest, is_line = _whole(whole), b"", False
        if content is None:
            raise FlawError(_broken(whole))
    if isinstance(content, dict) and not rest.strip() and len(whole) <= _MAX_WHOLE_BYTES:
        inside = _list_inside(content)
        if inside is None:
            yield Row("line 1", content, line=1) if is_line else Row("record 1", content)
        for number, found in enumerate(inside or (), 1):
            yield Row(f"record {number}", found)
        return
    stream.seek(0)
    yield from _lines(stream, limits)


def _whole(raw: bytes) -> object:
    """The value that these bytes are, or None."""
    try:
        return STRICT_JSON.decode(raw.decode("utf-8-sig").strip())
    except (ValueError, RecursionError):
        return None


def _broken(raw: bytes) -> Flaw:
    if len(raw) > _MAX_WHOLE_BYTES:
        return Flaw("record-too-long", f"one object of more than {human_bytes(_MAX_WHOLE_BYTES)}, or broken JSON")
    try:
        STRICT_JSON.decode(raw.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        return Flaw("invalid-utf8", f"byte {raw[error.start]:#04x} is not UTF-8", raw.count(b"\n", 0, error.start) + 1)
    except json.JSONDecodeError as error:
        return Flaw("broken-json", f"broken JSON: {error}", error.lineno)
    except (ValueError, RecursionError) as error:
        return Flaw("broken-json", f"broken JSON: {error}")
    raise AssertionError("it is broken")


def _list_inside(found: Mapping[str, object]) -> list[object] | None:
    """The one list of objects that an object has, such as its "data"."""
    lists = [
        value
        for name, value in found.items()
        if name not in _OWN_LISTS and isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    return lists[0] if len(lists) == 1 else None


def _questions(place: str, article: Mapping[str, object]) -> Iterator[Row]:
    """The questions of an article in the form of SQuAD, each with the text it is asked of."""
    paragraphs = article["paragraphs"]
    for number, paragraph in enumerate(paragraphs if isinstance(paragraphs, list) else (), 1):
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            yield Row(f"{place}, paragraph {number}", flaw="there is no list qas")
            continue
        for asked, question in enumerate(questions, 1):
            here = f"{place}, paragraph {number}, question {asked}"
            if isinstance(question, dict):
                yield Row(here, {"context": paragraph.get("context"), **question})
            else:
                yield Row(here, flaw="is no object")


def _quotes_are_text(stream: IO[bytes]) -> bool:
    """Whether quotes in a table of tabs hold no field together: each line is a row, and some quote is never closed."""
    num_tabs, is_unclosed = -1, False
    for line in stream:
        line = line.rstrip(b"\r\n")
        if not line:
            continue
        num_tabs = line.count(b"\t") if num_tabs < 0 else num_tabs
        if line.count(b"\t") != num_tabs:
            return False
        is_unclosed = is_unclosed or (b'"' in line and any(map(_is_unclosed, line.split(b"\t"))))
    return is_unclosed


def _is_unclosed(field: bytes) -> bool:
    """Whether a field begins with a quote and does not end with the one that closes it."""
    if not field.startswith(b'"'):
        return False
    return len(field) < 2 or not field.endswith(b'"') or b'"' in field[1:-1].replace(b'""', b"")


def _csv(stream: IO[bytes], delimiter: str, limits: ReadLimits, *, quotes_are_text: bool = False) -> Iterator[Row]:
    quoting: Literal[0, 3] = csv.QUOTE_NONE if quotes_are_text else csv.QUOTE_MINIMAL
    # This limit belongs to the process; each file sets it anew, since the reader knows no other way.
    csv.field_size_limit(limits.max_record_bytes)
    lines = CsvLines(stream, limits)
    try:
        head = next(lines, "")
        # A sheet saved where the comma is a decimal point has semicolons.
        delimiters = [delimiter, *(other for other in ",;\t" if other != delimiter)]
        headers = {one: next(csv.reader([head], delimiter=one, quoting=quoting, strict=True), []) for one in delimiters}
    except csv.Error as error:
        raise FlawError(Flaw("broken-csv", f"broken CSV: {error}", 1)) from error
    delimiter = max(delimiters, key=lambda one: len(headers[one]))
    names = headers[delimiter]
    if not all(map(is_encodable, names)):
        raise FlawError(Flaw("invalid-utf8", "the names of the columns are not UTF-8", 1))
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise FlawError(Flaw("broken-csv", f"the first row names {twice[0]!r} twice", 1))
    while True:
        rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        number = lines.number + 1
        try:
            for values in rows:
                if values:
                    yield _csv_row(names, values, number)
                number = lines.number + 1
        except csv.Error as error:
            yield Row(f"line {number}", flaw=f"broken CSV: {error}", line=number)
            continue
        return


def _csv_row(names: list[str], values: list[str], number: int) -> Row:
    flaw = ""
    if len(values) != len(names):
        flaw = f"broken CSV: {len(values)} fields where the first row names {len(names)}"
    elif not all(map(is_encodable, values)):
        flaw = "broken CSV: not UTF-8"
    # Tables are often saved with the numbers of their rows, in a column without a name.
    columns = {} if flaw else {name: value for name, value in zip(names, values, strict=True) if name}
    return Row(f"line {number}", columns or None, flaw, number)


def _parquet(path: Path, limits: ReadLimits) -> Iterator[Row]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as table:
            classes = _class_names(table.schema_arrow.metadata or {})
            for group in range(table.num_row_groups):
                metadata = table.metadata.row_group(group)
                flaw, num_rows = batch_rows(metadata, set(table.schema_arrow.names), limits)
                if flaw is not None:
                    raise FlawError(flaw)
                for batch in table.iter_batches(num_rows, row_groups=[group]):
                    for columns in _columns_of(batch):
                        number += 1
                        yield _parquet_row(columns, classes, number)
    except (pyarrow.ArrowException, ValueError, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the rights to the file, not what it holds
        raise FlawError(Flaw("broken-parquet", f"broken Parquet after row {number}: {error}")) from error


def _columns_of(batch: pyarrow.RecordBatch) -> list[dict[str, Any] | None]:
    """The columns of each row, or None for one that is not UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for place in range(batch.num_rows) for row in _columns_of(batch.slice(place, 1))]


def _parquet_row(columns: dict[str, Any] | None, classes: Mapping[str, list[str]], number: int) -> Row:
    if columns is None:
        return Row(f"row {number}", flaw="not UTF-8")
    for name, names in classes.items():
        if name in columns:
            columns[name] = _named(columns[name], names)
    return Row(f"row {number}", columns)


def _named(value: object, names: list[str]) -> object:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """For each column of classes their names, where the library datasets has written them into the file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: found for name, feature in features.items() if (found := _names_of(feature))}
    except (KeyError, ValueError, TypeError, AttributeError):
        # The classes are then the numbers that stand in the column.
        return {}


def _names_of(feature: Any) -> list[str]:
    inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
    names = inner.get("names") if isinstance(inner, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _conll(stream: IO[bytes], limits: ReadLimits) -> Iterator[Row]:
    """A row for each sentence, with its words in "tokens", the last column in "tags", and all columns by number."""
    sentence: list[list[str]] = []
    first, num_bytes, flaw = 0, 0, ""
    for number in itertools.count(1):
        line = stream.readline(limits.max_record_bytes + 1)
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").strip("\r\n")
        fields = text.split("\t") if "\t" in text else text.split()
        if text.strip():
            is_comment = text.startswith("# ") and not sentence
            if is_comment or fields[0] == "-DOCSTART-":
                continue
            first, num_bytes = first or number, num_bytes + len(line)
            flaw = flaw or _word_flaw(fields, sentence, number, text, is_too_long=num_bytes > limits.max_record_bytes)
            if not flaw:
                sentence.append(fields)
            if not line.endswith(b"\n"):
                skip_line(stream, line, limits)
            continue
        if first:
            yield Row(f"line {first}", None if flaw else _sentence(sentence), flaw, first)
        sentence, first, num_bytes, flaw = [], 0, 0, ""
        if not line:
            return


def _word_flaw(fields: list[str], sentence: list[list[str]], number: int, text: str, *, is_too_long: bool) -> str:
    if is_too_long:
        return f"a sentence without an end; line {number} is too far from its beginning"
    if not is_encodable(text):
        return f"line {number} is not UTF-8"
    if len(fields) < 2:
        return f"line {number} has one column, where a word and its tag should be"
    if sentence and len(fields) != len(sentence[0]):
        return f"line {number} has {len(fields)} columns, and the first of the sentence {len(sentence[0])}"
    return ""


def _sentence(rows: list[list[str]]) -> dict[str, object]:
    is_conllu = len(rows[0]) == _CONLLU_FIELDS and rows[0][0].partition("-")[0].isdecimal()
    # Words that stand for several, and words that are only thought, are numbered 1-2 and 1.1.
    rows = [row for row in rows if row[0].isdecimal()] if is_conllu else rows
    columns = {str(place): [row[place - 1] for row in rows] for place in range(1, len(rows[0]) + 1)} if rows else {}
    word, tag = ("2", "4") if is_conllu else ("1", str(len(columns)))
    return {"tokens": columns.get(word, []), "tags": columns.get(tag, []), **columns}
