"""The corpus: every document that was read is kept, or dropped with a reason, and the ledger says which."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet

from preceptor.core.artifact import Draft
from preceptor.core.errors import ArtifactError, DataError, EmptyDataError, output_errors
from preceptor.core.progress import Progress, say
from preceptor.data import bias, croissant, datasheet, index, outliers, sources
from preceptor.data.augment import Augmenter, Translate
from preceptor.data.config import DataConfig
from preceptor.data.document import Document
from preceptor.data.executor import ExecutionConfig, Executor, executor, no_stop
from preceptor.data.overlap import resolve
from preceptor.data.part_rows import PartRows
from preceptor.data.parts import DOCUMENTS, SAMPLE, STATISTICS, Job, SourceReader, Task, read_part, tasks
from preceptor.data.shards import (
    SHARD_BIAS,
    SHARD_DOCUMENTS,
    SHARD_LEDGER,
    Finish,
    Shard,
    validation_ids,
    with_split,
    write_shard,
)
from preceptor.data.statistics import Statistics
from preceptor.data.withdrawal import NOTHING_WITHDRAWN, Withdrawn

DATASHEET_FILE, DATASHEET_PAGE, CROISSANT_FILE = "datasheet.json", "datasheet.html", "croissant.json"
DOCUMENTS_FOLDER, LEDGER_FOLDER, INDEX_FOLDER = "documents", "ledger", "index"
_PIECE_BYTES = 8 << 20
_BATCH_ROWS = 1024
_ADD = "add documents, or"
_REMEDIES = {
    "unknown-licence": "say with licence in data.sources what the documents may be used under, for example "
    'licence="CC-BY-4.0", or keep documents of unknown licence with data.rights.unknown="keep"',
    "licence-not-allowed": f"{_ADD} add their licences to data.rights.allow",
    "licence-denied": f"{_ADD} take their licences out of data.rights.deny",
    "consent-missing": f"{_ADD} say with consent in data.sources what was consented to, or see data.rights.consent",
    "opted-out": f"{_ADD} look into the file that data.rights.opt_out names",
    "withdrawn": "add documents: these were withdrawn with `preceptor data forget`",
    "personal-data": f'{_ADD} set data.personal.action="placeholder", which replaces what was found',
    "contaminated": f'{_ADD} set data.contamination.action="report", which only counts',
    "other-language": f'{_ADD} change data.filters.languages, which takes codes such as "en"',
}
"""What helps when the rule took most of the documents and none is left."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where and by whom a corpus is made; none of it changes a byte of the corpus."""

    work: Path
    """A folder for the parts, from which a run that was killed goes on."""
    key: str
    """What the parts in the folder depend on; parts of another key are made anew."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    check: Callable[[], None] = no_stop
    """Called now and then; raises to stop."""


def build(
    config: DataConfig,
    seed: int,
    draft: Draft,
    workshop: Workshop,
    *,
    readers: Mapping[str, SourceReader] | None = None,
    withdrawn: Withdrawn = NOTHING_WITHDRAWN,
    translators: tuple[Translate, Translate] | None = None,
) -> dict[str, Any]:
    """The datasheet of the corpus, whose files are then in the draft.

    ``readers`` read the kinds of source that are not files; like everything here they are sent to the workers.

    Raises:
        EmptyDataError: no document is left; says by which rules they went.
        DataError: a source is missing or broken, or the documents that are left are too few to be split.
        OutputError: the parts or the corpus cannot be written.
    """
    augmenter = Augmenter.make(config.augmentation, seed, *(translators or ())) if config.augmentation.copies else None
    job = Job(config, withdrawn, seed, workshop.work, workshop.key, readers or {}, augmenter)
    work = tasks(sources.plan(config.sources, piece_bytes=_PIECE_BYTES))
    meter = _Meter()
    with (
        output_errors(workshop.work),
        executor(workshop.execution, len(work), workshop.check, meter.tell) as workers,
    ):
        _read(job, work, workers, meter)
        _require_documents(job, work)
        limits = outliers.limits(_samples(job, work), config.outliers)
        say(f"data: comparing the documents of {len(work)} parts" if len(work) > 1 else "data: comparing the documents")
        parts = [job.part(task.index) / DOCUMENTS for task in work]
        admits = partial(outliers.admits, limits)
        resolve(parts, config.overlap, job.work / "decisions", workshop.check, admits=admits)
        finish = Finish(job, job.work / "decisions", limits)
        shards = _write_shards(finish, work, workers, meter)
    workshop.check()
    statistics = _merged(job, shards)
    datasheet_ = _describe(config, statistics, shards, limits, _bias(job, shards))
    _gather(job, shards, draft, datasheet_)
    return datasheet_


class _Meter:
    """Shows how far a pass over the parts is: what workers tell as they go, and at least what is finished."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._is_by_bytes = False

    @contextmanager
    def show(self, progress: Progress, *, is_by_bytes: bool) -> Iterator[None]:
        """A block in which what is told moves a bar of bytes or of documents."""
        self._told, self._finished = [0, 0], [0, 0]
        self._is_by_bytes = is_by_bytes
        with progress:
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    def tell(self, num_bytes: int, num_records: int) -> None:
        """Count what a worker has done within a part."""
        if self._progress is not None:
            self._told = [self._told[0] + num_bytes, self._told[1] + num_records]
            self._draw(self._progress)

    def finished(self, num_bytes: int, num_records: int) -> None:
        """Count a part that is finished, of which no word may have come from the worker."""
        if self._progress is not None:
            self._finished = [self._finished[0] + num_bytes, self._finished[1] + num_records]
            self._draw(self._progress)

    def _draw(self, progress: Progress) -> None:
        num_bytes, num_records = map(max, self._told, self._finished)
        if self._is_by_bytes:
            progress.text = f"{num_records:,} records"
        done = num_bytes if self._is_by_bytes else num_records
        progress.advance(max(0, done - progress.done))


