"""Files to documents. What cannot be read is located and counted, or stops the run: never lost in silence."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.data import hub
from preceptor.data.archives import read_warc
from preceptor.data.books import read_epub, read_pdf
from preceptor.data.compression import stem_and_compression
from preceptor.data.document import Document, Rejected
from preceptor.data.document_maker import DocumentMaker
from preceptor.data.formats import format_of, known_endings, read_code, read_markdown, read_page, read_plain
from preceptor.data.record_files import read_csv, read_json, read_jsonl, read_parquet
from preceptor.data.records import REMEDIES, Flaw, FlawError, Record
from preceptor.data.source_config import Piece, ReadLimits, SourceConfig
from preceptor.data.walking import Found, find
from preceptor.data.web_page import Extractor, extractor_named

__all__ = ["Piece", "Reader", "SourceConfig", "inputs", "nothing_found", "plan"]

_BLOCK_BYTES = 1 << 20
_LEAVE_OUT = 'or set data.on_bad_input="reject" to leave such records out and count them'
# Formats whose files often have the ending of the other.
_ALIKE = {"json": ("jsonl",), "jsonl": ("json",), "markdown": ("text",), "rst": ("text",)}
_Records = Iterator[Record | Flaw]
_OF_RECORDS: dict[str, Callable[[Piece, SourceConfig, ReadLimits], _Records]] = {
    "csv": read_csv,
    "hub": hub.read,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "tsv": read_csv,
}
_OF_PAGES: dict[str, Callable[[Path, ReadLimits, Extractor], _Records]] = {"html": read_page, "warc": read_warc}
_OF_ONE: dict[str, Callable[[Path, ReadLimits], Iterator[Record]]] = {
    "code": read_code,
    "epub": read_epub,
    "markdown": read_markdown,
    "pdf": read_pdf,
    "rst": read_plain,
    "text": read_plain,
}


def plan(configs: Sequence[SourceConfig], *, piece_bytes: int) -> list[Piece]:
    """The pieces of all sources, in an order that depends on the sources alone.

    Raises:
        DataError: a path is missing.
        EmptyDataError: nothing in a source can be read; says what was found instead.
    """
    pieces = []
    for place, config in enumerate(configs):
        if config.kind == "files":
            pieces += _plan_files(place, config, piece_bytes)
        elif config.kind == "hub":
            pieces += hub.plan(place, config, piece_bytes)
        else:
            pieces.append(Piece(place, "", config.kind, config.kind))
    return pieces


def _plan_files(place: int, config: SourceConfig, piece_bytes: int) -> list[Piece]:
    pieces = []
    for found in _find(config):
        name = f"file:{found.name}"
        kind = format_of(found.path)
        problem = found.problem
        if config.format != "auto":
            if (
                problem is None
                and found.is_listed
                and kind not in (None, config.format, *_ALIKE.get(config.format, ()))
            ):
                problem = ("other-format", f"its name says {kind}")
            kind = config.format
        elif problem is None and kind is None:
            problem = ("unknown-format", f"not one of {known_endings()}")
        if problem is not None or kind is None:
            pieces.append(Piece(place, found.path, name, kind or "", problem=problem))
            continue
        whole = Piece(place, found.path, name, kind, bytes=found.num_bytes)
        try:
            pieces += _cut(whole, piece_bytes)
        except OSError:
            # Whoever reads the piece meets the same, and rejects it or stops the run.
            pieces.append(whole)
    if all(piece.problem for piece in pieces):
        raise nothing_found(config, Counter(piece.problem[0] for piece in pieces if piece.problem))
    return pieces


def _find(config: SourceConfig) -> Iterator[Found]:
    try:
        yield from find(config.path)
    except FileNotFoundError as error:
        remedy = "name a file or a folder in the path of data.sources"
        raise DataError("does not exist", file=Path(config.path).expanduser(), remedy=remedy) from error
    except ValueError as error:
        raise DataError(str(error), remedy="mend the pattern in the path of data.sources") from error


def nothing_found(config: SourceConfig, rejections: Mapping[str, int]) -> EmptyDataError:
    """The error that a source holds no document, with the rules by which its files and records were refused."""
    ordered = sorted(rejections.items(), key=lambda item: (-item[1], item[0]))
    instead = ", ".join(f"{number} {rule}" for rule, number in ordered) or "it is empty"
    return EmptyDataError(
        f"holds no document that can be read ({instead})",
        file=Path(config.path).expanduser() if config.path else config.label,
        remedy=f"put files there that end in {known_endings()}, or name another path in data.sources",
    )


def _cut(piece: Piece, piece_bytes: int) -> list[Piece]:
    """A file as one piece, or as several where it can be read from the middle."""
    if piece.bytes <= piece_bytes or stem_and_compression(piece.path)[1]:
        return [piece]
    if piece.format == "jsonl":
        return _cut_lines(piece, piece_bytes)
    return _cut_row_groups(piece, piece_bytes) if piece.format == "parquet" else [piece]


def _cut_lines(piece: Piece, piece_bytes: int) -> list[Piece]:
    """The pieces of a JSONL file; each ends with a line."""
    pieces: list[Piece] = []
    start, first, num_lines, position = 0, 1, 0, 0
    with Path(piece.path).open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            # The first end of a line at or behind the length that a piece should have.
            while end := block.find(b"\n", max(0, start + piece_bytes - position - 1)) + 1:
                num_lines += block.count(b"\n", max(0, start - position), end)
                pieces.append(_part(piece, start, position + end, first))
                start, first, num_lines = position + end, first + num_lines, 0
            num_lines += block.count(b"\n", max(0, start - position))
            position += len(block)
    if position > start:
        pieces.append(_part(piece, start, position, first))
    return pieces


def _cut_row_groups(piece: Piece, piece_bytes: int) -> list[Piece]:
    """The pieces of a Parquet file, of whole row groups; a broken file stays whole, for its reader to say so."""
    try:
        metadata = pyarrow.parquet.read_metadata(piece.path)
    except (pyarrow.ArrowException, ValueError):
        return [piece]
    pieces: list[Piece] = []
    start, first, num_rows, num_bytes = 0, 1, 0, 0
    for group in range(metadata.num_row_groups):
        num_rows += metadata.row_group(group).num_rows
        num_bytes += metadata.row_group(group).total_byte_size
        if num_bytes >= piece_bytes or group + 1 == metadata.num_row_groups:
            pieces.append(_part(piece, start, group + 1, first, num_bytes))
            start, first, num_rows, num_bytes = group + 1, first + num_rows, 0, 0
    return pieces or [piece]


def _part(piece: Piece, start: int, stop: int, first: int, num_bytes: int | None = None) -> Piece:
    size = stop - start if num_bytes is None else num_bytes
    return Piece(piece.source, piece.path, piece.name, piece.format, start, stop, first, size)


def inputs(configs: Sequence[SourceConfig]) -> list[str]:
    """What a corpus is read from, by content: it changes when a file does."""
    found = []
    for config in configs:
        if config.kind == "python-docs":
            found.append(f"python {platform.python_version()}")
        elif config.kind == "hub":
            found.append(f"hub {config.dataset} {config.subset} {config.split} {config.revision or 'newest'}")
        else:
            found += [_content(one) for one in _find(config)]
    return found


def _content(found: Found) -> str:
    """A file's name with the digest of what it holds, or with the reason why it is passed over."""
    if found.problem is not None:
        return f"{found.name} {found.problem[0]}"
    try:
        with open(found.path, "rb") as file:
            return f"{found.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return f"{found.name} unreadable"


