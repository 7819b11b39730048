"""Books and papers: the text of EPUB and PDF files, with title, author and date, within limits."""

import io
import lzma
import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from resiliparse.extract.html2text import extract_plain_text

from preceptor.core.units import human_bytes
from preceptor.data.compression import open_file
from preceptor.data.formats import read_bounded
from preceptor.data.records import Flaw, FlawError, Record
from preceptor.data.source_config import ReadLimits

_MAX_ENTRIES = 10_000
_MAX_INDEX_BYTES = 4 << 20
_EXPANSION_FREE_BYTES = 4 << 20
_PAGES = {"application/xhtml+xml", "text/html", "text/x-oeb1-document"}
_FIELDS = {"title": "title", "creator": "author", "date": "date", "language": "language", "identifier": "id"}
_CONTAINER = "META-INF/container.xml"
# pdfium marks a word that is parted at the end of a line by one of these.
_PARTED = re.compile("[\ufffe\x02\xad]\r?\n?")
# All that the reader of archives raises on bytes that are none.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, KeyError, NotImplementedError, OSError, OverflowError, RuntimeError, ValueError),
)
_STREAM = re.compile(rb"stream\r?\n(?=x)")
_DEFLATE_RATIO = 1032
_MAX_STREAM_BYTES = 128 << 20
_BLOCK_BYTES = 1 << 20
_MAX_FILE_FACTOR = 20
"""A book's file may be so many times as long as a record: most of it are pictures and fonts."""


def _read_bytes(path: Path, limits: ReadLimits) -> bytes:
    with open_file(path, limits) as stream:
        return read_bounded(stream, limits.max_record_bytes * _MAX_FILE_FACTOR)


def read_epub(path: Path, limits: ReadLimits) -> Iterator[Record]:
    """The one record of a book: its chapters in the order of reading.

    Raises:
        FlawError: it is broken, locked, or unpacks to more than a record may hold.
    """
    raw = _read_bytes(path, limits)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as book:
            if len(book.namelist()) > _MAX_ENTRIES:
                raise FlawError(Flaw("expands-too-far", f"it holds {len(book.namelist()):,} files"))
            yield _Book(book, len(raw), limits).record()
    except ElementTree.ParseError as error:
        raise FlawError(Flaw("broken-epub", f"its table of contents is broken: {error}")) from error
    except _BROKEN as error:
        reason = str(error.args[0] if error.args else type(error).__name__)
        raise FlawError(Flaw("broken-epub", f"the archive is broken: {reason}")) from error


class _Book:
    """A book being unpacked, and how much of it was."""

    def __init__(self, book: zipfile.ZipFile, packed_bytes: int, limits: ReadLimits) -> None:
        self._book = book
        self._packed_bytes = packed_bytes
        self._limits = limits
        self._num_bytes = 0

    def record(self) -> Record:
        container = _xml(self._read(_CONTAINER, _MAX_INDEX_BYTES))
        package_path = next((node.get("full-path", "") for node in container.iter() if _local(node) == "rootfile"), "")
        package = _xml(self._read(package_path, _MAX_INDEX_BYTES))
        fields: dict[str, object] = {}
        pages: dict[str, str] = {}
        order: list[str] = []
        for node in package.iter():
            name = _local(node)
            if name == "item" and node.get("media-type", "").lower() in _PAGES and node.get("properties") != "nav":
                pages[node.get("id", "")] = node.get("href", "")
            elif name == "itemref" and node.get("linear", "yes") != "no":
                order.append(node.get("idref", ""))
            elif name in _FIELDS and (text := " ".join("".join(node.itertext()).split())):
                fields.setdefault(_FIELDS[name], text)
            elif name == "rights" and (text := " ".join("".join(node.itertext()).split())):
                fields["license"] = text
        folder = posixpath.dirname(package_path)
        # A list of contents that names one chapter a million times is another kind of bomb.
        chapters = [pages[one] for one in dict.fromkeys(order) if one in pages]
        texts = [self._chapter(posixpath.normpath(posixpath.join(folder, unquote(one)))) for one in chapters]
        return Record("\n\n".join(filter(None, texts)), fields)

    def _chapter(self, name: str) -> str:
        raw = self._read(name.partition("#")[0], self._limits.max_record_bytes)
        return str(extract_plain_text(raw.decode("utf-8-sig", "replace"))).strip()

    def _read(self, name: str, max_bytes: int) -> bytes:
        """A file of the archive, whatever length its entry claims.

        Raises:
            FlawError: it, or all that was read, is too long.
        """
        with self._book.open(name) as stream:
            raw = stream.read(max_bytes + 1)
        self._num_bytes += len(raw)
        longest = self._limits.max_record_bytes
        # Markup is some part of every book, and leaves; the text itself is measured by whoever takes the record.
        if len(raw) > max_bytes or self._num_bytes > 4 * longest:
            raise FlawError(Flaw("record-too-long", f"its chapters unpack to more than {human_bytes(longest)}"))
        packed = self._packed_bytes * self._limits.max_expansion
        if self._num_bytes > max(_EXPANSION_FREE_BYTES, packed):
            message = f"{human_bytes(self._packed_bytes)} of it unpack to more than {human_bytes(self._num_bytes)}"
            raise FlawError(Flaw("expands-too-far", message))
        return raw


