"""The corpus: every document that was read is kept, or dropped with a reason, and the ledger says which."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from preceptor.core.artifact import Draft
from preceptor.core.errors import ArtifactError, DataError, EmptyDataError, output_errors
from preceptor.core.progress import Progress, say
from preceptor.core.seeds import derive
from preceptor.data import personal
from preceptor.data.document import KEEP, UNKNOWN_LICENCE, Document, Drop, Rejected, Verdict, is_encodable
from preceptor.data.edits import normalise, remove_markup
from preceptor.data.filters import FilterConfig, judge
from preceptor.data.overlap import Duplicate, Shingles, contained, exact_key, near_duplicates, shingles
from preceptor.data.rights import UnknownLicencePolicy, judge_rights
from preceptor.data.sources import SourceConfig

DOCUMENTS_FILE, LEDGER_FILE, DATASHEET_FILE = "documents.parquet", "ledger.parquet", "datasheet.json"
SPLITS = ("train", "validation")
_DOCUMENTS_SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("id", "text", "source", "licence", "consent", "metadata", "parent", "split")]
)
_LEDGER_SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("id", "source", "verdict", "rule")),
        *((name, pyarrow.float64()) for name in ("measured", "limit")),
        ("detail", pyarrow.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where documents come from and what is done to them."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(kind="python-docs", licence="PSF-2.0", consent="by-licence"),)
    """The sources, read one after the other."""
    unknown_licence: UnknownLicencePolicy = "keep"
    """What happens to a document whose licence nobody declared: it stays and is said, or it is dropped."""
    on_bad_input: Literal["stop", "reject"] = "stop"
    """Whether a record that cannot be read stops the run or is left out and counted."""
    max_record_bytes: int = 10_000_000
    """Longest line of JSONL and largest text or HTML file."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """The limits of the filters."""
    near_duplicate_jaccard: float = 0.8
    """Documents that share this part of their word 5-grams are near duplicates; the longest of a cluster stays."""
    max_containment: float = 0.8
    """A document that shares more of its own word 5-grams with one longer document is contained in it, and leaves."""
    redact: bool = True
    """Whether e-mail addresses, phone numbers, IP addresses and keys become placeholders."""
    validation_fraction: float = 0.05
    """The share of documents that is kept for validation."""

    def __post_init__(self) -> None:
        """Refuse shares outside their range."""
        if not self.sources:
            raise ValueError("sources must name at least one source")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        for name in ("near_duplicate_jaccard", "max_containment"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if self.max_record_bytes < 1:
            raise ValueError(f"max_record_bytes must be at least 1, got {self.max_record_bytes}")


class _Ledger:
    """The record of every decision."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def drop(self, document: Document, verdict: Drop) -> None:
        self._add(document.parent or document.id, document.source, "drop", verdict)

    def reject(self, rejected: Rejected) -> None:
        self._add("", rejected.source, "drop", Drop(rejected.rule, 1, 0, rejected.detail))

    def keep(self, document: Document) -> None:
        self._add(document.parent or document.id, document.source, "keep", Drop("", 0, 0, document.id))

    def _add(self, id: str, source: str, verdict: str, drop: Drop) -> None:
        self.rows.append(
            {
                "id": id,
                "source": source,
                "verdict": verdict,
                "rule": drop.rule,
                "measured": float(drop.measured),
                "limit": float(drop.limit),
                "detail": drop.detail,
            }
        )