@dataclass(frozen=True, slots=True)
class Reader:
    """How files are read: the length at which a record is refused, and whether a bad record stops the run."""

    configs: Sequence[SourceConfig] = ()
    max_record_bytes: int = 10_000_000
    stop_on_bad_input: bool = True
    max_expansion: int = ReadLimits().max_expansion
    detect_licences: bool = True
    """Whether a licence is looked for in the text, markup and file headers."""

    def read(self, config: SourceConfig) -> Iterator[Document | Rejected]:
        """Every record of a source, in the order of the files' names: a document, or a located rejection.

        Raises:
            DataError: a path is missing, or a record is bad and bad records stop the run; names file and line.
            EmptyDataError: nothing here can be read; says what was found instead.
        """
        found_any, rejections = False, Counter[str]()
        for piece in plan([config], piece_bytes=1 << 62):
            for record in self._read(piece, config):
                if isinstance(record, Rejected):
                    rejections[record.rule] += 1
                found_any = found_any or isinstance(record, Document)
                yield record
        if not found_any:
            raise nothing_found(config, rejections)

    def read_piece(self, piece: Piece) -> Iterator[Document | Rejected]:
        """Every record of a piece in order: a document, or a located rejection.

        Raises:
            DataError: a record is bad and bad records stop the run; names file and line.
        """
        return self._read(piece, self.configs[piece.source])

    def _read(self, piece: Piece, config: SourceConfig) -> Iterator[Document | Rejected]:
        if piece.problem is not None:
            yield Rejected(piece.name, *piece.problem)
            return
        maker = DocumentMaker(piece.name, config, detects_licences=self.detect_licences)
        try:
            for record in self._records(piece, config):
                yield self._bad(piece, record) if isinstance(record, Flaw) else maker.make(record)
        except FlawError as error:
            yield self._bad(piece, error.flaw)
        except OSError as error:
            yield self._bad(piece, Flaw("unreadable", str(error.strerror or error)))

    def _records(self, piece: Piece, config: SourceConfig) -> Iterator[Record | Flaw]:
        limits, path = ReadLimits(self.max_record_bytes, self.max_expansion), Path(piece.path)
        if piece.format in _OF_RECORDS:
            return _OF_RECORDS[piece.format](piece, config, limits)
        if piece.format in _OF_PAGES:
            return _OF_PAGES[piece.format](path, limits, extractor_named(config.extractor))
        return _OF_ONE[piece.format](path, limits)

    def _bad(self, piece: Piece, flaw: Flaw) -> Rejected:
        if self.stop_on_bad_input and flaw.rule in REMEDIES:
            remedy = f"{REMEDIES[flaw.rule]}, {_LEAVE_OUT}"
            message = flaw.message
            if flaw.row is not None and not message.startswith(("row ", "after ")):
                message = f"record {flaw.row}: {message}"
            raise DataError(message, file=piece.path or piece.name, line=flaw.line, byte=flaw.byte, remedy=remedy)
        number = flaw.line if flaw.line is not None else flaw.row
        return Rejected(piece.name if number is None else f"{piece.name}#{number}", flaw.rule, flaw.message)
