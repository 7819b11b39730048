"""Contamination: documents that hold pieces of an evaluation set, so that a model would know the answers by heart."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from preceptor.core.errors import DataError
from preceptor.data.document import KEEP, Document, Drop, Verdict
from preceptor.data.fingerprints import Hashes, ngrams, ngrams_of, word_hashes
from preceptor.data.sketch import words_by_text
from preceptor.data.words import WORD

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
_MAX_FIELD_BYTES = 1 << 27
_MAX_TABLE_BITS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class ContaminationConfig:
    """Evaluation sets that must not be trained on."""

    paths: tuple[str, ...] = ()
    """Files or folders of evaluation sets: JSONL, JSON, CSV, TSV, Parquet or text, also with .gz; every text in them
    counts."""
    ngram_words: int = 13
    """So many words in a row that an evaluation set has too are contamination."""
    min_words: int = 8
    """A text of an evaluation set with fewer words than an n-gram counts as a whole, unless it has fewer than these."""
    max_share: float = 0.0
    """The share of a document's words that may stand in evaluation sets; 0: not one n-gram."""
    action: Literal["remove", "report"] = "remove"
    """Whether a contaminated document leaves, or stays and is only counted."""

    def __post_init__(self) -> None:
        """Refuse counts below one and shares outside their range."""
        for name in ("ngram_words", "min_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.max_share <= 1:
            raise ValueError(f"max_share must be between 0 and 1, got {self.max_share}")


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a document has in common with evaluation sets."""

    share: float
    """The part of its words that stands there."""
    evaluation_set: str
    """The set that the first common n-gram is from."""
    ngram: str
    """The first common n-gram."""


class Contamination:
    """The n-grams of evaluation sets, as sorted numbers. Can be pickled.

    Source: Brown et al. 2020, appendix C, for 13-grams, and shorter ones where a text is shorter.
    """

    def __init__(self, texts_by_set: Mapping[str, Iterable[str]], config: ContaminationConfig | None = None) -> None:
        self.config = config or ContaminationConfig()
        self.names = list(texts_by_set)
        found: dict[int, list[tuple[Hashes, int]]] = {}
        for number, texts in enumerate(texts_by_set.values()):
            for words, offsets in words_by_text(texts):
                for size, grams in self._ngrams(words, offsets):
                    found.setdefault(size, []).append((grams, number))
        self._grams: dict[int, tuple[Hashes, NDArray[np.uint32]]] = {}
        for size, members in sorted(found.items(), reverse=True):
            hashes = np.concatenate([grams for grams, _ in members])
            sets = np.repeat([number for _, number in members], [len(grams) for grams, _ in members])
            # Of several sets that have an n-gram, the first is named.
            distinct, first = np.unique(hashes, return_index=True)
            self._grams[size] = distinct, sets[first].astype(np.uint32)
        # Most n-grams of most documents are in no set; a look into a small table says so faster than a search.
        num_bits = min(_MAX_TABLE_BITS, max(10, (16 * len(self)).bit_length()))
        self._shift = np.uint64(64 - num_bits)
        self._may_be_known = np.zeros(1 << num_bits, np.bool_)
        for distinct, _ in self._grams.values():
            self._may_be_known[distinct >> self._shift] = True

    @classmethod
    def load(cls, config: ContaminationConfig) -> "Contamination":
        """The n-grams of the evaluation sets that the recipe names.

        Raises:
            DataError: a file is missing, of no known format, broken, or without text.
        """
        return cls({str(path): _texts(path) for path in _files(config)}, config)

    def _ngrams(self, words: Hashes, offsets: NDArray[np.int64]) -> Iterator[tuple[int, Hashes]]:
        """The n-grams of some texts, and the whole of those that are shorter, by the number of their words."""
        longest = self.config.ngram_words
        sizes = np.minimum(np.diff(offsets), longest)
        for size in np.unique(sizes[sizes >= min(self.config.min_words, longest)]).tolist():
            grams, gram_offsets = ngrams(words, offsets, size)
            yield size, grams[np.repeat(sizes == size, np.diff(gram_offsets))]

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._grams.values())

    def find(self, text: str) -> Overlap | None:
        """What a text has in common with the evaluation sets, if anything."""
        first: tuple[int, int, int] | None = None
        hashes = word_hashes(text)
        is_covered = np.zeros(len(hashes), np.bool_)
        for size, (known, sets) in self._grams.items():
            if size > len(hashes):
                continue
            grams = ngrams_of(hashes, size)
            places = np.flatnonzero(self._may_be_known[grams >> self._shift])
            entries = np.minimum(np.searchsorted(known, grams[places]), len(known) - 1)
            is_hit = known[entries] == grams[places]
            hits = places[is_hit]
            if not len(hits):
                continue
            for offset in range(size):
                is_covered[hits + offset] = True
            if first is None or hits[0] < first[0]:
                first = int(hits[0]), size, int(sets[entries[is_hit][0]])
        if first is None:
            return None
        words = islice(WORD.finditer(text.lower()), first[0], first[0] + first[1])
        ngram = " ".join(match[0] for match in words)
        return Overlap(float(np.mean(is_covered)), self.names[first[2]], ngram)

    def judge(self, document: Document) -> Verdict:
        """Drops a document that has too much in common with the evaluation sets."""
        overlap = self._too_much(document) if self.config.action == "remove" else None
        if overlap is None:
            return KEEP
        detail = f"{overlap.evaluation_set}: {overlap.ngram}"
        return Drop("contaminated", overlap.share, self.config.max_share, detail)

    def note(self, document: Document) -> str | None:
        """The evaluation set of which a document has too much that stays all the same, since it is only reported."""
        overlap = self._too_much(document) if self.config.action == "report" else None
        return overlap.evaluation_set if overlap is not None else None

    def _too_much(self, document: Document) -> Overlap | None:
        overlap = self.find(document.text)
        return overlap if overlap is not None and overlap.share > self.config.max_share else None


def inputs(config: ContaminationConfig) -> list[str]:
    """For each file of the evaluation sets its name and the digest of its content, on which a corpus depends."""
    lines = []
    for path in _files(config):
        with path.open("rb") as file:
            lines.append(f"{path} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return lines


def _files(config: ContaminationConfig) -> list[Path]:
    files: list[Path] = []
    for name in config.paths:
        path = Path(name)
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.is_file() and _format(each))
        else:
            found = [path] if path.is_file() and _format(path) else []
        if not found:
            reason = "is of no known format" if path.is_file() else "has no evaluation set"
            raise DataError(
                f"{name} {reason}" if path.exists() else f"{name} does not exist",
                remedy=f"name a file or folder with {', '.join(_SUFFIXES)} in data.contamination.paths",
            )
        files += found
    return files


def _format(path: Path) -> str:
    """The suffix that says what is in a file, or the empty string."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")


