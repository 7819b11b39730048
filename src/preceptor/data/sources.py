"""Files to documents. What cannot be read is located and counted, or stops the run: never lost in silence."""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow
import pyarrow.parquet
from resiliparse.extract.html2text import extract_plain_text

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.core.units import human_bytes
from preceptor.data.document import UNKNOWN_LICENCE, Document, Rejected, is_encodable
from preceptor.data.rights import normalise_licence, spdx

SUFFIXES = {".txt": "text", ".md": "text", ".html": "html", ".htm": "html", ".jsonl": "jsonl", ".parquet": "parquet"}
_METADATA = ("id", "title", "date", "url")
_LICENCE_FIELDS = ("license", "licence")
_MAX_METADATA_CHARACTERS = 1000
_SNIFFED_BYTES = 8192
_CHARSET = re.compile(
    rb"""<meta[^>]{0,200}charset\s{0,4}=\s{0,4}["']?\s{0,4}"""
    rb"""(iso-8859-\d{1,2}|windows-\d{3,4}|koi8-[ru]|gb\w{3,6}|big5|euc-\w{2}|shift_jis|iso-2022-jp|latin1)\b""",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(/?)(div|span|section|article|table|ul|ol|b|i|a|font)\b", re.IGNORECASE)
# Finding the main content takes time that grows with the square of the depth; no page that people read is so deep.
_MAX_DEPTH = 500
_TITLE = re.compile(r"<title>([^<]{1,1000})</title>", re.IGNORECASE)
_LEAVE_OUT = 'or set data.on_bad_input="reject" to leave such records out and count them'
_REMEDIES = {
    "broken-json": "each line must be one JSON object; mend or remove this one",
    "broken-parquet": "write the file again, or remove it",
    "invalid-utf8": "convert the file to UTF-8",
    "no-text-field": "name the right field in text_field of data.sources",
    "record-too-long": "cut it into several, or raise data.max_record_bytes",
    "unreadable": "make it readable",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One place that documents come from, and by what right."""

    kind: Literal["files", "python-docs"] = "files"
    """files: a file or folder at path; python-docs: the documentation inside the running Python."""
    path: str = ""
    """A file, or a folder whose .txt .md .html .jsonl .parquet files are read, subfolders included."""
    licence: str = UNKNOWN_LICENCE
    """The licence of everything here, as an SPDX expression; a record's own field wins."""
    consent: Literal["granted", "by-licence", "unknown"] = "unknown"
    """On what consent the documents are used."""
    text_field: str = "text"
    """In JSONL and Parquet: the field that holds the text."""

    def __post_init__(self) -> None:
        """Refuse a source of files without a path, and a licence that is none."""
        if self.kind == "files" and not self.path:
            raise ValueError('path must name a file or folder when kind is "files"')
        if spdx(self.licence) is None:
            raise ValueError(
                f'licence must be an SPDX expression such as "CC-BY-4.0" or "unknown", got {self.licence!r}'
            )


@dataclass(frozen=True, slots=True)
class _File:
    """A file being read: where it lies on this machine, what its documents say of it, and how it is read."""

    path: Path
    source: str
    config: SourceConfig


@dataclass(frozen=True, slots=True)
class Reader:
    """How files are read: the length at which a record is refused, and whether a bad record stops the run."""

    max_record_bytes: int
    stop_on_bad_input: bool

    def read(self, config: SourceConfig) -> Iterator[Document | Rejected]:
        """Every record of a source, in the order of the files' names: a document, or a located rejection.

        Raises:
            DataError: a path is missing, or a record is bad and bad records stop the run; names file and line.
            EmptyDataError: nothing here can be read; says what was found instead.
        """
        root = Path(config.path).expanduser()
        if not os.path.exists(root):
            raise DataError("does not exist", file=root, remedy="name a file or a folder in the path of data.sources")
        folder = root.parent if root.is_file() else root
        # The folder's own name stays in front, so that two folders with the same files are told apart.
        front = f"{folder.resolve().name}/" if root.is_dir() else ""
        found_any, rejections = False, Counter[str]()
        for path, reason in _walk(root):
            name = path.relative_to(folder).as_posix() if root.is_dir() else path.name
            # A name need not be UTF-8 on every file system, and what cannot be said must not be written.
            name = os.fsencode(front + name).decode("utf-8", "backslashreplace")
            file = _File(path, f"file:{name}", config)
            for record in [Rejected(file.source, *reason)] if reason else self._read_file(file):
                if isinstance(record, Rejected):
                    rejections[record.rule] += 1
                found_any = found_any or isinstance(record, Document)
                yield record
        if not found_any:
            instead = ", ".join(f"{number} {rule}" for rule, number in rejections.most_common()) or "it is empty"
            raise EmptyDataError(
                f"holds no document that can be read ({instead})",
                file=root,
                remedy=f"put files there that end in {' '.join(SUFFIXES)}, or name another path in data.sources",
            )

    def _read_file(self, file: _File) -> Iterator[Document | Rejected]:
        kind = SUFFIXES[file.path.suffix.lower()]
        try:
            if kind == "jsonl":
                yield from self._read_jsonl(file)
            elif kind == "parquet":
                yield from self._read_parquet(file)
            else:
                yield self._read_text(file, is_html=kind == "html")
        except OSError as error:
            yield self._bad(file, "unreadable", str(error.strerror or error))

    def _read_text(self, file: _File, *, is_html: bool) -> Document | Rejected:
        with file.path.open("rb") as stream:
            raw = stream.read(self.max_record_bytes + 1)
        if len(raw) > self.max_record_bytes:
            limit = human_bytes(self.max_record_bytes)
            return self._bad(file, "record-too-long", f"one document of more than {limit}")
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return self._bad(file, "invalid-utf8", "this is UTF-16, not UTF-8", byte=0)
        if b"\0" in raw[:_SNIFFED_BYTES]:
            return Rejected(file.source, "binary", "bytes of zero in what should be text")
        charset = _CHARSET.search(raw, 0, _SNIFFED_BYTES) if is_html else None
        try:
            text = raw.decode(charset[1].decode() if charset else "utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            message = f"byte {raw[error.start]:#04x} at {error.start} is not {error.encoding}"
            return self._bad(file, "invalid-utf8", message, line=line)
        except LookupError:
            return self._bad(file, "invalid-utf8", f"nothing is known of the charset {charset and charset[1]!r}")
        if not is_html:
            return self._document(file, file.source, text, {})
        title = _TITLE.search(text, 0, _SNIFFED_BYTES)
        main = extract_plain_text(text, main_content=True) if _depth(text) <= _MAX_DEPTH else ""
        text = main if main.strip() else extract_plain_text(text)
        return self._document(file, file.source, text, {"title": " ".join(title[1].split())} if title else {})

    def _read_jsonl(self, file: _File) -> Iterator[Document | Rejected]:
        limit = self.max_record_bytes
        with file.path.open("rb") as stream:
            number = 0
            while line := stream.readline(limit + 1):
                number += 1
                if len(line) > limit:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(limit)
                    yield self._bad(file, "record-too-long", f"longer than {human_bytes(limit)}", line=number)
                elif line.strip():
                    yield self._from_line(file, line, number)

    def _from_line(self, file: _File, line: bytes, number: int) -> Document | Rejected:
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            message = f"byte {line[error.start]:#04x} at {error.start} of the line is not UTF-8"
            return self._bad(file, "invalid-utf8", message, line=number)
        except (ValueError, RecursionError) as error:
            return self._bad(file, "broken-json", f"broken JSON: {error}", line=number)
        return self._from_record(file, record, number)

    def _read_parquet(self, file: _File) -> Iterator[Document | Rejected]:
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(file.path) as table:
                names = table.schema_arrow.names
                if file.config.text_field not in names:
                    yield self._bad(file, "no-text-field", _missing_field(file.config, names))
                    return
                wanted = [n for n in names if n in {file.config.text_field, *_METADATA, *_LICENCE_FIELDS}]
                for batch in table.iter_batches(batch_size=256, columns=wanted):
                    for place in range(batch.num_rows):
                        number += 1
                        yield self._from_row(file, batch, place, number)
        except (pyarrow.ArrowException, ValueError) as error:
            yield self._bad(file, "broken-parquet", f"after row {number}: {error}")

    def _from_row(self, file: _File, batch: pyarrow.RecordBatch, place: int, number: int) -> Document | Rejected:
        try:
            columns = zip(batch.schema.names, batch.columns, strict=True)
            record = {name: column[place].as_py() for name, column in columns}
        except UnicodeDecodeError:
            return self._bad(file, "invalid-utf8", f"row {number} is not UTF-8", row=number)
        return self._from_record(file, record, number, is_row=True)

    def _from_record(self, file: _File, record: object, number: int, *, is_row: bool = False) -> Document | Rejected:
        place = {"row" if is_row else "line": number}
        front = f"row {number}: " if is_row else ""
        if not isinstance(record, dict):
            message = f"{front}not an object with a field {file.config.text_field!r}"
            return self._bad(file, "no-text-field", message, **place)
        text = record.get(file.config.text_field)
        if not isinstance(text, str):
            return self._bad(file, "no-text-field", front + _missing_field(file.config, list(record)), **place)
        if len(text) > self.max_record_bytes:
            limit = human_bytes(self.max_record_bytes)
            return self._bad(file, "record-too-long", f"{front}longer than {limit}", **place)
        if not is_encodable(text):
            return self._bad(file, "invalid-utf8", f"{front}half of a surrogate pair in the text", **place)
        return self._document(file, f"{file.source}#{number}", text, record)

    def _document(self, file: _File, source: str, text: str, record: Mapping[str, object]) -> Document:
        metadata = {}
        for key in _METADATA:
            value = record.get(key)
            if isinstance(value, str | int) and is_encodable(str(value)):
                metadata[key] = str(value)[:_MAX_METADATA_CHARACTERS]
        licence = normalise_licence(file.config.licence, "data.sources")
        stated = next((value for key in _LICENCE_FIELDS if isinstance(value := record.get(key), str)), "")
        if stated.strip():
            licence = spdx(stated) or UNKNOWN_LICENCE
            if licence == UNKNOWN_LICENCE and is_encodable(stated):
                metadata["stated_licence"] = stated[:_MAX_METADATA_CHARACTERS]
        return Document.new(text, source, licence=licence, consent=file.config.consent, metadata=metadata)

    def _bad(
        self,
        file: _File,
        rule: str,
        message: str,
        *,
        line: int | None = None,
        row: int | None = None,
        byte: int | None = None,
    ) -> Rejected:
        if self.stop_on_bad_input:
            raise DataError(message, file=file.path, line=line, byte=byte, remedy=f"{_REMEDIES[rule]}, {_LEAVE_OUT}")
        number = line if line is not None else row
        return Rejected(file.source if number is None else f"{file.source}#{number}", rule, message)


def _depth(page: str) -> int:
    """About how deep the elements of a page are nested."""
    deepest = depth = 0
    for tag in _TAG.finditer(page):
        depth += -1 if tag[1] else 1
        deepest = max(deepest, depth)
    return deepest


def _missing_field(config: SourceConfig, names: Sequence[object]) -> str:
    found = ", ".join(map(str, names[:20])) or "none"
    return f"no text in the field {config.text_field!r}; the fields are {found}"


def _walk(root: Path) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    """Every file below a folder in the order of the names, or what is passed over, with the rule and the reason."""
    if not root.is_dir():
        yield root, _passed_over(root)
        return
    seen_links: set[str] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            yield folder, ("unreadable", str(error.strerror))
            continue
        folders = []
        for path in entries:
            if path.name.startswith("."):
                yield path, ("hidden", "its name starts with a point")
            elif not os.path.isdir(path):
                yield path, _passed_over(path)
            elif path.is_symlink() and not _leads_on(path, seen_links):
                yield path, ("link-loop", "a link to a folder that is read already")
            else:
                folders.append(path)
        waiting += reversed(folders)


def _leads_on(link: Path, seen: set[str]) -> bool:
    """Whether a link leads to a folder that neither holds it nor was reached by another link."""
    target, here = os.path.realpath(link), os.path.realpath(link.parent)
    if target in seen or os.path.commonpath([target, here]) == target:
        return False
    seen.add(target)
    return True


def _passed_over(path: Path) -> tuple[str, str] | None:
    """Why a file is passed over without being opened, as rule and detail; None where it can be read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "unreadable", str(error.strerror or error)
    if not stat.S_ISREG(mode):
        return "not-a-file", "a pipe, socket or device"
    if path.suffix.lower() not in SUFFIXES:
        return "unknown-format", f"not one of {' '.join(SUFFIXES)}"
    return None