def _read(job: Job, work: Sequence[Task], workers: Executor, meter: _Meter) -> None:
    total = sum(piece.bytes for task in work for piece in task.pieces)
    progress = Progress("data: read and clean", total=total or None, unit="bytes")
    with meter.show(progress, is_by_bytes=True):
        for task, records in zip(work, workers.map(partial(read_part, job), work), strict=True):
            meter.finished(sum(piece.bytes for piece in task.pieces), records)


def _require_documents(job: Job, work: Sequence[Task]) -> None:
    """Refuse a source of which nothing could be read: whoever named it meant something by it."""
    statistics = Statistics()
    for task in work:
        text = (job.part(task.index) / STATISTICS).read_text(encoding="utf-8")
        statistics.merge(Statistics.from_json(json.loads(text)))
    for source in job.config.sources:
        if statistics.tables["collections"][source.label].get("bytes_in", 0) == 0:
            drops = {rule: number for rule, by in statistics.tables["drops"].items() if (number := by[source.label])}
            raise sources.nothing_found(source, drops)


def _samples(job: Job, work: Sequence[Task]) -> outliers.Sample:
    sample = outliers.Sample()
    for task in work:
        sample.merge(outliers.Sample.load(job.part(task.index) / SAMPLE))
    return sample


def _write_shards(finish: Finish, work: Sequence[Task], workers: Executor, meter: _Meter) -> list[Shard]:
    rows = PartRows([finish.job.part(task.index) / DOCUMENTS for task in work], no_stop)
    with meter.show(Progress("data: write", total=rows.num_rows, unit="documents"), is_by_bytes=False):
        shards = []
        for shard in workers.map(partial(write_shard, finish), [task.index for task in work]):
            shards.append(shard)
            meter.finished(0, rows.offsets[len(shards)] - rows.offsets[len(shards) - 1])
    num_kept = sum(shard.num_train + shard.num_validation for shard in shards)
    if num_kept == 0:
        drops = _merged(finish.job, shards).drops_by_rule()
        reasons = ", ".join(f"{rule} {number}" for rule, number in drops.items())
        num_in = sum(drops.values())
        raise EmptyDataError(
            f"none of {num_in} documents is left ({reasons or 'there was none'})", remedy=_remedy_for(drops)
        )
    if num_kept == 1:
        raise DataError(
            "only one document is left, which cannot be split into training and validation",
            remedy="add documents, for example by cutting a long file into several",
        )
    validation = validation_ids(shards)
    if validation is None or finish.validation is not None:
        return shards
    return _write_shards(with_split(finish, validation), work, workers, meter)