def build(records: Iterable[Document | Rejected], config: DataConfig, seed: int, draft: Draft) -> dict[str, Any]:
    """The datasheet of the corpus, whose files are then in the draft.

    Raises:
        EmptyDataError: no document is left; says by which rules they went.
        DataError: the documents that are left are too few to be split.
    """
    ledger, sums = _Ledger(), Counter[str]()
    edits, redactions = Counter[str](), Counter[str]()
    kept: list[Document] = []
    seen: dict[int, str] = {}
    with Progress("data", unit="documents") as progress:
        for record in records:
            progress.advance()
            sums["in"] += 1
            if isinstance(record, Document) and not is_encodable(record.text):
                record = Rejected(record.source, "invalid-utf8", "half of a surrogate pair in the text")
            if isinstance(record, Rejected):
                ledger.reject(record)
                continue
            sums["bytes"] += len(record.text.encode())
            document = _edit(record, config, edits, redactions)
            verdict = _judge(document, config, seen)
            if isinstance(verdict, Drop):
                ledger.drop(document, verdict)
            else:
                kept.append(document)
        kept = _without_duplicates(kept, config, ledger)
    if not kept:
        reasons = ", ".join(f"{rule} {n}" for rule, n in _drops_by_rule(ledger).items())
        raise EmptyDataError(
            f"none of {sums['in']} documents is left ({reasons or 'there was none'})",
            remedy="add documents, or loosen the limits in data.filters",
        )
    splits = _split(kept, config, seed)
    for document in kept:
        ledger.keep(document)
    datasheet = _datasheet(sums, ledger, splits, edits, redactions)
    for warning in datasheet["warnings"]:
        say(f"data: {warning}")
    _write(draft, splits, ledger, datasheet)
    return datasheet


def _edit(document: Document, config: DataConfig, edits: Counter[str], redactions: Counter[str]) -> Document:
    for edit in (normalise, remove_markup):
        child = edit(document)
        edits[edit.__name__] += child is not document
        document = child
    if not config.redact:
        return document
    text, counts = personal.redact(document.text)
    metadata = {}
    for key, value in document.metadata.items():
        metadata[key], more = personal.redact(value)
        counts = Counter(counts) + Counter(more)
    redactions.update(counts)
    edits["redact"] += bool(counts)
    return replace(document.edited(text), metadata=metadata) if counts else document


def _judge(document: Document, config: DataConfig, seen: dict[int, str]) -> Verdict:
    """The verdict on one document; notes in ``seen`` the source of each text that stays so far."""
    verdict = judge(document, config.filters)
    if isinstance(verdict, Drop):
        return verdict
    verdict = judge_rights(document, config.unknown_licence)
    if isinstance(verdict, Drop):
        return verdict
    key = exact_key(document.text)
    if key in seen:
        return Drop("exact-duplicate", 1, 0, f"of {seen[key]}")
    seen[key] = document.source
    return KEEP


def _without_duplicates(documents: list[Document], config: DataConfig, ledger: _Ledger) -> list[Document]:
    """The documents that are neither near duplicates of another one nor contained in it."""
    sets = [shingles(document.text) for document in documents]
    texts = [document.text for document in documents]
    near = near_duplicates(texts, sets, config.near_duplicate_jaccard)
    documents, sets = _without(documents, sets, near, "near-duplicate", config.near_duplicate_jaccard, ledger)
    inside = contained(sets, config.max_containment)
    return _without(documents, sets, inside, "contained", config.max_containment, ledger)[0]


def _without(
    documents: list[Document],
    sets: list[Shingles],
    duplicates: list[Duplicate],
    rule: str,
    limit: float,
    ledger: _Ledger,
) -> tuple[list[Document], list[Shingles]]:
    for duplicate in duplicates:
        detail = f"of {documents[duplicate.kept].source}"
        ledger.drop(documents[duplicate.index], Drop(rule, duplicate.measured, limit, detail))
    leaving = {duplicate.index for duplicate in duplicates}
    staying = [index for index in range(len(documents)) if index not in leaving]
    return [documents[index] for index in staying], [sets[index] for index in staying]


def _split(documents: list[Document], config: DataConfig, seed: int) -> dict[str, list[Document]]:
    """The documents of each split: decided by name and seed alone, so that adding one moves no other."""
    limit = config.validation_fraction * (1 << 63)
    is_validation = [derive(seed, "validation", document.source) < limit for document in documents]
    if len(documents) < 2:
        raise DataError(
            "only one document is left, which cannot be split into training and validation",
            remedy="add documents, for example by cutting a long file into several",
        )
    if all(is_validation) or not any(is_validation):
        # Few documents may all fall on one side; then the one that comes first by chance changes over.
        nearest = min(range(len(documents)), key=lambda i: derive(seed, "validation", documents[i].source))
        is_validation = [index == nearest for index in range(len(documents))]
    return {
        "train": [d for d, validates in zip(documents, is_validation, strict=True) if not validates],
        "validation": [d for d, validates in zip(documents, is_validation, strict=True) if validates],
    }


