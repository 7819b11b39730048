"""Texts that are measured on and never trained on: read and edited like those that are, but not filtered."""

from collections.abc import Iterator

from preceptor.core.errors import EmptyDataError
from preceptor.data.document import Document
from preceptor.data.edits import EDITS
from preceptor.data.formats import known_endings
from preceptor.data.sources import Reader, SourceConfig


def read_texts(source: SourceConfig, reader: Reader) -> Iterator[str]:
    """The texts of a file, a folder or a pattern in the order of the files' names, without those that are empty.

    Raises:
        DataError: nothing is there, or a record is bad and bad records stop the run; names file and line.
        EmptyDataError: no text is left.
    """
    found_any = False
    try:
        for record in reader.read(source):
            if not isinstance(record, Document):
                continue
            for edit in EDITS:
                record = edit(record)
            if record.text.strip():
                found_any = True
                yield record.text
    except EmptyDataError as error:
        raise EmptyDataError(error.message, remedy=_remedy()) from error
    if not found_any:
        raise EmptyDataError("holds no text", file=source.path, remedy=_remedy())


def _remedy() -> str:
    return f"put texts there, in files that end in {known_endings()}, or name another path"
