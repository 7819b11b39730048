"""Files of many records: JSONL, JSON, CSV and Parquet. What is wrong with one record takes no other with it."""

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from preceptor.core.units import human_bytes
from preceptor.data.compression import open_file
from preceptor.data.document import is_encodable
from preceptor.data.records import LICENCE_FIELDS, METADATA, Flaw, FlawError, Record
from preceptor.data.source_config import Piece, ReadLimits, SourceConfig

_BATCH_ROWS = 64
_BATCH_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20


def wanted_fields(config: SourceConfig) -> set[str]:
    """The fields of a record that a document is made from."""
    return {config.text_field, config.id_field, *METADATA, *LICENCE_FIELDS}


def record_from(
    found: object, config: SourceConfig, limits: ReadLimits, number: int, *, is_row: bool = False
) -> Record | Flaw:
    """The record that an object of JSON or a row is, or what is wrong with it."""
    front = f"row {number}: " if is_row else ""
    line, row = (None, number) if is_row else (number, None)
    if not isinstance(found, dict):
        return Flaw("no-text-field", f"{front}not an object with a field {config.text_field!r}", line, row)
    text = found.get(config.text_field)
    if not isinstance(text, str):
        return Flaw("no-text-field", front + missing_field(config, list(found)), line, row)
    if len(text) > limits.max_record_bytes:
        return Flaw("record-too-long", f"{front}longer than {human_bytes(limits.max_record_bytes)}", line, row)
    if not (text.isascii() or is_encodable(text)):
        return Flaw("invalid-utf8", f"{front}half of a surrogate pair in the text", line, row)
    if config.id_field != "id" and config.id_field in found:
        found = found | {"id": found[config.id_field]}
    return Record(text, found, number)


def missing_field(config: SourceConfig, names: Sequence[object]) -> str:
    """What is said where the field of the text is not there."""
    found = ", ".join(str(name)[:100] for name in names[:20]) or "none"
    return f"no text in the field {config.text_field!r}; the fields are {found}"


