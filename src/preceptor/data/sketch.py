"""What is remembered of a text to find what it shares with others: a digest, MinHash bands, paragraphs and lines."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow
import rensa
import xxhash
from numpy.typing import NDArray

from preceptor.data.fingerprints import (
    GRAM_BASE,
    NEWLINE,
    SLICE_CHARACTERS,
    Hashes,
    is_visible,
    joined,
    mixed,
    ngrams,
    runs,
    slices,
    words_of,
)

NUM_HASHES = 128
_SEED = 42
_MIN_RECALL = 0.999
_COUNTED = 10  # Characters from which on a paragraph counts when it is judged how much of a document stands elsewhere.
_PARAGRAPH_SALT, _LINE_SALT = np.uint64(0x8CB92BA72F3D8DD7), np.uint64(0xA24BAED4963EE407)

# Hashes, characters, places, first lines and numbers of lines of units.
_Columns = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
# Texts, hashes and characters of units.
_Found = tuple[NDArray[np.int64], Hashes, NDArray[Any]]

SKETCH_FIELDS: list[pyarrow.Field] = [
    pyarrow.field("exact_key", pyarrow.binary(16)),
    pyarrow.field("characters", pyarrow.uint32()),
    pyarrow.field("signature", pyarrow.binary(NUM_HASHES)),
    pyarrow.field("bands", pyarrow.list_(pyarrow.uint64())),
    pyarrow.field("paragraphs", pyarrow.list_(pyarrow.uint64())),
    pyarrow.field("paragraph_characters", pyarrow.list_(pyarrow.uint32())),
    pyarrow.field("lines", pyarrow.list_(pyarrow.uint64())),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapConfig:
    """What counts as said twice."""

    near_jaccard: float = 0.8
    """Documents that share this part of their word n-grams are near duplicates, and the best of a cluster stays; 0: all
    stay."""
    shingle_words: int = 5
    """How many words in a row are compared."""
    duplicate_ids: Literal["drop", "keep"] = "drop"
    """What happens to a document whose record states the id of an earlier record of the same source."""
    repeated_paragraphs: bool = True
    """Whether a paragraph that stands in several documents stays in the longest of them only."""
    min_paragraph_characters: int = 80
    """Shorter paragraphs are not cut out; white space does not count."""
    max_repeated_fraction: float = 0.8
    """A document of which more than this stands in longer ones, in paragraphs long or short, leaves as a whole."""
    max_line_documents: int = 1000
    """A line that stands in more documents than this leaves all of them; 0: all stay."""
    min_line_characters: int = 30
    """Shorter lines may repeat; white space does not count."""

    def __post_init__(self) -> None:
        """Refuse shares outside their range and counts below one."""
        if not 0 <= self.near_jaccard <= 1:
            raise ValueError(f"near_jaccard must be between 0 and 1, got {self.near_jaccard}")
        if not 0 < self.max_repeated_fraction <= 1:
            raise ValueError(f"max_repeated_fraction must be above 0 and at most 1, got {self.max_repeated_fraction}")
        for name in ("shingle_words", "min_paragraph_characters", "min_line_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_line_documents < 0:
            raise ValueError(f"max_line_documents must be at least 0, got {self.max_line_documents}")


@dataclass(frozen=True, slots=True)
class Units:
    """The paragraphs or lines of texts: what each says as a number, and where it stands.

    Letter case and white space do not count. A paragraph is a run of lines that are not empty.
    """

    hashes: Hashes
    characters: NDArray[np.int64]
    """Those that are no white space."""
    texts: NDArray[np.int64]
    """The index of the text."""
    first_lines: NDArray[np.int64]
    """In its text."""
    num_lines: NDArray[np.int64]


def exact_key(text: str) -> int:
    """A number that equal texts share; letter case and white space do not count. Source: xxHash 3, 128 bits."""
    return int.from_bytes(_exact_digest(text), "big")


def _exact_digest(text: str) -> bytes:
    return xxhash.xxh3_128_digest(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"))


def band_rows(threshold: float) -> int:
    """The most rows in a band, so the fewest candidates, with which a pair at the threshold is still almost sure."""
    for rows in range(16, 1, -1):
        if 1 - (1 - threshold**rows) ** (NUM_HASHES // rows) >= _MIN_RECALL:
            return rows
    return 1


def sketch(text: str, config: OverlapConfig) -> dict[str, Any]:
    """One row of the columns of ``SKETCH_FIELDS``."""
    return {name: column[0].as_py() for name, column in sketch_many([text], config).items()}


def sketch_many(texts: Sequence[str], config: OverlapConfig) -> dict[str, pyarrow.Array]:
    """The columns of ``SKETCH_FIELDS``, with a row for each text."""
    words, word_offsets, characters = [], [np.zeros(1, np.int64)], []
    paragraphs: list[_Found] = []
    lines: list[_Found] = []
    first = num_words = 0
    least = min(_COUNTED, config.min_paragraph_characters), config.min_line_characters
    for lowered in _batches(texts):
        batch = _Batch(lowered, least)
        words.append(batch.words)
        word_offsets.append(batch.word_offsets[1:] + num_words)
        num_words += len(batch.words)
        characters.append(batch.characters)
        for units, found in ((batch.paragraphs, paragraphs), (batch.lines, lines)):
            found.append((units.texts + first, units.hashes, units.characters))
        first += len(lowered)
    signatures, bands = _minhash(joined(words), np.concatenate(word_offsets), config)
    num_texts = len(texts)
    paragraph_hashes, paragraph_characters = _by_text(paragraphs, num_texts, config.repeated_paragraphs)
    line_hashes, _ = _by_text(_distinct(lines), num_texts, config.max_line_documents > 0)
    columns = [
        pyarrow.array([_exact_digest(text) for text in texts], pyarrow.binary(16)),
        pyarrow.array(np.concatenate(characters) if characters else np.empty(0), pyarrow.uint32()),
        pyarrow.FixedSizeBinaryArray.from_buffers(
            pyarrow.binary(NUM_HASHES), num_texts, [None, pyarrow.py_buffer(signatures.tobytes())]
        ),
        bands,
        paragraph_hashes,
        paragraph_characters,
        line_hashes,
    ]
    return {field.name: column for field, column in zip(SKETCH_FIELDS, columns, strict=True)}


def shingle_sets(texts: Sequence[str], num_words: int) -> Iterator[Hashes]:
    """For each text the distinct word n-grams, sorted."""
    for words, word_offsets in words_by_text(texts):
        grams, offsets = ngrams(words, word_offsets, num_words)
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            # Faster than numpy.unique, which looks for repeats by hashing before it sorts.
            ordered = np.sort(grams[start:stop])
            yield ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


def words_by_text(texts: Iterable[str]) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
    """For some texts at a time their words as numbers, and where those of each text begin."""
    for lowered in _batches(texts):
        batch = _Batch(lowered, None)
        yield batch.words, batch.word_offsets


def units_of(text: str, config: OverlapConfig) -> tuple[Units, Units]:
    """The paragraphs and the lines of a text that are long enough to be cut out."""
    batch = _Batch([text.lower()], (config.min_paragraph_characters, config.min_line_characters))
    return batch.paragraphs, batch.lines


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lower case, gathered so that a batch fits into the processor's cache."""
    gathered: list[str] = []
    num_characters = 0
    for text in texts:
        lowered = text.lower()
        if gathered and num_characters + len(lowered) + 2 > SLICE_CHARACTERS:
            yield gathered
            gathered, num_characters = [], 0
        gathered.append(lowered)
        num_characters += len(lowered) + 2
    if gathered:
        yield gathered


