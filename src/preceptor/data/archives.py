"""Archives of the web (WARC): each page that a crawler kept, with its address and the time it was fetched."""

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from preceptor.core.units import human_bytes
from preceptor.data.compression import open_file
from preceptor.data.formats import decode_text
from preceptor.data.records import Flaw, FlawError, Record
from preceptor.data.source_config import ReadLimits
from preceptor.data.web_page import Extractor, encoding_of, page_record

_PAGES = {"text/html", "application/xhtml+xml"}
_WANTED = {"response", "resource", "conversion"}
_MAX_HEADER_BYTES = 64 << 10
_BLOCK_BYTES = 1 << 20
_CHARSET = re.compile(r"charset\s{0,4}=\s{0,4}[\"']?([\w-]{2,20})", re.IGNORECASE)


def read_warc(path: Path, limits: ReadLimits, extractor: Extractor) -> Iterator[Record | Flaw]:
    """The pages of an archive; what else it holds (requests, notes of the crawler) is no document."""
    number = 0
    with open_file(path, limits) as stream:
        try:
            while (headers := _headers(stream, b"WARC/")) is not None:
                number += 1
                found = _read_entry(stream, headers, number, limits, extractor)
                if found is not None:
                    yield found
        except FlawError as error:
            yield Flaw(error.flaw.rule, f"after record {number}: {error.flaw.message}", row=number + 1)


def _headers(stream: IO[bytes], start: bytes) -> dict[str, str] | None:
    """The headers of the next record, with names in lower case; None at the end.

    Raises:
        FlawError: no record starts here.
    """
    line = b"\r\n"
    while line in (b"\r\n", b"\n"):
        line = stream.readline(_MAX_HEADER_BYTES)
    if not line:
        return None
    if not line.startswith(start):
        raise FlawError(Flaw("broken-warc", f"a record starts with {start.decode()}, not {line[:20]!r}"))
    headers: dict[str, str] = {}
    num_bytes, last = 0, ""
    while (line := stream.readline(_MAX_HEADER_BYTES)) not in (b"\r\n", b"\n"):
        num_bytes += len(line)
        if not line.endswith(b"\n") or num_bytes > _MAX_HEADER_BYTES:
            raise FlawError(Flaw("broken-warc", "the headers of a record have no end"))
        text = line.decode("utf-8", "replace")
        if text[0] in " \t":
            headers[last] = f"{headers.get(last, '')} {text.strip()}"
            continue
        last, _, value = text.partition(":")
        last = last.strip().lower()
        headers[last] = value.strip()
    return headers


def _read_entry(
    stream: IO[bytes], headers: Mapping[str, str], number: int, limits: ReadLimits, extractor: Extractor
) -> Record | Flaw | None:
    """The document or flaw of a record, or None for one that holds no document; the stream then stands behind it."""
    stated = headers.get("content-length", "")
    if not (stated.isascii() and stated.isdigit() and len(stated) < 19):
        raise FlawError(Flaw("broken-warc", f"a record of {stated[:20]!r} bytes"))
    length = int(stated)
    if headers.get("warc-type", "").lower() not in _WANTED:
        _skip(stream, length)
        return None
    if length > limits.max_record_bytes + _MAX_HEADER_BYTES:
        _skip(stream, length)
        return Flaw("record-too-long", f"longer than {human_bytes(limits.max_record_bytes)}", row=number)
    payload = stream.read(length)
    if len(payload) < length:
        raise FlawError(Flaw("broken-warc", f"cut short by {human_bytes(length - len(payload))}"))
    try:
        return _document(payload, headers, number, limits, extractor)
    except FlawError as error:
        return Flaw(error.flaw.rule, error.flaw.message, row=number)


def _skip(stream: IO[bytes], length: int) -> None:
    while length:
        block = stream.read(min(length, _BLOCK_BYTES))
        if not block:
            raise FlawError(Flaw("broken-warc", f"cut short by {human_bytes(length)}"))
        length -= len(block)


def _document(
    payload: bytes, headers: Mapping[str, str], number: int, limits: ReadLimits, extractor: Extractor
) -> Record | Flaw:
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("application/http"):
        payload, http = _response(payload, limits)
        if http[""] != "200":
            return Flaw("not-a-page", f"the server answered {http['']}", row=number)
        content_type = http.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    found = _CHARSET.search(content_type)
    charset = found[1] if found else ""
    if kind in _PAGES:
        record = page_record(payload, extractor, charset, fallback=True)
    elif kind.startswith("text/"):
        text = decode_text(payload, encoding_of(charset))
        record = Record(text, raw=text, kind="text")
    else:
        return Flaw("not-a-page", f"it holds {kind[:50] or 'something that has no type'}", row=number)
    fields = {"date": headers.get("warc-date", ""), **record.fields}
    fields["url"] = headers.get("warc-target-uri", "").strip("<>")
    fields["id"] = headers.get("warc-record-id", "").strip("<>")
    fields = {key: value for key, value in fields.items() if value}
    return Record(record.text, fields, number, record.raw, record.kind)


def _response(payload: bytes, limits: ReadLimits) -> tuple[bytes, dict[str, str]]:
    """The body of what a server answered, and its headers, with the status under the empty name."""
    end = payload.find(b"\r\n\r\n", 0, _MAX_HEADER_BYTES)
    if not payload.startswith(b"HTTP/") or end < 0:
        raise FlawError(Flaw("broken-warc", "what the server answered has no headers"))
    lines = payload[:end].decode("utf-8", "replace").split("\r\n")
    status = lines[0].split()
    headers = {"": status[1] if len(status) > 1 else "nothing"}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    body = payload[end + 4 :]
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _joined(body)
    encoding = headers.get("content-encoding", "").lower()
    if encoding in ("gzip", "x-gzip", "deflate") and headers[""] == "200":
        body = _inflated(body, limits)
    elif encoding not in ("", "identity") and headers[""] == "200":
        raise FlawError(Flaw("unknown-encoding", f"the page is packed by {encoding[:20]}"))
    if len(body) > limits.max_record_bytes:
        raise FlawError(Flaw("record-too-long", f"longer than {human_bytes(limits.max_record_bytes)}"))
    return body, headers


def _joined(body: bytes) -> bytes:
    """A body without the lengths of its chunks; one that has none, as some crawlers keep it, as it is."""
    parts: list[bytes] = []
    place = 0
    while True:
        end = body.find(b"\r\n", place, place + 100)
        size = body[place:end].partition(b";")[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            return b"".join(parts) if parts else body
        length = int(size, 16)
        if not length:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + length])
        place = end + 4 + length


def _inflated(body: bytes, limits: ReadLimits) -> bytes:
    """An unpacked body, no further than one byte over the limit; one that is not packed after all as it is."""
    if body[:2] != b"\x1f\x8b" and (not body or body[0] & 0x0F != 8):
        return body
    unpacking = zlib.decompressobj(47)
    try:
        unpacked = unpacking.decompress(body, limits.max_record_bytes + 1)
    except zlib.error as error:
        raise FlawError(Flaw("broken-compression", str(error))) from error
    if not unpacking.eof and len(unpacked) <= limits.max_record_bytes:
        raise FlawError(Flaw("broken-compression", f"cut short after {human_bytes(len(unpacked))}"))
    return unpacked