def _remedy_for(drops: Mapping[str, int]) -> str:
    most = max(drops, key=lambda rule: drops[rule], default="")
    return _REMEDIES.get(most, "add documents, or loosen the limits in data.filters")


def _shard_folder(job: Job, shard: Shard) -> Path:
    split = job.work / "shards-split"
    return (split if split.is_dir() else job.work / "shards") / f"{shard.index:05d}"


def _merged(job: Job, shards: Sequence[Shard]) -> Statistics:
    statistics = Statistics()
    for shard in shards:
        text = (_shard_folder(job, shard) / STATISTICS).read_text(encoding="utf-8")
        statistics.merge(Statistics.from_json(json.loads(text)))
    return statistics


def _bias(job: Job, shards: Sequence[Shard]) -> dict[str, Any]:
    counter = bias.Counter(job.config.bias)
    for shard in shards:
        text = (_shard_folder(job, shard) / SHARD_BIAS).read_text(encoding="utf-8")
        counter.merge(bias.Counter.from_json(json.loads(text), job.config.bias))
    return counter.summary()


def _describe(
    config: DataConfig,
    statistics: Statistics,
    shards: Sequence[Shard],
    limits: Mapping[str, tuple[float, float]],
    skew: dict[str, Any],
) -> dict[str, Any]:
    described = datasheet.build(statistics, config=config, bias=skew, outliers=limits)
    num_kept = sum(shard.num_train + shard.num_validation for shard in shards)
    if described["documents_in"] != num_kept + described["documents_dropped"]:
        raise AssertionError(
            f"the ledger lost a document: {described['documents_in']} in, {num_kept} kept, "
            f"{described['documents_dropped']} dropped"
        )
    for warning in described["warnings"]:
        say(f"data: {warning}")
    return described


def _gather(job: Job, shards: Sequence[Shard], draft: Draft, described: dict[str, Any]) -> None:
    """Move the shards into the draft, and write what is said of all of them."""
    with output_errors(draft.path):
        for folder in (DOCUMENTS_FOLDER, LEDGER_FOLDER):
            (draft.path / folder).mkdir()
        for shard in shards:
            source = _shard_folder(job, shard)
            name = f"{shard.index:05d}.parquet"
            for held, folder in ((SHARD_DOCUMENTS, DOCUMENTS_FOLDER), (SHARD_LEDGER, LEDGER_FOLDER)):
                _link(source / held, draft.path / folder / name)
        index.write_from_shards(draft.path)
        (draft.path / DATASHEET_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        datasheet.write_html(described, draft.path / DATASHEET_PAGE)
        files = sorted(str(path.relative_to(draft.path)) for path in draft.path.rglob("*.parquet"))
        metadata = croissant.build(described, files)
        (draft.path / CROISSANT_FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    draft.facts |= {key: described[key] for key in ("documents_in", "documents_kept", "documents_dropped")}


def _link(source: Path, target: Path) -> None:
    """The same file under a second name where the file system can, else a copy: the parts stay for a restart."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
        """The documents of a split, or all, in the order in which they were read; a few at a time in memory."""
        for row in _rows(self.path / DOCUMENTS_FOLDER):
            if split is None or row["split"] == split:
                del row["split"]
                yield Document(**{**row, "metadata": json.loads(row["metadata"])})

    def texts(self, split: str) -> Iterator[str]:
        """The texts of a split, a few at a time in memory."""
        for row in _rows(self.path / DOCUMENTS_FOLDER, ["text", "split"]):
            if row["split"] == split:
                yield row["text"]

    def ledger(self) -> Iterator[dict[str, Any]]:
        """Every decision as id, source, collection, licence, verdict, rule, measured, limit and detail."""
        yield from _rows(self.path / LEDGER_FOLDER)


def _rows(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