class _Batch:
    """The words, paragraphs and lines of some texts in lower case."""

    def __init__(self, lowered: Sequence[str], min_characters: tuple[int, int] | None) -> None:
        lengths = np.array([len(text) + 2 for text in lowered], np.int64)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        words, starts, units = [], [], []
        position = num_newlines = 0
        is_whole = True
        self.characters = np.zeros(len(lowered), np.int64)
        for codes in slices("\n\n".join(lowered) + "\n\n"):
            hashes, places = words_of(codes)
            words.append(hashes)
            starts.append(places + position)
            if min_characters is not None:
                visible = is_visible(codes)
                before = np.concatenate([[0], np.cumsum(visible)])
                self.characters += np.diff(before[np.clip(bounds - position, 0, len(codes))])
                was_whole, is_whole = is_whole, bool(codes[-1] == NEWLINE)
                found = _units(codes[visible], before, np.flatnonzero(codes == NEWLINE), was_whole, is_whole)
                units.append([_long(each, least) for each, least in zip(found, min_characters, strict=True)])
                for _, _, places, lines, _ in units[-1]:
                    places += position
                    lines += num_newlines
                num_newlines += int(np.count_nonzero(codes == NEWLINE))
            position += len(codes)
        self.words = joined(words)
        self.word_offsets = np.searchsorted(np.concatenate(starts), bounds)
        if min_characters is not None:
            newlines = [text.count("\n") + 2 for text in lowered]
            first_lines = np.concatenate([[0], np.cumsum(newlines)])
            self.paragraphs = _placed([paragraphs for paragraphs, _ in units], bounds, first_lines)
            self.lines = _placed([lines for _, lines in units], bounds, first_lines)