class RefusedError(ValueError):
    """What other readers take for JSON, each in its own way."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; one in which a name stands twice says two things, and no reader knows which is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError(f"the name {twice[:100]!r} stands twice in one object")
    return found


def _no_number(name: str) -> object:
    raise RefusedError(f"{name} is not JSON")


_LENIENT = json.JSONDecoder()
STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
"""Reads JSON as its definition has it, and refuses what readers disagree on."""


def read_jsonl(piece: Piece, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    """The records of a piece of a JSONL file, one a line; empty lines count as lines and are passed over."""
    number = piece.first - 1
    with open_file(Path(piece.path), limits) as stream:
        left = -1
        if piece.start or piece.stop:
            stream.seek(piece.start)
            left = piece.stop - piece.start
        try:
            while left and (line := stream.readline(limits.max_record_bytes + 1)):
                number += 1
                left -= len(line) if left > 0 else 0
                if len(line) > limits.max_record_bytes:
                    skipped = skip_line(stream, line, limits)
                    left -= skipped if left > 0 else 0
                    yield Flaw("record-too-long", f"longer than {human_bytes(limits.max_record_bytes)}", number)
                elif not line.isspace():
                    yield _from_line(line, number, config, limits)
        except FlawError as error:
            yield Flaw(error.flaw.rule, error.flaw.message, number + 1)
        if left > 0:
            yield Flaw("changed", f"cut short by {human_bytes(left)} since the reading of the sources began", number)


def skip_line(stream: IO[bytes], line: bytes, limits: ReadLimits) -> int:
    """The number of bytes to the end of a line whose first part was read, which are passed over."""
    num_bytes = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(min(limits.max_record_bytes, _BLOCK_BYTES))
        num_bytes += len(line)
    return num_bytes


def _from_line(line: bytes, number: int, config: SourceConfig, limits: ReadLimits) -> Record | Flaw:
    try:
        found = STRICT_JSON.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        message = f"byte {line[error.start]:#04x} at {error.start} of the line is not UTF-8"
        return Flaw("invalid-utf8", message, number)
    except (ValueError, RecursionError) as error:
        return Flaw("broken-json", f"broken JSON: {error}", number)
    return record_from(found, config, limits, number)


def read_json(piece: Piece, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    """The records of a JSON file: one object, a list of them, or one after the other; read as a stream."""
    number = 0
    with open_file(Path(piece.path), limits) as stream:
        try:
            for number, found in enumerate(json_values(stream, limits), start=1):
                if isinstance(found, RefusedError):
                    yield Flaw("broken-json", f"row {number}: broken JSON: {found}", row=number)
                else:
                    yield record_from(found, config, limits, number, is_row=True)
        except FlawError as error:
            yield Flaw(error.flaw.rule, f"after record {number}: {error.flaw.message}", row=number + 1)


def json_values(stream: IO[bytes], limits: ReadLimits, *, refuses_more: bool = False) -> Iterator[object]:
    """The members of a list, or the values that stand one after the other; for one that is refused, the reason.

    Raises:
        FlawError: what follows is no JSON, or one value is too long; where asked for, that anything follows a list.
    """
    text = _Text(stream)
    place = _after_space(text, 0)
    is_list = text.buffer[place : place + 1] == "["
    place += is_list
    while (place := _after_space(text, place)) < len(text.buffer):
        if is_list and text.buffer[place] == "]":
            if refuses_more and _after_space(text, place + 1) < len(text.buffer):
                raise FlawError(Flaw("broken-json", "broken JSON: something stands behind the end of the list"))
            return
        if is_list and text.buffer[place] == ",":
            place += 1
            continue
        found: object
        try:
            found, place = _decode(text.buffer, place)
        except (ValueError, RecursionError) as error:
            # A value may merely go on behind the end of what was read. Reading twice as much each time keeps the
            # work linear.
            text.drop(place)
            place = 0
            if text.has_ended:
                raise FlawError(Flaw("broken-json", f"broken JSON: {error}")) from error
            if len(text.buffer) > limits.max_record_bytes:
                message = f"broken JSON, or one value of more than {human_bytes(limits.max_record_bytes)}"
                raise FlawError(Flaw("record-too-long", message)) from error
            text.more(max(_BLOCK_BYTES, len(text.buffer)))
            continue
        yield found
    if is_list:
        raise FlawError(Flaw("broken-json", "broken JSON: the list has no end"))


def _decode(text: str, place: int) -> tuple[object, int]:
    """The value that starts at a place, or why it is refused, and where it ends."""
    try:
        return STRICT_JSON.raw_decode(text, place)
    except RefusedError as error:
        return error, _LENIENT.raw_decode(text, place)[1]


class _Text:
    """A window on the text of a stream."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.buffer = ""
        self.has_ended = False

    def more(self, num_bytes: int) -> None:
        raw = self._stream.read(num_bytes)
        self.has_ended = not raw
        try:
            self.buffer += self._decode(raw, final=self.has_ended)
        except UnicodeDecodeError as error:
            raise FlawError(Flaw("invalid-utf8", f"byte {error.object[error.start]:#04x} is not UTF-8")) from error

    def drop(self, num_characters: int) -> None:
        self.buffer = self.buffer[num_characters:]


def _after_space(text: _Text, place: int) -> int:
    """The place of the next character that is no white space, or the end; reads on where it must."""
    while True:
        while place < len(text.buffer) and text.buffer[place] in " \t\r\n":
            place += 1
        if place < len(text.buffer) or text.has_ended:
            return place
        text.drop(place)
        place = 0
        text.more(_BLOCK_BYTES)


class CsvLines:
    """The lines of a stream for the reader of CSV; bytes that are no UTF-8 become halves of surrogate pairs."""

    def __init__(self, stream: IO[bytes], limits: ReadLimits) -> None:
        self._stream = stream
        self._limits = limits
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._limits.max_record_bytes + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self._limits.max_record_bytes:
            skip_line(self._stream, line, self._limits)
            raise csv.Error(f"longer than {human_bytes(self._limits.max_record_bytes)}")
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")