def _texts(path: Path) -> Iterator[str]:
    suffix = _format(path)
    is_empty = True
    try:
        for text in _texts_of_parquet(path) if suffix == ".parquet" else _texts_of_file(path, suffix):
            is_empty = False
            yield text
    except (OSError, EOFError, UnicodeDecodeError, RecursionError, csv.Error, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path}: cannot be read as {suffix[1:]}: {error}", remedy="repair the file, or take it out of the recipe"
        ) from error
    if is_empty:
        raise DataError(f"{path}: holds no text", remedy="take it out of data.contamination.paths")


def _texts_of_parquet(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield from _strings(row)


def _texts_of_file(path: Path, suffix: str) -> Iterator[str]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as file:
        if suffix in (".jsonl", ".ndjson"):
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from _strings(_parsed(line, f"{path}:{number}"))
        elif suffix == ".json":
            yield from _strings(_parsed(file.read(), str(path)))
        elif suffix in (".csv", ".tsv"):
            csv.field_size_limit(_MAX_FIELD_BYTES)
            for row in csv.reader(file, delimiter="\t" if suffix == ".tsv" else ","):
                yield from row
        else:
            yield file.read()


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: is no JSON: {error}", remedy="repair the line, or take the file out") from error


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, however deep."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += reversed(list(value.values()))
        elif isinstance(value, list):
            waiting += reversed(value)
