"""What documents share: exact and near duplicates, repeated paragraphs and lines, found among all at once."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import xxhash
from numpy.typing import NDArray

from preceptor.core.errors import output_errors
from preceptor.data.decisions import (
    DUPLICATE_ID,
    EXACT_DUPLICATE,
    NEAR_DUPLICATE,
    NOT_COMPARED,
    REPEATED_ELSEWHERE,
    STAYS,
    Decisions,
    DecisionWriter,
)
from preceptor.data.external import MEMORY_BYTES, Records, Sorter, new_rows, release, with_leaders
from preceptor.data.fingerprints import ngrams_of, word_hashes
from preceptor.data.near import best_first, find_clusters, rank_of_quality
from preceptor.data.part_rows import PartRows
from preceptor.data.repeats import RepeatedParagraphs, frequent_lines, without_repeats
from preceptor.data.sketch import SKETCH_FIELDS, OverlapConfig, band_rows, exact_key, sketch, sketch_many

__all__ = [
    "SKETCH_FIELDS",
    "Decisions",
    "OverlapConfig",
    "band_rows",
    "exact_key",
    "jaccard",
    "resolve",
    "shingles",
    "sketch",
    "sketch_many",
    "without_repeats",
]

SHINGLE_WORDS = 5

Shingles = frozenset[int]
Admits = Callable[[pyarrow.RecordBatch], NDArray[np.bool_]]


def shingles(text: str, num_words: int = SHINGLE_WORDS) -> Shingles:
    """The word n-grams of a text as numbers; a text of fewer words is one."""
    return frozenset(ngrams_of(word_hashes(text), num_words).tolist())


def jaccard(first: Shingles, second: Shingles) -> float:
    """The share of all shingles of two texts that they have in common."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def resolve(
    parts: Sequence[Path],
    config: OverlapConfig,
    folder: Path,
    stop_check: Callable[[], None],
    *,
    admits: Admits | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Decisions:
    """What is decided about the documents of all parts, which then lies in the folder.

    Parts are Arrow files with the columns id, source, quality, text and those of ``SKETCH_FIELDS``; parent, collection
    and metadata where there are any. Of equal ids the first stays; of equal texts that of the best quality, then the
    first; of near duplicates that of the best quality, then the longest, then the first; of documents that repeat a
    paragraph the longest, then the first, keeps it. Memory does not grow with the documents, and how much of it there
    is changes nothing.

    ``admits`` says of a batch, without its texts, which documents are compared at all, so that nothing leaves for one
    that another rule will drop.

    Raises:
        OutputError: the folder cannot be written.
        ArtifactError: a part lacks a column.
    """
    with output_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        work = folder / "work"
        work.mkdir(parents=True)
        decisions = _Comparison(PartRows(parts, stop_check), config, folder, work, memory_bytes).run(admits)
        shutil.rmtree(work)
    return decisions


