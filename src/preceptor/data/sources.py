"""Files to documents. What cannot be read is located and counted, or stops the run: never lost in silence."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from resiliparse.extract.html2text import extract_plain_text

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.data.document import UNKNOWN_LICENCE, Document, Rejected
from preceptor.data.rights import normalise_licence

SUFFIXES = {".txt": "text", ".md": "text", ".html": "html", ".htm": "html", ".jsonl": "jsonl", ".parquet": "parquet"}
_SNIFFED_BYTES = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One place that documents come from, and by what right."""

    kind: Literal["files", "python-docs"] = "files"
    """files: a file or folder at path; python-docs: the documentation inside the running Python."""
    path: str = ""
    """A file, or a folder whose .txt .md .html .jsonl .parquet files are read, subfolders included."""
    licence: str = UNKNOWN_LICENCE
    """The licence of everything here, as an SPDX expression; a record's own field wins."""
    consent: str = "unknown"
    """On what consent the documents are used: granted, by-licence or unknown."""
    text_field: str = "text"
    """In JSONL and Parquet: the field that holds the text."""

    def __post_init__(self) -> None:
        """Refuse a source of files without a path."""
        if self.kind == "files" and not self.path:
            raise ValueError('path must name a file or folder when kind is "files"')


@dataclass(frozen=True, slots=True)
class Reader:
    """How files are read: the length at which a record is refused, and whether a bad record stops the run."""

    max_record_bytes: int
    stop_on_bad_input: bool

    def read(self, config: SourceConfig) -> Iterator[Document | Rejected]:
        """Every record of a source, in the order of the files' names: a document, or a located rejection.

        Raises:
            DataError: a path is missing, or a record is bad and bad records stop the run; names file and line.
            EmptyDataError: nothing here can be read.
        """
        root = Path(config.path).expanduser()
        if not root.exists():
            raise DataError(f"{root} does not exist", remedy="check data.sources: its path names a file or a folder")
        found_any = False
        for path in _walk(root):
            name = path.relative_to(root).as_posix() if path != root else path.name
            for record in self._read_file(path, name, config):
                found_any = found_any or isinstance(record, Document)
                yield record
        if not found_any:
            raise EmptyDataError(
                f"{root} holds no document that can be read",
                remedy=f"put files there that end in {' '.join(SUFFIXES)}, or name another folder in data.sources",
            )

    def _read_file(self, path: Path, name: str, config: SourceConfig) -> Iterator[Document | Rejected]:
        source = f"file:{name}"
        if reason := _unreadable(path):
            yield Rejected(source, *reason)
            return
        kind = SUFFIXES[path.suffix.lower()]
        try:
            if kind == "jsonl":
                yield from self._read_jsonl(path, source, config)
            elif kind == "parquet":
                yield from self._read_parquet(path, source, config)
            else:
                yield from self._read_text(path, source, config, is_html=kind == "html")
        except OSError as error:
            yield self._bad(source, "unreadable", f"{path}: {error.strerror or error}")

    def _read_text(
        self, path: Path, source: str, config: SourceConfig, *, is_html: bool
    ) -> Iterator[Document | Rejected]:
        if path.stat().st_size > self.max_record_bytes:
            yield self._bad(source, "record-too-long", f"{path}: {path.stat().st_size} bytes in one document")
            return
        raw = path.read_bytes()
        if b"\0" in raw[:_SNIFFED_BYTES]:
            yield Rejected(source, "binary", "bytes of zero in what should be text")
            return
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            yield self._bad(source, "invalid-utf8", f"{path}:{line}: byte {error.start} is not UTF-8")
            return
        if is_html:
            text = extract_plain_text(text, main_content=True) or extract_plain_text(text)
        yield self._document(text, source, config, {})

    def _read_jsonl(self, path: Path, source: str, config: SourceConfig) -> Iterator[Document | Rejected]:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(self.max_record_bytes + 1):
                number += 1
                where = f"{path}:{number}"
                if len(line) > self.max_record_bytes:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(self.max_record_bytes)
                    yield self._bad(
                        f"{source}#{number}", "record-too-long", f"{where}: longer than {self.max_record_bytes} bytes"
                    )
                elif line.strip():
                    yield self._json_document(line, f"{source}#{number}", where, config, is_first=number == 1)

    def _json_document(
        self, line: bytes, source: str, where: str, config: SourceConfig, *, is_first: bool
    ) -> Document | Rejected:
        try:
            record = json.loads(line.decode("utf-8-sig" if is_first else "utf-8"))
        except UnicodeDecodeError as error:
            return self._bad(source, "invalid-utf8", f"{where}: byte {error.start} of the line is not UTF-8")
        except (ValueError, RecursionError) as error:
            return self._bad(source, "broken-json", f"{where}: {error}")
        return self._from_record(record, source, where, config)

    def _read_parquet(self, path: Path, source: str, config: SourceConfig) -> Iterator[Document | Rejected]:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if config.text_field not in file.schema_arrow.names:
                    yield self._bad(source, "no-text-field", _missing_field(path, config, file.schema_arrow.names))
                    return
                number = 0
                for batch in file.iter_batches(batch_size=256):
                    for record in batch.to_pylist():
                        number += 1
                        yield self._from_record(record, f"{source}#{number}", f"{path}, row {number}", config)
        except pyarrow.ArrowException as error:
            yield self._bad(source, "broken-parquet", f"{path}: {error}")

    def _from_record(self, record: object, source: str, where: str, config: SourceConfig) -> Document | Rejected:
        if not isinstance(record, dict):
            return self._bad(source, "no-text-field", f"{where}: not an object with a field {config.text_field!r}")
        text = record.get(config.text_field)
        if not isinstance(text, str):
            return self._bad(source, "no-text-field", _missing_field(where, config, record))
        if any("\ud800" <= character <= "\udfff" for character in text):
            return self._bad(source, "invalid-utf8", f"{where}: half of a surrogate pair")
        if len(text) > self.max_record_bytes:
            return self._bad(source, "record-too-long", f"{where}: longer than {self.max_record_bytes} characters")
        return self._document(text, source, config, record)

    def _document(self, text: str, source: str, config: SourceConfig, record: dict[str, Any]) -> Document:
        own = record.get("license") or record.get("licence")
        licence = normalise_licence(own, source) if isinstance(own, str) else config.licence
        kept = {
            key: value for key, value in record.items() if isinstance(value, str) and key in ("title", "date", "url")
        }
        return Document.new(text, source, licence=licence, consent=config.consent, metadata=kept)

    def _bad(self, source: str, rule: str, detail: str) -> Rejected:
        if self.stop_on_bad_input:
            raise DataError(
                f"{detail} ({rule})",
                remedy='mend the file, or set data.on_bad_input="reject" to leave such records out and count them',
            )
        return Rejected(source, rule, detail)


def _missing_field(where: object, config: SourceConfig, names: Any) -> str:
    found = ", ".join(map(str, names)) or "none"
    return f"{where}: no text in the field {config.text_field!r}; the fields are {found} (data.sources text_field)"


def _walk(root: Path) -> Iterator[Path]:
    """Every file below a folder in the order of the names; links to folders are not followed, so no loop is entered."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(files))


def _unreadable(path: Path) -> tuple[str, str] | None:
    """Why a file is passed over without being opened, as rule and detail; None where it can be read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "unreadable", f"{path}: {error.strerror or error}"
    if not stat.S_ISREG(mode):
        return "not-a-file", f"{path}: a pipe, socket or device"
    if path.suffix.lower() not in SUFFIXES:
        return "unknown-format", f"{path}: not one of {' '.join(SUFFIXES)}"
    return None
