"""The parts of a corpus that is being made: which pieces make a part, and the documents of one part on the disk.

A part is read and cleaned by one worker, and stands on the disk whole or not at all. Which documents are in which part
depends on the sources alone, so that the number of workers changes nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow

from preceptor.core.artifact import load, write_folder
from preceptor.core.errors import ArtifactError, output_errors
from preceptor.data.augment import Augmenter
from preceptor.data.cleaning import Cleaned, Cleaner
from preceptor.data.config import DataConfig
from preceptor.data.document import UNKNOWN_LICENCE, Document, Drop, Rejected, is_encodable
from preceptor.data.executor import pulse
from preceptor.data.filters import MEASURES
from preceptor.data.outliers import Sample
from preceptor.data.overlap import SKETCH_FIELDS, sketch_many
from preceptor.data.sources import Piece, Reader, SourceConfig
from preceptor.data.statistics import Statistics
from preceptor.data.withdrawal import Withdrawn

DOCUMENTS, LEDGER, STATISTICS, SAMPLE = "documents.arrow", "ledger.arrow", "statistics.json", "sample.npz"
_PART_BYTES = 8 << 20
_PART_PIECES = 4096
_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 4 << 20

DOCUMENT_FIELDS = [
    pyarrow.field(name, pyarrow.string())
    for name in (
        *("id", "text", "source", "collection", "licence", "consent", "origin", "date", "language"),
        *("metadata", "parent"),
    )
]
_PART_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("ordinal", pyarrow.int64()),
        *DOCUMENT_FIELDS,
        pyarrow.field("quality", pyarrow.float64()),
        *(pyarrow.field(f"measure_{name}", pyarrow.float32()) for name in MEASURES),
        *SKETCH_FIELDS,
    ]
)
LEDGER_FIELDS = [
    *(pyarrow.field(name, pyarrow.string()) for name in ("id", "source", "collection", "licence", "verdict", "rule")),
    *(pyarrow.field(name, pyarrow.float64()) for name in ("measured", "limit")),
    pyarrow.field("detail", pyarrow.string()),
]
PART_LEDGER_SCHEMA = pyarrow.schema([pyarrow.field("ordinal", pyarrow.int64()), *LEDGER_FIELDS])

SourceReader = Callable[[SourceConfig], Iterator[Document | Rejected]]


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker is told: what is done to documents, and where the parts lie. Can be pickled."""

    config: DataConfig
    withdrawn: Withdrawn
    seed: int
    work: Path
    key: str
    readers: Mapping[str, SourceReader] = field(default_factory=dict)
    """Readers of the kinds of source that are not files, by kind."""
    augmenter: Augmenter | None = None

    def part(self, index: int) -> Path:
        """The folder of a part that has been read."""
        return self.work / "parts" / f"{index:05d}"


@dataclass(frozen=True, slots=True)
class Task:
    """One part: its number, and the pieces that are read for it."""

    index: int
    pieces: tuple[Piece, ...]


def tasks(pieces: Sequence[Piece]) -> list[Task]:
    """The pieces in order, gathered to parts of about one size."""
    gathered: list[list[Piece]] = []
    num_bytes = 0
    for piece in pieces:
        if not gathered or num_bytes + piece.bytes > _PART_BYTES or len(gathered[-1]) >= _PART_PIECES:
            gathered.append([])
            num_bytes = 0
        gathered[-1].append(piece)
        num_bytes += piece.bytes
    return [Task(index, tuple(members)) for index, members in enumerate(gathered)]


_cleaner: tuple[tuple[DataConfig, Withdrawn], Cleaner] | None = None


def cleaner_of(job: Job) -> Cleaner:
    """The cleaner of a job, made once in each process."""
    global _cleaner
    if _cleaner is None or _cleaner[0] != (job.config, job.withdrawn):
        _cleaner = (job.config, job.withdrawn), Cleaner(job.config, job.withdrawn)
    return _cleaner[1]


def read_part(job: Job, task: Task) -> int:
    """The number of records of a part, which then lies on the disk; one that lies there already is kept.

    Raises:
        DataError: a record is bad, and bad records stop the run.
        OutputError: the part cannot be written.
    """
    folder = job.part(task.index)
    try:
        num_records = int(load(folder, "part", verify=False).facts["records"])
    except ArtifactError:
        pass  # not there, or torn by a power cut: it is made anew
    else:
        pulse().add(sum(piece.bytes for piece in task.pieces), num_records)
        pulse().flush()
        return num_records
    with write_folder(folder, "part", job.key, {}) as draft, output_errors(draft.path):
        writer = _PartWriter(job, draft.path)
        for piece in task.pieces:
            left = piece.bytes
            for record in records(job, piece):
                writer.take(record, piece)
                # How far the reader is in the file is not known; the text that came out of it tells it well enough.
                advanced = min(left, len(record.text)) if isinstance(record, Document) else 0
                left -= advanced
                pulse().add(advanced, 1)
            pulse().add(left)
        pulse().flush()
        draft.facts["records"] = writer.finish()
        return int(draft.facts["records"])