class _Comparison:
    """The steps of ``resolve``, in their order: each looks at what the earlier ones left."""

    def __init__(self, parts: PartRows, config: OverlapConfig, folder: Path, work: Path, memory: int) -> None:
        self.parts, self.config, self.work, self.memory = parts, config, work, memory
        self.writer = DecisionWriter(folder, parts.num_rows)
        self.quality = new_rows(work / "quality.bin", np.uint32, parts.num_rows)
        self.characters = new_rows(work / "characters.bin", np.uint32, parts.num_rows)

    def run(self, admits: Admits | None) -> Decisions:
        roots, stated = self._sorter("roots"), self._sorter("stated_ids")
        self._read(admits, roots, stated)
        self._drop_duplicate_ids(roots)
        if self.config.duplicate_ids == "drop":
            self._drop_duplicate_ids(stated)
        stated.close()
        self._drop_exact_duplicates()
        if self.config.near_jaccard:
            self._drop_near_duplicates()
        lines = frequent_lines(self.parts, self.writer.is_left, self.config, self.work, self.memory)
        cuts = self._sorter("cuts")
        if self.config.repeated_paragraphs:
            self._cut_paragraphs(cuts)
        for records in map(partial(self._left, column=0), lines.chunks()):
            cuts.add(records[:, 0], records[:, 1])
        limits = {
            DUPLICATE_ID: 0.0,
            EXACT_DUPLICATE: 0.0,
            NEAR_DUPLICATE: self.config.near_jaccard,
            REPEATED_ELSEWHERE: self.config.max_repeated_fraction,
        }
        decisions = self.writer.finish(self.parts.offsets, limits, cuts.chunks())
        lines.close()
        cuts.close()
        return decisions

    def _sorter(self, name: str, num_columns: int = 2) -> Sorter:
        return Sorter(self.work / f"{name}.bin", num_columns, memory_bytes=self.memory)

    def _read(self, admits: Admits | None, roots: Sorter, stated: Sorter) -> None:
        """Note of every document what it is called, where it came from, how long it is and how good."""
        names = ["id", "parent", "source", "collection", "metadata", "quality", "characters"]
        for first, batch in self.parts.batches(names):
            rows = np.arange(first, first + batch.num_rows)
            self.quality[rows] = rank_of_quality(batch.column("quality").to_numpy(zero_copy_only=False))
            self.characters[rows] = batch.column("characters").to_numpy()
            self.writer.name_sources(first, batch.column("source").to_pylist())
            roots.add(_digests(_root_ids(batch)), rows)
            places, ids = _stated_ids(batch)
            stated.add(_digests(ids), rows[places])
            release(self.quality, self.characters)
        if admits is not None:
            for first, batch in self.parts.batches_without("text"):
                refused = first + np.flatnonzero(~admits(batch))
                self.writer.rules[refused] = NOT_COMPARED
                release(self.writer.rules)

    def _drop_duplicate_ids(self, ids: Sorter) -> None:
        for records, leaders in with_leaders(map(self._left, ids.chunks())):
            repeats = records[:, 1] != leaders[:, 1]
            self.writer.drop(DUPLICATE_ID, records[repeats, 1], leaders[repeats, 1], 1.0)
        ids.close()

    def _left(self, records: Records, column: int = 1) -> Records:
        left: Records = records[self.writer.rules[records[:, column]] == STAYS]
        release(self.writer.rules)
        return left

    def _drop_exact_duplicates(self) -> None:
        sorter = self._sorter("exact", 3)
        for first, batch in self.parts.batches(["exact_key"]):
            places = np.flatnonzero(self.writer.is_left(first, first + batch.num_rows))
            keys = np.frombuffer(batch.column("exact_key").buffers()[1], ">u8").reshape(-1, 2)[places]
            rows = first + places
            order = (self.quality[rows].astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)
            sorter.add(keys[:, 0], order, keys[:, 1])
            release(self.quality)
        for records, leaders in with_leaders(sorter.chunks()):
            ours, kept = (each[:, 1] & np.uint64((1 << 32) - 1) for each in (records, leaders))
            repeats = (ours != kept) & (records[:, 2] == leaders[:, 2])
            self.writer.drop(EXACT_DUPLICATE, ours[repeats], kept[repeats], 1.0)
        sorter.close()

    def _drop_near_duplicates(self) -> None:
        clusters = find_clusters(self.parts, self.writer.is_left, self.config, self.work, self.memory)
        sorter = best_first(clusters, self.quality, self.characters, self.work, self.memory)
        for records, leaders in with_leaders(sorter.chunks()):
            repeats = records[:, 2] != leaders[:, 2]
            rows = records[repeats, 2]
            self.writer.drop(NEAR_DUPLICATE, rows, leaders[repeats, 2], clusters.nearest[rows])
        sorter.close()

    def _cut_paragraphs(self, cuts: Sorter) -> None:
        paragraphs = RepeatedParagraphs(
            self.parts, self.writer.is_left, self.characters, self.config, self.work, self.memory
        )
        paragraphs.settle()
        for start in range(0, self.parts.num_rows, 1 << 18):
            rows = start + np.flatnonzero(paragraphs.is_gone[start : start + (1 << 18)])
            self.writer.drop(
                REPEATED_ELSEWHERE,
                rows,
                paragraphs.owners[rows],
                paragraphs.share(start, start + (1 << 18))[rows - start],
            )
        for records in paragraphs.cuts():
            cuts.add(records[:, 0], records[:, 1])


def _root_ids(batch: pyarrow.RecordBatch) -> list[str]:
    ids: list[str] = batch.column("id").to_pylist()
    if "parent" not in batch.schema.names:
        return ids
    return [parent or id for id, parent in zip(ids, batch.column("parent").to_pylist(), strict=True)]


def _stated_ids(batch: pyarrow.RecordBatch) -> tuple[NDArray[np.int64], list[str]]:
    """Which documents' records state an id, and the collections with the ids."""
    places, ids = [], []
    if {"metadata", "collection"} <= set(batch.schema.names):
        columns = (batch.column(name).to_pylist() for name in ("metadata", "collection"))
        for place, (metadata, collection) in enumerate(zip(*columns, strict=True)):
            if '"id"' in metadata and (stated := json.loads(metadata).get("id")):
                places.append(place)
                ids.append(f"{collection}\n{stated}")
    return np.array(places, np.int64), ids


def _digests(names: Sequence[str]) -> NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")) for name in names], np.uint64)
