"""The shards of a corpus: one for each part, written once it is known which documents of all parts stay."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from preceptor.core.artifact import load, write_folder
from preceptor.core.errors import ArtifactError, output_errors
from preceptor.core.seeds import derive
from preceptor.data import bias, outliers
from preceptor.data.document import KEEP, Document, Drop, Verdict
from preceptor.data.executor import no_stop, pulse
from preceptor.data.filters import MEASURES, too_short
from preceptor.data.overlap import Decisions, without_repeats
from preceptor.data.part_rows import PartRows
from preceptor.data.parts import (
    DOCUMENT_FIELDS,
    DOCUMENTS,
    LEDGER,
    LEDGER_FIELDS,
    PART_LEDGER_SCHEMA,
    STATISTICS,
    Job,
    cleaner_of,
    ledger_row,
)
from preceptor.data.statistics import Statistics

SHARD_DOCUMENTS, SHARD_LEDGER, SHARD_BIAS = "documents.parquet", "ledger.parquet", "bias.json"
DOCUMENTS_SCHEMA = pyarrow.schema([*DOCUMENT_FIELDS, pyarrow.field("split", pyarrow.string())])
LEDGER_SCHEMA = pyarrow.schema(LEDGER_FIELDS)
TRAIN, VALIDATION = SPLITS = ("train", "validation")
_ROWS_IN_GROUP = 1024
_CHARACTERS_IN_GROUP = 8 << 20


@dataclass(frozen=True, slots=True)
class Finish:
    """What is known of all parts together, which one part needs: can be pickled."""

    job: Job
    decisions: Path
    limits: dict[str, tuple[float, float]]
    """The measures between which a document is no outlier."""
    validation: frozenset[str] | None = None
    """The ids of the documents for validation, where the draw left one side empty; else None."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What came of a part."""

    index: int
    num_train: int
    num_validation: int
    nearest: tuple[int, str]
    """The number that was drawn for the document which is nearest to validation, and its id."""


def write_shard(finish: Finish, index: int) -> Shard:
    """The shard of a part, whose files then lie on the disk; one that lies there already is kept.

    Raises:
        OutputError: the shard cannot be written.
    """
    job = finish.job
    name = "shards" if finish.validation is None else "shards-split"
    folder = job.work / name / f"{index:05d}"
    try:
        shard = _shard(index, load(folder, "shard", verify=False).facts)
    except ArtifactError:
        pass  # not there, or torn by a power cut: it is made anew
    else:
        pulse().add(0, PartRows([job.part(index) / DOCUMENTS], no_stop).num_rows)
        pulse().flush()
        return shard
    with write_folder(folder, "shard", job.key, {}) as draft, output_errors(draft.path):
        writer = _ShardWriter(finish, index, draft.path)
        for row, batch in _batches(job.part(index) / DOCUMENTS):
            writer.take(row, batch)
        pulse().flush()
        draft.facts |= writer.finish()
        return _shard(index, draft.facts)


def _shard(index: int, facts: dict[str, Any]) -> Shard:
    return Shard(index, facts["train"], facts["validation"], (facts["nearest"], facts["nearest_id"]))


def _batches(path: Path) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
    """The batches of a part, each with the number of its first document in the part."""
    row = 0
    with pyarrow.memory_map(str(path)) as source:
        reader = pyarrow.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield row, batch
            row += batch.num_rows


