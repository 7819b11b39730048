"""From a record to a document: which of its fields are kept, and what its source says where it says nothing."""

from preceptor.data.document import UNKNOWN_LICENCE, Document, is_encodable
from preceptor.data.records import LICENCE_FIELDS, METADATA, Record, iso_date
from preceptor.data.rights import detect, settle
from preceptor.data.source_config import SourceConfig
from preceptor.data.spdx import normalise_licence

_MAX_METADATA_CHARACTERS = 1000
_URL_STARTS = ("http://", "https://", "ftp://")


class DocumentMaker:
    """Makes the documents of one file."""

    def __init__(self, name: str, config: SourceConfig, *, detects_licences: bool = True) -> None:
        self._name = name
        self._config = config
        # These are the same for all its documents, of which there can be many millions.
        self._collection = config.label
        self._detects = detects_licences
        self._declared = normalise_licence(config.licence, "data.sources")

    def make(self, record: Record) -> Document:
        """The document of a record."""
        metadata = _metadata(record)
        licence, notes = self._licence(record)
        address, date = metadata.get("url", ""), metadata.get("date", "")
        return Document.new(
            record.text,
            self._name if record.number is None else f"{self._name}#{record.number}",
            licence=licence,
            consent=self._config.consent,
            metadata=metadata | notes,
            collection=self._collection,
            origin=address if address.startswith(_URL_STARTS) else self._config.origin,
            date=(iso_date(date) if date else "") or self._config.date,
        )

    def _licence(self, record: Record) -> tuple[str, dict[str, str]]:
        stated = next((value for key in LICENCE_FIELDS if isinstance(value := record.fields.get(key), str)), "")
        evidence = detect(record.raw, record.kind) if self._detects and record.kind is not None else None
        if evidence is None and not stated.strip():
            return self._declared, {}
        return settle(self._declared, evidence, stated if is_encodable(stated) else UNKNOWN_LICENCE)


def _metadata(record: Record) -> dict[str, str]:
    fields, metadata = record.fields, {}
    for key in METADATA:
        value = fields.get(key)
        if value is None or isinstance(value, bool):
            continue
        # A date of TOML or Parquet is neither a string nor a number.
        text = value if isinstance(value, str) else str(value) if isinstance(value, int) or key == "date" else ""
        if text and (text.isascii() or is_encodable(text)):
            metadata[key] = text[:_MAX_METADATA_CHARACTERS]
    return metadata
