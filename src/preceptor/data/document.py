"""The document, and a filter's verdict on it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

UNKNOWN_LICENCE = "unknown"


def document_id(source: str, text: str) -> str:
    """The name of a document: the same source and text have the same name on every machine."""
    return hashlib.sha256(f"{source}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Document:
    """A text with where it came from and by what right it is used. Never changed: an edit returns a child."""

    id: str
    text: str
    source: str
    """Where it came from: ``python:textwrap`` or ``file:docs/a.md``, with ``#3`` for the third record of a file."""
    licence: str = UNKNOWN_LICENCE
    """An SPDX expression, or ``unknown``."""
    consent: str = "unknown"
    """``granted``, ``by-licence`` or ``unknown``."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    """The id of the document that this one was edited from."""
    collection: str = ""
    """The name of the source in the recipe."""
    origin: str = ""
    """Where its author published it: a URL, or the place that the recipe names."""
    date: str = ""
    """When it was published, as ISO 8601."""
    language: str = ""
    """The language that was recognised, as ISO 639-1."""

    @classmethod
    def new(
        cls,
        text: str,
        source: str,
        *,
        licence: str = UNKNOWN_LICENCE,
        consent: str = "unknown",
        metadata: Mapping[str, str] | None = None,
        collection: str = "",
        origin: str = "",
        date: str = "",
    ) -> "Document":
        """A document as it was read."""
        return cls(
            document_id(source, text),
            text,
            source,
            licence,
            consent,
            metadata or {},
            collection=collection,
            origin=origin,
            date=date,
        )

    @property
    def root_id(self) -> str:
        """The id under which it was read, before any edit."""
        return self.parent or self.id

    def edited(self, text: str) -> "Document":
        """The child with another text, or the document itself where nothing changed."""
        if text == self.text:
            return self
        return replace(self, id=document_id(self.source, text), text=text, parent=self.parent or self.id)


@dataclass(frozen=True, slots=True)
class Keep:
    """The verdict that a document stays."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The verdict that a document leaves: by which rule, what was measured, and the rule's limit."""

    rule: str
    measured: float
    limit: float
    detail: str = ""


Verdict = Keep | Drop
KEEP = Keep()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not become a document: where it stood and why. It is counted like a dropped document."""

    source: str
    rule: str
    detail: str