def _xml(raw: bytes) -> ElementTree.Element:
    if b"<!ENTITY" in raw:
        raise FlawError(Flaw("broken-epub", "its table of contents defines entities, which no book needs"))
    return ElementTree.fromstring(raw)


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def read_pdf(path: Path, limits: ReadLimits) -> Iterator[Record]:
    """The one record of a PDF file: the text of its pages.

    Raises:
        FlawError: it is broken, locked, or longer than a record may be.
    """
    import pypdfium2  # type: ignore[import-untyped,unused-ignore]

    raw = _read_bytes(path, limits)
    _refuse_streams_without_end(raw, limits)
    try:
        with pypdfium2.PdfDocument(raw) as document:
            text = "\n\n".join(_page_texts(document, limits))
            stated = document.get_metadata_dict(skip_empty=True)
    except pypdfium2.PdfiumError as error:
        raise FlawError(Flaw("broken-pdf", str(error))) from error
    fields = {"title": stated.get("Title"), "author": stated.get("Author"), "date": stated.get("CreationDate")}
    if not text.strip():
        raise FlawError(Flaw("no-text", "its pages are pictures, or empty"))
    yield Record(text, {key: value for key, value in fields.items() if value})


def _refuse_streams_without_end(raw: bytes, limits: ReadLimits) -> None:
    """Refuse a file of which a part unpacks to far more than any picture: pdfium unpacks each part as a whole.

    Raises:
        FlawError: there is such a part.
    """
    for found in _STREAM.finditer(raw):
        end = raw.find(b"endstream", found.end())
        length = (end if end >= 0 else len(raw)) - found.end()
        if length * _DEFLATE_RATIO < _MAX_STREAM_BYTES:
            continue
        unpacking, packed, unpacked = zlib.decompressobj(), memoryview(raw)[found.end() : found.end() + length], 0
        try:
            rest: Any = packed
            while rest and unpacked <= _MAX_STREAM_BYTES:
                unpacked += len(unpacking.decompress(rest, _BLOCK_BYTES))
                rest = unpacking.unconsumed_tail
        except zlib.error:
            continue  # not packed in this way, or broken, which pdfium can say better
        if unpacked > _MAX_STREAM_BYTES and unpacked > length * limits.max_expansion:
            message = f"{human_bytes(length)} of it unpack to more than {human_bytes(unpacked)}"
            raise FlawError(Flaw("expands-too-far", message))


def _page_texts(document: Any, limits: ReadLimits) -> Iterator[str]:
    num_characters = 0
    for number in range(len(document)):
        page = document[number]
        words = page.get_textpage()
        num_characters += words.count_chars()
        if num_characters > limits.max_record_bytes:
            raise FlawError(Flaw("record-too-long", f"longer than {human_bytes(limits.max_record_bytes)}"))
        text = _PARTED.sub("", words.get_text_range()).replace("\r\n", "\n").strip()
        words.close()
        page.close()
        if text:
            yield text