def read_csv(piece: Piece, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    """The records of a file of comma- or tab-separated values, whose first row names the fields."""
    # This limit belongs to the process; each file sets it anew, since the reader knows no other way.
    csv.field_size_limit(limits.max_record_bytes)
    with open_file(Path(piece.path), limits) as stream:
        lines = CsvLines(stream, limits)
        try:
            yield from _csv_rows(lines, "\t" if piece.format == "tsv" else ",", config, limits)
        except FlawError as error:
            yield Flaw(error.flaw.rule, error.flaw.message, lines.number + 1)


def _csv_rows(lines: CsvLines, delimiter: str, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    try:
        head = next(lines, "")
        # A sheet saved where the comma is a decimal point has semicolons.
        delimiters = [delimiter, *(other for other in ",;\t" if other != delimiter)]
        headers = [next(csv.reader([head], delimiter=one), []) for one in delimiters]
    except csv.Error as error:
        yield Flaw("broken-csv", f"broken CSV: {error}", 1)
        return
    place = next((n for n, names in enumerate(headers) if config.text_field in names), None)
    if place is None:
        yield Flaw("no-text-field", missing_field(config, headers[0]), 1)
        return
    if headers[place].count(config.text_field) > 1:
        yield Flaw("broken-csv", f"the first row names {config.text_field!r} twice", 1)
        return
    names, rows = headers[place], csv.reader(lines, delimiter=delimiters[place], strict=True)
    while True:
        first = lines.number + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            rule = "record-too-long" if "longer than" in str(error) or "field larger" in str(error) else "broken-csv"
            yield Flaw(rule, f"broken CSV: {error}", first)
            rows = csv.reader(lines, delimiter=delimiters[place], strict=True)
            continue
        if row is None:
            return
        if row and len(row) != len(names):
            yield Flaw("broken-csv", f"{len(row)} fields where the first row names {len(names)}", first)
        elif row:
            found = record_from(dict(zip(names, row, strict=True)), config, limits, first)
            is_bytes = isinstance(found, Flaw) and found.rule == "invalid-utf8"
            yield Flaw("invalid-utf8", "the text is not UTF-8", first) if is_bytes else found


def read_parquet(piece: Piece, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    """The rows of some row groups of a Parquet file."""
    number = piece.first - 1
    try:
        # Read through a small buffer: a row group can be larger than memory.
        with pyarrow.parquet.ParquetFile(piece.path, buffer_size=_BLOCK_BYTES, pre_buffer=False) as table:
            names = table.schema_arrow.names
            if config.text_field not in names:
                yield Flaw("no-text-field", missing_field(config, names))
                return
            wanted = [name for name in names if name in wanted_fields(config)]
            for group in range(piece.start, piece.stop or table.num_row_groups):
                flaw, num_rows = batch_rows(table.metadata.row_group(group), set(wanted), limits)
                if flaw is not None:
                    yield flaw
                    number += table.metadata.row_group(group).num_rows
                    continue
                for batch in table.iter_batches(num_rows, row_groups=[group], columns=wanted):
                    yield from _rows(batch, number, config, limits)
                    number += batch.num_rows
    except (pyarrow.ArrowException, ValueError, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the rights to the file, not what it holds
        yield Flaw("broken-parquet", f"after row {number}: {error}", row=number + 1 if number else None)


def batch_rows(group: Any, wanted: set[str], limits: ReadLimits) -> tuple[Flaw | None, int]:
    """Why a row group is refused, if it is, and how many of its rows are read at once."""
    columns = [group.column(place) for place in range(group.num_columns)]
    columns = [column for column in columns if column.path_in_schema.split(".")[0] in wanted]
    unpacked = sum(column.total_uncompressed_size for column in columns)
    packed = max(1, sum(column.total_compressed_size for column in columns))
    if unpacked > limits.free_bytes and unpacked > packed * limits.max_expansion:
        message = f"{human_bytes(packed)} of it unpack to {human_bytes(unpacked)}, which only a bomb does"
        return Flaw("expands-too-far", message), 0
    return None, min(_BATCH_ROWS, max(1, _BATCH_BYTES * group.num_rows // max(1, unpacked)))


def _rows(batch: pyarrow.RecordBatch, number: int, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            try:
                row = batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield Flaw("invalid-utf8", f"row {number + place + 1} is not UTF-8", row=number + place + 1)
                continue
            yield record_from(row, config, limits, number + place + 1, is_row=True)
        return
    for place, row in enumerate(rows, start=1):
        yield record_from(row, config, limits, number + place, is_row=True)
