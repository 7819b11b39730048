"""What the readers of formats hand on: a record with its text and fields, or a flaw with its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from preceptor.data.licence_text import TextKind

METADATA = ("id", "title", "date", "url", "author", "language")
"""The fields of a record that a document keeps."""
LICENCE_FIELDS = ("license", "licence")

REMEDIES = {
    "broken-compression": "compress the file again, or remove it",
    "broken-csv": "each row must have the fields of the first; mend or remove this one",
    "broken-epub": "write the book again, or remove it",
    "broken-html": "mend or remove the page",
    "broken-json": "each line must be one JSON object; mend or remove this one",
    "broken-parquet": "write the file again, or remove it",
    "broken-pdf": "write the file again without a password, or remove it",
    "broken-warc": "download the file again, or remove it",
    "changed": "leave the sources alone while they are read, and start again",
    "expands-too-far": "unpack it yourself where you trust it, and name what comes out",
    "invalid-utf8": "convert the file to UTF-8",
    "no-text-field": "name the right field in text_field of data.sources",
    "record-too-long": "cut it into several, or raise data.max_record_bytes",
    "unreadable": "make it readable",
}
"""What to do about a flaw, by its rule; a flaw whose rule is not here never stops a run."""
_ISO_DATE = re.compile(r"\s*(\d{4})(?:-?(\d{2})(?:-?(\d{2}))?)?(?=$|[\sT])")
_PDF_DATE = re.compile(r"D:(\d{4})(\d{2})?(\d{2})?")


@dataclass(frozen=True, slots=True)
class Record:
    """A text with the fields that were stated beside it."""

    text: str
    fields: Mapping[str, object] = field(default_factory=dict)
    number: int | None = None
    """Which record of its file, counted from 1; None where the file is one document."""
    raw: str = ""
    """The text with its markup, in which a licence may be stated; empty where the text is all there is."""
    kind: TextKind | None = None
    """What ``raw`` is, or None where no licence is looked for."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a record, or the rest of a file, cannot be read."""

    rule: str
    message: str
    line: int | None = None
    row: int | None = None
    byte: int | None = None


class FlawError(Exception):
    """A flaw met where no record can be handed on: the rest of the file is lost."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


def iso_date(stated: str) -> str:
    """A date as ISO 8601, to the day, month or year that is stated; empty where it is no date."""
    if found := _ISO_DATE.match(stated) or _PDF_DATE.match(stated):
        year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
        try:
            whole = datetime(year, month, day, tzinfo=UTC).date().isoformat()
        except ValueError:
            return ""
        return whole[: 10 if found[3] else 7 if found[2] else 4]
    try:
        return parsedate_to_datetime(stated[:100]).date().isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
