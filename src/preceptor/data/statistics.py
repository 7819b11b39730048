"""What became of the documents of a corpus, as counts that add up whatever the order and the number of the parts."""

import hashlib
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from preceptor.data.document import Document, Drop, Rejected
from preceptor.data.histograms import Histogram, scale_of

SAMPLES_PER_RULE = 8
EXCERPT_CHARACTERS = 300
RIGHTS_RULES = frozenset(
    {"withdrawn", "opted-out", "unknown-licence", "licence-denied", "licence-not-allowed", "consent-missing"}
)
"""Rules that drop a document for want of a right to use it; a datasheet has no right to quote it either."""
_WITHOUT_EXCERPT = RIGHTS_RULES | {"personal-data"}
_PENDING_ROWS = 1024
_DETAIL_CHARACTERS = 500
_KIND_CHARACTERS = 40
_TABLES = (
    *("totals", "collections", "drops", "refused", "licences", "consents", "languages", "years"),
    *("kinds", "splits", "edits", "redactions", "notes"),
)
_HISTOGRAMS = ("kept", "dropped", "measured")

Table = dict[str, Counter[str]]


class Statistics:
    """Counts, histograms and samples of everything that happened to documents.

    Tables are counts by two names. Samples are those whose hash is smallest, so that every order of the same documents
    chooses the same ones. Nothing grows with the number of documents.
    """

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {name: defaultdict(Counter) for name in _TABLES}
        self._histograms: dict[str, dict[str, Histogram]] = {name: {} for name in _HISTOGRAMS}
        self.samples: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self._pending: dict[str, list[Mapping[str, float]]] = {name: [] for name in _HISTOGRAMS}

    def read(self, num_bytes: int, collection: str) -> None:
        """Count a document that was read, before anything was done to it."""
        self._count_in(num_bytes, collection)

    def rejected(self, rejected: Rejected, collection: str = "") -> None:
        """Count a record that could not become a document."""
        self._count_in(0, collection)
        row = {"source": rejected.source, "collection": collection, "detail": rejected.detail[:_DETAIL_CHARACTERS]}
        self._drop(rejected.rule, collection, row)

    def dropped(self, document: Document, drop: Drop, measures: Mapping[str, float]) -> None:
        """Count a document that leaves; its text is what may be shown of it."""
        self._measure("dropped", measures)
        self._measure("measured", {drop.rule: drop.measured})
        if drop.rule in RIGHTS_RULES:
            self.tables["refused"][document.licence][drop.rule] += 1
        row = {
            "id": document.root_id,
            "source": document.source,
            "collection": document.collection,
            "licence": document.licence,
            "measured": float(drop.measured),
            "limit": float(drop.limit),
            "detail": drop.detail[:_DETAIL_CHARACTERS],
        }
        if drop.rule not in _WITHOUT_EXCERPT:
            row["excerpt"] = document.text[:EXCERPT_CHARACTERS]
        self._drop(drop.rule, document.collection, row)

    def kept(self, document: Document, measures: Mapping[str, float], split: str) -> None:
        """Count a document that stays."""
        num_bytes = _num_bytes(document)
        year = document.date[:4]
        for table, name in (
            ("licences", document.licence),
            ("consents", document.consent),
            ("languages", document.language or "und"),
            ("years", year if len(year) == 4 and year.isascii() and year.isdecimal() else "unknown"),
            ("kinds", _kind(document.source)),
            ("splits", split),
            ("totals", "kept"),
        ):
            counts = self.tables[table][name]
            counts["documents"] += 1
            counts["bytes"] += num_bytes
        counts = self.tables["collections"][document.collection]
        counts["documents_kept"] += 1
        counts["bytes_kept"] += num_bytes
        counts[f"{split}_documents"] += 1
        counts[f"{split}_bytes"] += num_bytes
        self._measure("kept", measures)

    def augmented(self, document: Document) -> None:
        """Count a noisy copy that was made of a document."""
        counts = self.tables["totals"]["augmented"]
        counts["documents"] += 1
        counts["bytes"] += _num_bytes(document)
        self.tables["collections"][document.collection]["documents_augmented"] += 1

    def edited(self, name: str) -> None:
        """Count a document that an edit changed."""
        self.tables["edits"][name]["documents"] += 1

    def redacted(self, counts: Mapping[str, int], collection: str) -> None:
        """Count spans of personal data that were replaced in a document, by kind."""
        for kind, number in counts.items():
            if number:
                self.tables["redactions"][kind][collection] += number

    def noted(self, topic: str, name: str, number: int = 1) -> None:
        """Count something that changed nothing, such as words of an evaluation set in a document that stays."""
        self.tables["notes"][topic][name] += number

    def merge(self, other: "Statistics") -> None:
        """Add what another part has counted."""
        for name, table in other.tables.items():
            for key, counts in table.items():
                self.tables[name][key].update(counts)
        for name, histograms in other.histograms.items():
            for measure, histogram in histograms.items():
                self._histogram(name, measure).merge(histogram)
        for rule, rows in other.samples.items():
            for key, row in rows:
                self._sample(rule, key, row)

    @property
    def histograms(self) -> dict[str, dict[str, Histogram]]:
        """The measures of documents that were kept and dropped, and what each rule has measured, by name."""
        for side in _HISTOGRAMS:
            self._settle(side)
        return self._histograms

    def drops_by_rule(self) -> dict[str, int]:
        """The number of documents that each rule dropped, the most frequent rule first."""
        totals = {rule: counts.total() for rule, counts in self.tables["drops"].items()}
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold, the same for the same documents in any order."""
        return {
            "tables": {
                name: {key: dict(sorted(counts.items())) for key, counts in sorted(table.items())}
                for name, table in self.tables.items()
            },
            "histograms": {
                name: {measure: histogram.to_json() for measure, histogram in sorted(histograms.items())}
                for name, histograms in self.histograms.items()
            },
            "samples": {rule: [[key, row] for key, row in rows] for rule, rows in sorted(self.samples.items())},
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Statistics":
        """The statistics that ``to_json`` wrote."""
        statistics = cls()
        for name, counted in table["tables"].items():
            for key, counts in counted.items():
                statistics.tables[name][key] = Counter(counts)
        for name, histograms in table["histograms"].items():
            statistics._histograms[name] = {key: Histogram.from_json(value) for key, value in histograms.items()}
        statistics.samples = {rule: [(key, row) for key, row in rows] for rule, rows in table["samples"].items()}
        return statistics

    def _count_in(self, num_bytes: int, collection: str) -> None:
        counts = self.tables["totals"]["in"]
        counts["documents"] += 1
        counts["bytes"] += num_bytes
        counts = self.tables["collections"][collection]
        counts["documents_in"] += 1
        counts["bytes_in"] += num_bytes

    def _drop(self, rule: str, collection: str, row: dict[str, Any]) -> None:
        self.tables["drops"][rule][collection] += 1
        self.tables["collections"][collection]["documents_dropped"] += 1
        named = f"{row.get('id', '')}\n{row['source']}\n{row['detail']}".encode("utf-8", "surrogatepass")
        self._sample(rule, hashlib.blake2b(named, digest_size=8).hexdigest(), row)

    def _sample(self, rule: str, key: str, row: dict[str, Any]) -> None:
        rows = self.samples.setdefault(rule, [])
        if len(rows) == SAMPLES_PER_RULE and key > rows[-1][0]:
            return
        insort(rows, (key, row), key=_order)
        del rows[SAMPLES_PER_RULE:]

    def _measure(self, side: str, measures: Mapping[str, float]) -> None:
        # Rows wait until there are many, since numpy counts a thousand as fast as ten.
        rows = self._pending[side]
        rows.append(dict(measures))
        if len(rows) == _PENDING_ROWS:
            self._settle(side)

    def _settle(self, side: str) -> None:
        rows, self._pending[side] = self._pending[side], []
        for name in dict.fromkeys(name for row in rows for name in row):
            self._histogram(side, name).add([row[name] for row in rows if name in row])

    def _histogram(self, side: str, name: str) -> Histogram:
        histograms = self._histograms[side]
        if name not in histograms:
            # What a rule has measured may be anything, a share or a count.
            histograms[name] = Histogram("log" if side == "measured" else scale_of(name))
        return histograms[name]


def _num_bytes(document: Document) -> int:
    return len(document.text.encode("utf-8", "surrogatepass"))


def _kind(source: str) -> str:
    """What stands before the colon: ``file`` or ``python``; a name without one says nothing of its kind."""
    kind, colon, _ = source.partition(":")
    return kind if colon and len(kind) <= _KIND_CHARACTERS else "other"


def _order(sample: tuple[str, dict[str, Any]]) -> tuple[str, str]:
    """The order of samples, also of two that are named alike."""
    return sample[0], repr(sorted(sample[1].items()))
