"""What a recipe says of one source, and a piece of it that one worker reads."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from preceptor.data.document import UNKNOWN_LICENCE
from preceptor.data.spdx import require_licence

Format = Literal[
    "auto", "html", "text", "markdown", "rst", "jsonl", "json", "csv", "tsv", "parquet", "warc", "pdf", "epub", "code"
]  # fmt: skip
_IS_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ][0-9:.+\-Z]{4,30})?)?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """One place that documents come from, and by what right."""

    kind: Literal["files", "python-docs", "hub"] = "files"
    """files: what lies at path; python-docs: the documentation inside the running Python; hub: a data set by name."""
    name: str = ""
    """What the source is called in the datasheet and in the mixture; without one, its path or data set."""
    path: str = ""
    """A file, a folder that is read with its subfolders, or a pattern such as "docs/**/*.html"."""
    format: Format = "auto"
    """How files are read; auto: each by the ending of its name, and what has an unknown ending is passed over."""
    licence: str = UNKNOWN_LICENCE
    """The licence of everything here, as an SPDX expression; a record's own field wins."""
    consent: Literal["granted", "by-licence", "unknown"] = "unknown"
    """On what consent the documents are used."""
    origin: str = ""
    """Where all this was published, for documents that do not say it: an address or a place."""
    date: str = ""
    """When all this was published, as ISO 8601, for documents that do not say it."""
    text_field: str = "text"
    """In records (JSON, CSV, Parquet, data sets): the field that holds the text."""
    id_field: str = "id"
    """In records: the field that holds the id its publisher gave it."""
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """What finds the main text of a web page; trafilatura has to be installed, and takes some thirty times as long."""
    weight: float = 1.0
    """The share of this source in the mixture, relative to the other sources."""
    max_epochs: float = 0.0
    """How often training may pass over this source; 0 is as often as its share asks for."""
    dataset: str = ""
    """The name of a data set on the Hugging Face hub, or of a folder that holds one."""
    subset: str = ""
    """Which configuration of the data set."""
    split: str = "train"
    """Which split of the data set."""
    revision: str = ""
    """Which commit, tag or branch of the data set; a commit makes a run repeatable."""

    def __post_init__(self) -> None:
        """Refuse a source that names nothing, a licence that is none, and numbers outside their range."""
        if self.kind == "files" and not self.path:
            raise ValueError('path must name a file or folder when kind is "files"')
        if self.kind == "hub" and not self.dataset:
            raise ValueError('dataset must name a data set when kind is "hub"')
        require_licence(self.licence)
        if self.date and not _IS_DATE.fullmatch(self.date):
            raise ValueError(f'date must be a date such as "2024-05-01", got {self.date!r}')
        if not self.weight >= 0:
            raise ValueError(f"weight must be at least 0, got {self.weight}")
        if not self.max_epochs >= 0:
            raise ValueError(f"max_epochs must be at least 0, got {self.max_epochs}")
        for field in ("text_field", "split"):
            if not getattr(self, field):
                raise ValueError(f"{field} must not be empty, got ''")

    @property
    def label(self) -> str:
        """The name of the source: its own, or else that of what it reads, the same on every machine."""
        if self.name:
            return self.name
        if self.kind == "hub":
            return "/".join(filter(None, (self.dataset, self.subset)))
        return _label_of(self.path) if self.kind == "files" else self.kind


@cache
def _label_of(path: str) -> str:
    """The last part of a path, or of a pattern all that is behind the folder it is looked for in."""
    parts = Path(path).expanduser().absolute().parts
    wild = next((place for place, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return "/".join(parts[max(0, wild - 1) :]) or "/"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a source that one worker reads; can be pickled."""

    source: int
    """Place of the source among the sources of the recipe."""
    path: str
    """Where the file lies on this machine."""
    name: str
    """What its documents say of where they come from, such as ``file:docs/a.md``."""
    format: str
    start: int = 0
    """First byte of a plain JSONL, first row group of a Parquet file, first shard of a data set."""
    stop: int = 0
    """The end of these, exclusive; 0 is the end of the file."""
    first: int = 1
    """The number of the first record in it, counted from 1: a line of JSONL, a row of Parquet."""
    bytes: int = 0
    """About how much there is to read."""
    problem: tuple[str, str] | None = None
    """The rule and reason for which it is passed over."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How far a file may go before it is refused."""

    max_record_bytes: int = 10_000_000
    """The longest text of one record, and the longest unpacked file that is one document."""
    max_expansion: int = 300
    """How many times its own size a compressed file may unpack to, once it has unpacked to ``free_bytes``."""
    free_bytes: int = 64 << 20
    max_unpacked_bytes: int = 1 << 40
    """What one compressed file of records may unpack to."""