def _drops_by_rule(ledger: _Ledger) -> dict[str, int]:
    counts = Counter(row["rule"] for row in ledger.rows if row["verdict"] == "drop")
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _datasheet(
    sums: Counter[str],
    ledger: _Ledger,
    splits: dict[str, list[Document]],
    edits: Counter[str],
    redactions: Counter[str],
) -> dict[str, Any]:
    documents = [document for split in splits.values() for document in split]
    drops = _drops_by_rule(ledger)
    if sums["in"] != len(documents) + sum(drops.values()):
        raise AssertionError(f"the ledger lost a document: {sums['in']} in, {len(documents)} kept, {drops} dropped")
    sizes = {
        split: {"documents": len(members), "bytes": sum(len(document.text.encode()) for document in members)}
        for split, members in splits.items()
    }
    return {
        "documents_in": sums["in"],
        "documents_kept": len(documents),
        "documents_dropped": sum(drops.values()),
        "drops_by_rule": drops,
        "bytes_in": sums["bytes"],
        "bytes_kept": sum(size["bytes"] for size in sizes.values()),
        "edits": dict(sorted(edits.items())),
        "redactions": dict(sorted(redactions.items())),
        "licences": dict(Counter(document.licence for document in documents).most_common()),
        "consents": dict(Counter(document.consent for document in documents).most_common()),
        "sources": dict(Counter(document.source.partition(":")[0] for document in documents).most_common()),
        "warnings": _warnings(documents),
        **sizes,
    }


def _warnings(documents: list[Document]) -> list[str]:
    """What whoever uses the corpus must know and may not want."""
    unknown = sum(document.licence == UNKNOWN_LICENCE for document in documents)
    if not unknown:
        return []
    return [
        f"{unknown} of {len(documents)} documents have no declared licence and are kept; declare it with licence in "
        'data.sources, or leave such documents out with data.unknown_licence="refuse"'
    ]


def _write(draft: Draft, splits: dict[str, list[Document]], ledger: _Ledger, datasheet: dict[str, Any]) -> None:
    rows = [
        {
            "id": document.id,
            "text": document.text,
            "source": document.source,
            "licence": document.licence,
            "consent": document.consent,
            "metadata": json.dumps(dict(document.metadata), sort_keys=True),
            "parent": document.parent,
            "split": split,
        }
        for split, documents in splits.items()
        for document in documents
    ]
    with output_errors(draft.path):
        for name, table, schema in (
            (DOCUMENTS_FILE, rows, _DOCUMENTS_SCHEMA),
            (LEDGER_FILE, ledger.rows, _LEDGER_SCHEMA),
        ):
            written = pyarrow.Table.from_pylist(table, schema=schema)
            pyarrow.parquet.write_table(written, draft.path / name, compression="zstd")
        (draft.path / DATASHEET_FILE).write_text(json.dumps(datasheet, indent=2) + "\n", encoding="utf-8")
    draft.facts |= {key: datasheet[key] for key in ("documents_in", "documents_kept", "documents_dropped")}


@dataclass(frozen=True)
class Corpus:
    """A corpus as it lies on the disk."""

    path: Path
    datasheet: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """The corpus of a folder.

        Raises:
            ArtifactError: its datasheet is missing or broken.
        """
        try:
            return cls(path, json.loads((path / DATASHEET_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} holds no corpus: {error}", remedy="build it again: `preceptor data`"
            ) from error

    def documents(self, split: str | None = None) -> Iterator[Document]:
        """The documents of a split, or all, in the order in which they were read."""
        table = pyarrow.parquet.read_table(self.path / DOCUMENTS_FILE)
        for row in table.to_pylist():
            if split is None or row["split"] == split:
                del row["split"]
                yield Document(**{**row, "metadata": json.loads(row["metadata"])})

    def texts(self, split: str) -> list[str]:
        """The texts of a split."""
        return [document.text for document in self.documents(split)]

    def ledger(self) -> list[dict[str, Any]]:
        """Every decision as id, source, verdict, rule, measured, limit and detail."""
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(self.path / LEDGER_FILE).to_pylist()
        return rows