def records(job: Job, piece: Piece) -> Iterator[Document | Rejected]:
    """The records of a piece."""
    config = job.config
    source = config.sources[piece.source]
    if source.kind in job.readers:
        yield from job.readers[source.kind](source)
        return
    reader = Reader(
        config.sources,
        config.max_record_bytes,
        config.on_bad_input == "stop",
        detect_licences=config.rights.detect,
    )
    yield from reader.read_piece(piece)


class _PartWriter:
    """Cleans records and writes what stays and what leaves, some hundred documents at a time."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.cleaner = cleaner_of(job)
        self.statistics = Statistics()
        self.sample = Sample()
        self.num_records = 0
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0
        self._dropped: list[dict[str, Any]] = []
        self._documents = pyarrow.ipc.new_file(str(folder / DOCUMENTS), _PART_SCHEMA, options=_ipc_options())
        self._ledger = pyarrow.ipc.new_file(str(folder / LEDGER), PART_LEDGER_SCHEMA, options=_ipc_options())

    def take(self, record: Document | Rejected, piece: Piece) -> None:
        collection = self.job.config.sources[piece.source].label
        if isinstance(record, Document) and not is_encodable(record.text):
            record = Rejected(record.source, "invalid-utf8", "half of a surrogate pair in the text")
        if isinstance(record, Rejected):
            self.statistics.rejected(record, collection)
            self._drop("", record.source, collection, "", Drop(record.rule, 1, 0, record.detail))
        else:
            self.statistics.read(len(record.text.encode()), collection)
            if not record.collection:
                record = replace(record, collection=collection)
            self._take_document(self.cleaner.clean(record))
        self.num_records += 1
        if len(self._rows) >= _BATCH_DOCUMENTS or self._num_characters >= _BATCH_CHARACTERS:
            self._flush_documents()
        if len(self._dropped) >= _BATCH_DOCUMENTS:
            self._flush_ledger()

    def _take_document(self, cleaned: Cleaned) -> None:
        document = cleaned.document
        for name in cleaned.edits:
            self.statistics.edited(name)
        if isinstance(cleaned.verdict, Drop):
            self.statistics.dropped(self.cleaner.excerpt(document), cleaned.verdict, cleaned.measures)
            self._drop(document.root_id, document.source, document.collection, document.licence, cleaned.verdict)
            return
        self.statistics.redacted(cleaned.redactions, document.collection)
        if cleaned.contaminated_by:
            self.statistics.noted("contaminated", cleaned.contaminated_by)
        self.sample.add(document.root_id, cleaned.measures)
        row = {name.name: getattr(document, name.name) for name in DOCUMENT_FIELDS}
        row |= {"ordinal": self.num_records, "quality": _quality(document)}
        row["metadata"] = json.dumps(dict(document.metadata), sort_keys=True)
        self._rows.append(row | {f"measure_{name}": cleaned.measures[name] for name in MEASURES})
        self._num_characters += len(document.text)

    def _drop(self, id: str, source: str, collection: str, licence: str, drop: Drop) -> None:
        row = ledger_row(id, source, collection, licence, "drop", drop)
        self._dropped.append(row | {"ordinal": self.num_records})

    def _flush_documents(self) -> None:
        if self._rows:
            sketches = sketch_many([row["text"] for row in self._rows], self.job.config.overlap)
            columns = [
                sketches[field.name]
                if field.name in sketches
                else pyarrow.array([row[field.name] for row in self._rows], field.type)
                for field in _PART_SCHEMA
            ]
            self._documents.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=_PART_SCHEMA))
        self._rows, self._num_characters = [], 0

    def _flush_ledger(self) -> None:
        if self._dropped:
            self._ledger.write_batch(pyarrow.RecordBatch.from_pylist(self._dropped, schema=PART_LEDGER_SCHEMA))
        self._dropped = []

    def finish(self) -> int:
        self._flush_documents()
        self._flush_ledger()
        self._documents.close()
        self._ledger.close()
        (self.folder / STATISTICS).write_text(json.dumps(self.statistics.to_json()), encoding="utf-8")
        self.sample.save(self.folder / SAMPLE)
        return self.num_records


def ledger_row(id: str, source: str, collection: str, licence: str, verdict: str, drop: Drop) -> dict[str, Any]:
    """A row of the ledger."""
    return {
        "id": id,
        "source": source,
        "collection": collection,
        "licence": licence,
        "verdict": verdict,
        "rule": drop.rule,
        "measured": float(drop.measured),
        "limit": float(drop.limit),
        "detail": drop.detail,
    }


def _quality(document: Document) -> float:
    """Which of several duplicates should stay: one that is known to be free to use, and one that knows its origin."""
    return 2.0 * (document.licence != UNKNOWN_LICENCE) + bool(document.origin) + 0.5 * bool(document.date)


def _ipc_options() -> Any:
    return pyarrow.ipc.IpcWriteOptions(compression="lz4")