def _minhash(
    words: Hashes, offsets: NDArray[np.int64], config: OverlapConfig
) -> tuple[NDArray[np.uint8], pyarrow.ListArray]:
    """A byte of each of the MinHash values, to judge candidates by, and the bands, to find them by.

    Source: Broder 1997 for MinHash; Li and König 2010 for keeping few bits; Leskovec et al., Mining of Massive
    Datasets, 3.4 for bands.
    """
    num_texts = len(offsets) - 1
    if config.near_jaccard == 0 or num_texts == 0 or len(words) == 0:
        return np.zeros((num_texts, NUM_HASHES), np.uint8), _lists(np.empty(0, np.uint64), np.zeros(num_texts + 1))
    grams, gram_offsets = ngrams(words, offsets, config.shingle_words)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        grams, gram_offsets.astype(np.uint64), NUM_HASHES, _SEED
    )
    has_words = np.diff(offsets) > 0
    values = np.array(matrix.to_rows(), np.uint32) * has_words[:, None]
    rows = band_rows(config.near_jaccard)
    num_bands = NUM_HASHES // rows
    banded = values[:, : num_bands * rows].reshape(num_texts, num_bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, num_bands + 1, dtype=np.uint64), (num_texts, num_bands))
    for row in range(rows):
        keys = mixed(keys * GRAM_BASE + banded[:, :, row])
    counts = np.where(has_words, num_bands, 0)
    return values.astype(np.uint8), _lists(keys[has_words].ravel(), np.concatenate([[0], np.cumsum(counts)]))


def _units(
    shown: NDArray[np.uint32],
    before: NDArray[np.int64],
    newlines: NDArray[np.int64],
    starts_whole: bool,
    stops_whole: bool,
) -> tuple[_Columns, _Columns]:
    """The paragraphs and the lines of a slice as hashes, characters, places, first lines and numbers of lines.

    Given are its characters that are no white space, how many of them come before each place, and its newlines. No
    line has the number 0 where a line is cut in two by the slice.
    """
    starts = np.concatenate([[0], newlines + 1])
    stops = np.concatenate([newlines, [len(before) - 1]])
    low, high = before[starts], before[stops]
    said = np.flatnonzero(high > low)
    is_whole = np.ones(len(starts), np.int64)
    is_whole[0] &= starts_whole
    is_whole[-1] &= stops_whole
    hashes = mixed(runs(shown, low[said], high[said]) ^ _LINE_SALT)
    lines = hashes, (high - low)[said], starts[said], said, is_whole[said]
    breaks = np.flatnonzero(np.diff(said) > 1)
    firsts = said[np.concatenate([[0], breaks + 1])] if len(said) else said
    lasts = said[np.concatenate([breaks, [len(said) - 1]])] if len(said) else said
    paragraphs = (
        mixed(runs(shown, low[firsts], high[lasts]) ^ _PARAGRAPH_SALT),
        high[lasts] - low[firsts],
        starts[firsts],
        firsts,
        (lasts - firsts + 1) * is_whole[firsts] * is_whole[lasts],
    )
    return paragraphs, lines


def _long(units: _Columns, min_characters: int) -> _Columns:
    """The units that are long enough and whole."""
    is_long = (units[1] >= min_characters) & (units[4] > 0)
    hashes, characters, places, lines, num_lines = (column[is_long] for column in units)
    return hashes, characters, places, lines, num_lines


def _placed(slices: list[_Columns], bounds: NDArray[np.int64], first_lines: NDArray[np.int64]) -> Units:
    """The units of several slices, each with its text."""
    hashes, characters, places, lines, num_lines = (np.concatenate(columns) for columns in zip(*slices, strict=True))
    texts = np.searchsorted(bounds, places, "right") - 1
    return Units(hashes, characters, texts, lines - first_lines[texts], num_lines)


def _distinct(batches: list[_Found]) -> list[_Found]:
    """The units without those that stand in a text for the second time."""
    distinct = []
    for texts, hashes, characters in batches:
        order = np.lexsort((hashes, texts))
        texts, hashes, characters = texts[order], hashes[order], characters[order]
        is_first = np.ones(len(texts), np.bool_)
        is_first[1:] = (texts[1:] != texts[:-1]) | (hashes[1:] != hashes[:-1])
        distinct.append((texts[is_first], hashes[is_first], characters[is_first]))
    return distinct


def _by_text(batches: list[_Found], num_texts: int, is_wanted: bool) -> tuple[pyarrow.ListArray, pyarrow.ListArray]:
    """For each text its units, and how many characters each has."""
    if not is_wanted or not batches:
        nothing = np.zeros(num_texts + 1)
        return _lists(np.empty(0, np.uint64), nothing), _lists(np.empty(0, np.uint32), nothing)
    texts, hashes, characters = (np.concatenate(columns) for columns in zip(*batches, strict=True))
    offsets = np.searchsorted(texts, np.arange(num_texts + 1))
    return _lists(hashes, offsets), _lists(characters.astype(np.uint32), offsets)


def _lists(values: NDArray[Any], offsets: NDArray[Any]) -> pyarrow.ListArray:
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets.astype(np.int32)), pyarrow.array(values))