class _ShardWriter:
    """Applies what was decided to the documents of a part, and writes those that stay and the whole ledger."""

    def __init__(self, finish: Finish, index: int, folder: Path) -> None:
        self.finish_, self.folder = finish, folder
        self.job = finish.job
        self.config = self.job.config
        self.part = self.job.part(index)
        self.decisions = Decisions.open(finish.decisions).for_part(index)
        self.statistics = Statistics()
        self.bias = bias.Counter(self.config.bias)
        self.facts: dict[str, Any] = {"train": 0, "validation": 0, "nearest": 1 << 63, "nearest_id": ""}
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0
        self._ledger: list[pyarrow.RecordBatch] = []
        self._ledger_rows: list[dict[str, Any]] = []
        self._documents = pyarrow.parquet.ParquetWriter(folder / SHARD_DOCUMENTS, DOCUMENTS_SCHEMA, compression="zstd")

    def take(self, first_row: int, batch: pyarrow.RecordBatch) -> None:
        names = [field.name for field in DOCUMENT_FIELDS]
        columns = [batch.column(name).to_pylist() for name in (*names, "ordinal")]
        measures = np.stack([batch.column(f"measure_{name}").to_numpy(zero_copy_only=False) for name in MEASURES])
        for place, values in enumerate(zip(*columns, strict=True)):
            fields = dict(zip(names, values, strict=False))
            fields["metadata"] = json.loads(fields["metadata"])
            said = dict(zip(MEASURES, measures[:, place].tolist(), strict=True))
            self._take(first_row + place, values[-1], Document(**fields), said)
            pulse().add(0, 1)
        if len(self._ledger_rows) >= _ROWS_IN_GROUP:
            self._flush_ledger()

    def _take(self, row: int, ordinal: int, document: Document, measures: dict[str, float]) -> None:
        document, verdict = self._judge(row, document, measures)
        if isinstance(verdict, Drop):
            self.statistics.dropped(cleaner_of(self.job).excerpt(document), verdict, measures)
            self._note(ordinal, document, "drop", verdict)
            return
        split = self._split(document)
        self.facts[split] += 1
        self.statistics.kept(document, measures, split)
        self.bias.add(document.text, document.collection)
        self._note(ordinal, document, "keep", Drop("", 0, 0, document.id))
        self._add(document, split)
        if self.job.augmenter is not None and split == TRAIN:
            for copy in self.job.augmenter.copies(document):
                self.statistics.augmented(copy)
                self._add(copy, split)

    def _add(self, document: Document, split: str) -> None:
        self._rows.append(
            {field.name: getattr(document, field.name) for field in DOCUMENT_FIELDS}
            | {"metadata": json.dumps(dict(document.metadata), sort_keys=True), "split": split}
        )
        self._num_characters += len(document.text)
        if len(self._rows) >= _ROWS_IN_GROUP or self._num_characters >= _CHARACTERS_IN_GROUP:
            self._flush_documents()

    def _judge(self, row: int, document: Document, measures: dict[str, float]) -> tuple[Document, Verdict]:
        verdict = self.decisions.verdict(row)
        if isinstance(verdict, Drop):
            return document, verdict
        verdict = outliers.judge(measures, self.finish_.limits)
        if isinstance(verdict, Drop):
            return document, verdict
        repeats = self.decisions.repeats(row)
        if not repeats:
            return document, KEEP
        self.statistics.edited("remove_repeats")
        child = document.edited(without_repeats(document.text, repeats, self.config.overlap))
        return child, too_short(child, self.config.filters)

    def _split(self, document: Document) -> str:
        """Decided by name and seed alone, so that adding a document moves no other."""
        drawn = derive(self.job.seed, "validation", document.source)
        if drawn < self.facts["nearest"]:
            self.facts |= {"nearest": drawn, "nearest_id": document.id}
        if self.finish_.validation is not None:
            return SPLITS[document.id in self.finish_.validation]
        return SPLITS[drawn < self.config.validation_fraction * (1 << 63)]

    def _note(self, ordinal: int, document: Document, verdict: str, drop: Drop) -> None:
        row = ledger_row(document.root_id, document.source, document.collection, document.licence, verdict, drop)
        self._ledger_rows.append(row | {"ordinal": ordinal})

    def _flush_documents(self) -> None:
        if self._rows:
            self._documents.write_table(pyarrow.Table.from_pylist(self._rows, schema=DOCUMENTS_SCHEMA))
        self._rows, self._num_characters = [], 0

    def _flush_ledger(self) -> None:
        if self._ledger_rows:
            self._ledger.append(pyarrow.RecordBatch.from_pylist(self._ledger_rows, schema=PART_LEDGER_SCHEMA))
        self._ledger_rows = []

    def finish(self) -> dict[str, Any]:
        self._flush_documents()
        self._flush_ledger()
        self._documents.close()
        with pyarrow.memory_map(str(self.part / LEDGER)) as source:
            earlier = pyarrow.ipc.open_file(source).read_all()
            ledger = pyarrow.concat_tables([earlier, pyarrow.Table.from_batches(self._ledger, PART_LEDGER_SCHEMA)])
            ledger = ledger.sort_by("ordinal").drop_columns("ordinal")
            pyarrow.parquet.write_table(ledger, self.folder / SHARD_LEDGER, compression="zstd")
        said = Statistics.from_json(json.loads((self.part / STATISTICS).read_text(encoding="utf-8")))
        said.merge(self.statistics)
        (self.folder / STATISTICS).write_text(json.dumps(said.to_json()), encoding="utf-8")
        (self.folder / SHARD_BIAS).write_text(json.dumps(self.bias.to_json()), encoding="utf-8")
        return self.facts


def validation_ids(shards: list[Shard]) -> frozenset[str] | None:
    """The one document that changes over where the draw left a split empty, as few documents may; else None.

    With nothing for validation it is the one that came nearest; with nothing for training all others change over.
    """
    if sum(shard.num_train for shard in shards) and sum(shard.num_validation for shard in shards):
        return None
    return frozenset({min(shard.nearest for shard in shards)[1]})


def with_split(finish: Finish, validation: frozenset[str]) -> Finish:
    """The same work with the documents for validation named."""
    return replace(finish, validation=validation)
