"""Which format a file has, and files that are one document: web pages, plain text, Markdown, source code."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from preceptor.core.units import human_bytes
from preceptor.data.compression import open_file, stem_and_compression
from preceptor.data.records import Flaw, FlawError, Record
from preceptor.data.source_config import ReadLimits
from preceptor.data.web_page import Extractor, page_record

SUFFIXES = {
    ".csv": "csv",
    ".epub": "epub",
    ".htm": "html",
    ".html": "html",
    ".json": "json",
    ".jsonl": "jsonl",
    ".markdown": "markdown",
    ".md": "markdown",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pdf": "pdf",
    ".rst": "rst",
    ".text": "text",
    ".tsv": "tsv",
    ".txt": "text",
    ".warc": "warc",
    ".xhtml": "html",
}
LANGUAGES = {
    **{".asm": "assembly", ".bash": "shell", ".bat": "batch", ".c": "c", ".cc": "c++", ".clj": "clojure"},
    **{".cpp": "c++", ".cs": "c#", ".css": "css", ".cxx": "c++", ".d": "d", ".dart": "dart", ".el": "emacs-lisp"},
    **{".erl": "erlang", ".ex": "elixir", ".exs": "elixir", ".f90": "fortran", ".fs": "f#", ".go": "go"},
    **{".groovy": "groovy", ".h": "c", ".hpp": "c++", ".hs": "haskell", ".java": "java", ".jl": "julia"},
    **{".js": "javascript", ".jsx": "javascript", ".kt": "kotlin", ".lean": "lean", ".lisp": "lisp", ".lua": "lua"},
    **{".m": "objective-c", ".mjs": "javascript", ".ml": "ocaml", ".nim": "nim", ".pas": "pascal", ".php": "php"},
    **{".pl": "perl", ".pm": "perl", ".ps1": "powershell", ".py": "python", ".pyi": "python", ".r": "r"},
    **{".rb": "ruby", ".rs": "rust", ".scala": "scala", ".scm": "scheme", ".sh": "shell", ".sql": "sql"},
    **{".swift": "swift", ".tcl": "tcl", ".tex": "tex", ".ts": "typescript", ".tsx": "typescript", ".v": "verilog"},
    **{".vb": "visual-basic", ".vhd": "vhdl", ".zig": "zig", ".zsh": "shell"},
}
"""The programming language that a file's ending stands for."""
_SNIFFED_BYTES = 8192
_FRONT_MATTER_CHARACTERS = 20_000
_FRONT_MATTER = re.compile(r"(---|\+\+\+)[ \t]*\r?\n(.*?)\r?\n\1[ \t]*(?:\r?\n|$)", re.DOTALL)
_YAML_LINE = re.compile(r"^([A-Za-z_-]{1,30})[ \t]*:(.*)$", re.MULTILINE)
_HEADING = re.compile(r"^#[ \t]+([^\r\n]{1,1000})", re.MULTILINE)


def format_of(name: str) -> str | None:
    """The format that a file's name says, whether compressed or not, or None."""
    stem, compression = stem_and_compression(name)
    suffix = os.path.splitext(stem)[1].lower()
    if suffix == ".parquet" and compression:
        return None  # it is compressed inside, and cannot be read from front to back
    return SUFFIXES.get(suffix) or ("code" if suffix in LANGUAGES else None)


def known_endings() -> str:
    """The endings that are read, for messages."""
    return f"{' '.join(sorted(SUFFIXES))}, those of source code, or either with .gz or .zst"


def read_whole(path: Path, limits: ReadLimits) -> bytes:
    """The bytes of a file that is one document.

    Raises:
        FlawError: it is longer than a record may be, or cannot be unpacked.
    """
    with open_file(path, limits) as stream:
        if stem_and_compression(path.name)[1]:
            return read_bounded(stream, limits.max_record_bytes)
        # What a file is long is asked first: making room for the longest that may be takes longer than reading most.
        num_bytes = os.fstat(stream.fileno()).st_size
        return read_bounded(stream, limits.max_record_bytes, num_bytes + 1)


def read_bounded(stream: IO[bytes], max_bytes: int, expected_bytes: int | None = None) -> bytes:
    """All that is left of a stream, or as much as is expected.

    Raises:
        FlawError: that is more than may be.
    """
    raw = stream.read(max_bytes + 1 if expected_bytes is None else min(expected_bytes, max_bytes + 1))
    if len(raw) > max_bytes:
        raise FlawError(Flaw("record-too-long", f"one document of more than {human_bytes(max_bytes)}"))
    return raw


def decode_text(raw: bytes, encoding: str = "utf-8-sig") -> str:
    """The text of a file's bytes.

    Raises:
        FlawError: they are of another encoding, or no text.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FlawError(Flaw("invalid-utf8", "this is UTF-16, not UTF-8", byte=0))
    if b"\0" in raw[:_SNIFFED_BYTES]:
        raise FlawError(Flaw("binary", "bytes of zero in what should be text"))
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte {raw[error.start]:#04x} at {error.start} is not {error.encoding}"
        raise FlawError(Flaw("invalid-utf8", message, line=line)) from error


def read_page(path: Path, limits: ReadLimits, extractor: Extractor) -> Iterator[Record | Flaw]:
    """The one record of a file of HTML."""
    yield page_record(read_whole(path, limits), extractor)


def read_plain(path: Path, limits: ReadLimits) -> Iterator[Record]:
    """The one record of a file of plain text, or of reStructuredText."""
    text = decode_text(read_whole(path, limits))
    yield Record(text, raw=text, kind="text")


def read_code(path: Path, limits: ReadLimits) -> Iterator[Record]:
    """The one record of a file of source code, with its programming language."""
    text = decode_text(read_whole(path, limits))
    suffix = Path(stem_and_compression(path.name)[0]).suffix.lower()
    fields = {"language": LANGUAGES[suffix]} if suffix in LANGUAGES else {}
    yield Record(text, fields, raw=text, kind="code")


def read_markdown(path: Path, limits: ReadLimits) -> Iterator[Record]:
    """The one record of a file of Markdown; its front matter becomes fields."""
    raw = decode_text(read_whole(path, limits))
    fields, text = split_front_matter(raw)
    if "title" not in fields and (heading := _HEADING.search(text, 0, _SNIFFED_BYTES)):
        fields = fields | {"title": heading[1].rstrip("# \t")}
    yield Record(text, fields, raw=raw, kind="markdown")


def split_front_matter(text: str) -> tuple[dict[str, object], str]:
    """The fields that stand before a text between lines of ``---`` (YAML) or ``+++`` (TOML), and the text alone."""
    found = _FRONT_MATTER.match(text, 0, _FRONT_MATTER_CHARACTERS)
    if found is None:
        return {}, text
    if found[1] == "+++":
        try:
            return _lower(tomllib.loads(found[2])), text[found.end() :]
        except tomllib.TOMLDecodeError:
            return {}, text
    # Only plain `key: value` lines are needed of YAML, and a whole YAML reader is a way in for harm.
    pairs = {key: value.strip().strip("\"'") for key, value in _YAML_LINE.findall(found[2])}
    return (_lower(pairs), text[found.end() :]) if pairs else ({}, text)


def _lower(fields: dict[str, object]) -> dict[str, object]:
    return {key.lower(): value for key, value in fields.items() if value not in ("", [], {})}
