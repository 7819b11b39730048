"""The corpus: every document that was read is kept, or dropped with a reason, and the ledger says which."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from preceptor.core.artifact import Draft
from preceptor.core.errors import ArtifactError, DataError, EmptyDataError, output_errors
from preceptor.core.progress import Progress
from preceptor.core.seeds import derive
from preceptor.data import personal
from preceptor.data.document import UNKNOWN_LICENCE, Document, Drop, Rejected
from preceptor.data.edits import normalise, remove_markup
from preceptor.data.filters import FilterConfig, judge
from preceptor.data.overlap import exact_key, near_duplicate_clusters
from preceptor.data.sources import SourceConfig

DOCUMENTS_FILE, LEDGER_FILE, DATASHEET_FILE = "documents.parquet", "ledger.parquet", "datasheet.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where documents come from and what is done to them."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(kind="python-docs", licence="PSF-2.0", consent="by-licence"),)
    """The sources, read one after the other."""
    unknown_licence: Literal["keep", "refuse"] = "keep"
    """What happens to a document whose licence nobody declared: it stays and is said, or it is dropped."""
    on_bad_input: Literal["stop", "reject"] = "stop"
    """Whether a record that cannot be read stops the run or is left out and counted."""
    max_record_bytes: int = 10_000_000
    """Longest line of JSONL and largest text or HTML file."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """The limits of the filters."""
    near_duplicate_jaccard: float = 0.8
    """Documents that share this part of their word 5-grams are near duplicates; the longest of a cluster stays."""
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
        if not 0 < self.near_duplicate_jaccard <= 1:
            raise ValueError(f"near_duplicate_jaccard must be above 0 and at most 1, got {self.near_duplicate_jaccard}")
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
            if isinstance(record, Rejected):
                ledger.reject(record)
                continue
            sums["bytes"] += len(record.text.encode())
            document = _edit(record, config, edits, redactions)
            verdict = judge(document, config.filters)
            if isinstance(verdict, Drop):
                ledger.drop(document, verdict)
            elif document.licence == UNKNOWN_LICENCE and config.unknown_licence == "refuse":
                ledger.drop(document, Drop("unknown-licence", 1, 0))
            elif (key := exact_key(document.text)) in seen:
                ledger.drop(document, Drop("exact-duplicate", 1, 0, f"of {seen[key]}"))
            else:
                seen[key] = document.source
                kept.append(document)
    kept = _without_near_duplicates(kept, config, ledger)
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
    _write(draft, splits, ledger, datasheet)
    return datasheet


def _edit(document: Document, config: DataConfig, edits: Counter[str], redactions: Counter[str]) -> Document:
    for edit in (normalise, remove_markup):
        child = edit(document)
        edits[edit.__name__] += child is not document
        document = child
    if config.redact:
        text, counts = personal.redact(document.text)
        redactions.update(counts)
        edits["redact"] += bool(counts)
        document = document.edited(text)
    return document


def _without_near_duplicates(documents: list[Document], config: DataConfig, ledger: _Ledger) -> list[Document]:
    dropped = set()
    texts = [document.text for document in documents]
    for cluster in near_duplicate_clusters(texts, config.near_duplicate_jaccard):
        best = documents[cluster[0][0]]
        for index, similarity in cluster[1:]:
            dropped.add(index)
            rule = Drop("near-duplicate", similarity, config.near_duplicate_jaccard, f"of {best.source}")
            ledger.drop(documents[index], rule)
    return [document for index, document in enumerate(documents) if index not in dropped]


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
        **sizes,
    }


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
        for name, table in ((DOCUMENTS_FILE, rows), (LEDGER_FILE, ledger.rows)):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), draft.path / name, compression="zstd")
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
