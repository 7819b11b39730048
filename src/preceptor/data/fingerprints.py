"""Numbers for words, for word n-grams and for stretches of text, computed on arrays of code points.

A loop over words in Python would take longer than all other steps together.
"""

import re
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from preceptor.data.words import WORD

SLICE_CHARACTERS = 1 << 18
NEWLINE = 10
_OTHER, _WORD, _WORD_OF_ONE, _SPACE = range(4)
_BASE = np.uint64(0x9E3779B97F4A7C15)
GRAM_BASE = np.uint64(0xD6E8FEB86659FD93)

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


@cache
def _classes() -> NDArray[np.uint8]:
    """For each code point whether it belongs to a word, is a word by itself, or is white space."""
    table = np.zeros(0x110000, np.uint8)
    every = "".join(map(chr, range(0x110000)))
    for match in WORD.finditer(every):
        start, stop = match.span()
        alone = stop == start + 1 and len(WORD.findall(match[0] * 2)) == 2
        table[start:stop] = _WORD_OF_ONE if alone else _WORD
    for match in re.finditer(r"\s+", every):
        table[slice(*match.span())] = _SPACE
    return table


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """The powers of the base and of its inverse modulo 2 to the 64."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    up, down = np.full(SLICE_CHARACTERS + 1, _BASE), np.full(SLICE_CHARACTERS + 1, inverse)
    up[0] = down[0] = 1
    return np.multiply.accumulate(up), np.multiply.accumulate(down)


def mixed(values: Hashes) -> Hashes:
    """Numbers whose every bit depends on every bit of the given. Source: MurmurHash 3, fmix64."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def runs(codes: NDArray[np.uint32], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Hashes:
    """A number for what stands from each start to each stop, wherever it stands. Source: Karp and Rabin 1987."""
    up, down = _powers()
    sums = np.empty(len(codes) + 1, np.uint64)
    sums[0] = 0
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * up[: len(codes)], out=sums[1:])
    lengths = (stops - starts).astype(np.uint64)
    return mixed((sums[stops] - sums[starts]) * down[starts] + lengths * GRAM_BASE)


def words_of(codes: NDArray[np.uint32]) -> tuple[Hashes, NDArray[np.int64]]:
    """A number for each word, and where it starts."""
    classes = _classes()[codes]
    inside = np.zeros(len(codes) + 2, np.bool_)
    inside[1:-1] = classes == _WORD
    alone = classes == _WORD_OF_ONE
    starts = np.flatnonzero((inside[1:-1] & ~inside[:-2]) | alone)
    stops = np.flatnonzero((inside[1:-1] & ~inside[2:]) | alone) + 1
    return runs(codes, starts, stops), starts


def ngrams(words: Hashes, offsets: Places, num_words: int) -> tuple[Hashes, Places]:
    """The n-grams of the words of each text as numbers, and where those of each text begin.

    A text of fewer words is one n-gram, a text of no word none.
    """
    counts = np.diff(offsets)
    gram_offsets = np.concatenate([[0], np.cumsum(np.where(counts >= num_words, counts - num_words + 1, counts > 0))])
    rolled = np.zeros(len(words), np.uint64)
    for place in range(num_words):
        rolled *= GRAM_BASE
        rolled[: max(0, len(words) - place)] += words[place:]
    texts = np.repeat(np.arange(len(counts)), np.diff(gram_offsets))
    grams = rolled[offsets[texts] + np.arange(len(texts)) - gram_offsets[texts]]
    short = np.flatnonzero((counts > 0) & (counts < num_words))
    if len(short):
        starts, sums = offsets[short], np.zeros(len(short), np.uint64)
        for place in range(num_words):
            is_there = place < counts[short]
            sums = sums * GRAM_BASE + np.where(is_there, words[np.where(is_there, starts + place, 0)], np.uint64(0))
        grams[gram_offsets[short]] = sums
    return mixed(grams), gram_offsets


def word_hashes(text: str) -> Hashes:
    """The words of a text as numbers, in order; letter case does not count."""
    return joined([words_of(codes)[0] for codes in slices(text.lower())])


def ngrams_of(words: Hashes, num_words: int) -> Hashes:
    """The n-grams of words as numbers, in order; fewer words are one, no word is none."""
    return ngrams(words, np.array([0, len(words)]), num_words)[0]


def slices(text: str) -> Iterator[NDArray[np.uint32]]:
    """The code points of a text, cut where a paragraph, else a line, else a word ends, so that tables stay small."""
    start = 0
    while start < len(text):
        stop = min(len(text), start + SLICE_CHARACTERS)
        if stop < len(text):
            for mark in ("\n\n", "\n", " "):
                found = text.rfind(mark, start, stop)
                if found >= 0:
                    stop = found + len(mark)
                    break
        yield np.frombuffer(text[start:stop].encode("utf-32-le", "surrogatepass"), np.uint32)
        start = stop


def is_visible(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which characters are no white space."""
    return np.asarray(_classes()[codes] != _SPACE)


def joined(parts: list[Hashes]) -> Hashes:
    """All numbers in one array."""
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
