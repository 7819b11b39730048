"""Gopher's rules of quality and of repetition, each a verdict of its own name.

Source: Rae et al. 2021, Scaling Language Models, appendix A1.1 and table A1.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preceptor.data.document import KEEP, Drop, Verdict

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_MIN_STOP_WORDS = 2
_MIN_WORDS, _MAX_WORDS = 50, 100_000
_MIN_MEAN_CHARACTERS, _MAX_MEAN_CHARACTERS = 3, 10
_MAX_SYMBOLS_PER_WORD = 0.1
_MAX_BULLET_LINES, _MAX_ELLIPSIS_LINES = 0.9, 0.3
_MIN_WORDS_WITH_LETTERS = 0.8
_MAX_REPEATED_PARTS, _MAX_REPEATED_CHARACTERS = 0.3, 0.2
_TOP_N_GRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
_REPEATED_N_GRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def quality(text: str, words: Sequence[str]) -> Verdict:
    """The verdict of the rules of quality; ``words`` are those of the text with punctuation marks among them."""
    kinds = Counter(words)
    num_real, num_characters, num_with_letters = _count(kinds)
    if num_real < _MIN_WORDS:
        return Drop("gopher-few-words", num_real, _MIN_WORDS)
    num_hashes, num_ellipses = text.count("#"), text.count("...") + text.count("\u2026")
    mean = num_characters / num_real
    for rule, value, least, most in (
        ("gopher-many-words", num_real, 0, _MAX_WORDS),
        ("gopher-short-words", mean, _MIN_MEAN_CHARACTERS, math.inf),
        ("gopher-long-words", mean, 0, _MAX_MEAN_CHARACTERS),
        ("gopher-hashes", num_hashes / len(words), 0, _MAX_SYMBOLS_PER_WORD),
        ("gopher-ellipses", num_ellipses / len(words), 0, _MAX_SYMBOLS_PER_WORD),
    ):
        if not least <= value <= most:
            return Drop(rule, value, least or most)
    verdict = _lines(text)
    if isinstance(verdict, Drop):
        return verdict
    if num_with_letters / len(words) < _MIN_WORDS_WITH_LETTERS:
        return Drop("gopher-few-letters", num_with_letters / len(words), _MIN_WORDS_WITH_LETTERS)
    num_stop_words = sum(word in kinds for word in _STOP_WORDS)
    return KEEP if num_stop_words >= _MIN_STOP_WORDS else Drop("gopher-stop-words", num_stop_words, _MIN_STOP_WORDS)


def _count(kinds: Counter[str]) -> tuple[int, int, int]:
    """The words that are more than marks, their characters, and the words with a letter."""
    num_real = num_characters = num_with_letters = 0
    for word, number in kinds.items():
        if word.isalpha() or any(map(str.isalpha, word)):
            num_with_letters += number
        elif not any(map(str.isalnum, word)):
            continue
        num_real += number
        num_characters += number * len(word)
    return num_real, num_characters, num_with_letters


def _lines(text: str) -> Verdict:
    if "-" not in text and "\u2022" not in text and "..." not in text and "\u2026" not in text:
        return KEEP
    lines = text.splitlines()
    bullets = sum(line.lstrip().startswith(("\u2022", "-")) for line in lines) / len(lines)
    if bullets > _MAX_BULLET_LINES:
        return Drop("gopher-bullets", bullets, _MAX_BULLET_LINES)
    ellipses = sum(line.rstrip().endswith(("...", "\u2026")) for line in lines) / len(lines)
    return KEEP if ellipses <= _MAX_ELLIPSIS_LINES else Drop("gopher-ellipsis-lines", ellipses, _MAX_ELLIPSIS_LINES)


def repetition(text: str, words: Sequence[str]) -> Verdict:
    """The verdict of the rules of repetition: paragraphs, lines, and runs of words."""
    if not text.strip():
        return Drop("gopher-empty", 0, 1)
    for name, parts in (("paragraphs", _PARAGRAPH_END.split(text.strip())), ("lines", _LINE_END.split(text))):
        verdict = _repeated_parts(text, name, parts)
        if isinstance(verdict, Drop):
            return verdict
    return _repeated_n_grams(len(text), words)


def _repeated_parts(text: str, name: str, parts: list[str]) -> Verdict:
    kinds = set(parts)
    share = (len(parts) - len(kinds)) / len(parts)
    if share > _MAX_REPEATED_PARTS:
        return Drop(f"gopher-repeated-{name}", share, _MAX_REPEATED_PARTS)
    if not share:
        return KEEP
    share = (sum(map(len, parts)) - sum(map(len, kinds))) / len(text)
    if share > _MAX_REPEATED_CHARACTERS:
        return Drop(f"gopher-repeated-{name[:-1]}-characters", share, _MAX_REPEATED_CHARACTERS)
    return KEEP


def _repeated_n_grams(num_characters: int, words: Sequence[str]) -> Verdict:
    # Two words or runs of words that share a hash are taken for the same; at 64 bits none do by chance.
    ids = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    ends = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, words), np.int64, len(words)), out=ends[1:])
    hashes, places = ids, np.arange(len(words))
    for n in range(2, min(len(words), _REPEATED_N_GRAMS[-1][0]) + 1):
        hashes = hashes[:-1] * _MULTIPLIER + ids[n - 1 :]
        hashes ^= hashes >> np.uint64(29)
        # What stands once stands once in every longer run too: only runs that stood again are looked at.
        places, kinds, counts = _standing_again(hashes, places[: places.searchsorted(len(hashes))])
        if n <= _TOP_N_GRAMS[-1][0]:
            most = _TOP_N_GRAMS[n - 2][1]
            share = _top_characters(hashes, ends, n, places, kinds, counts) / num_characters
            if share > most:
                return Drop(f"gopher-top-{n}-gram", share, most)
        elif not len(places):
            return KEEP
        else:
            most = _REPEATED_N_GRAMS[n - 5][1]
            share = _repeated_characters(hashes, ends, n, places, most * num_characters) / num_characters
            if share > most:
                return Drop(f"gopher-repeated-{n}-grams", share, most)
    return KEEP


def _standing_again(
    hashes: NDArray[np.uint64], places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """The places, of those given, whose hash stands at several of them, in order; those hashes; how often each."""
    wanted = hashes[places]
    held = np.sort(wanted)
    differs = held[1:] != held[:-1]
    if differs.all():
        return places[:0], held[:0], places[:0]
    edges = np.concatenate(([0], differs.nonzero()[0] + 1, [len(held)]))
    counts = edges[1:] - edges[:-1]
    is_again = counts > 1
    kinds, counts = held[edges[:-1][is_again]], counts[is_again]
    found = kinds.searchsorted(wanted) % len(kinds)
    return places[kinds[found] == wanted], kinds, counts


def _top_characters(
    hashes: NDArray[np.uint64],
    ends: NDArray[np.int64],
    n: int,
    places: NDArray[np.int64],
    kinds: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> int:
    """The characters of the most frequent run of words, the first where several are, with a space between words."""
    first, most = 0, 1
    if len(places):
        most = int(counts.max())
        top = kinds[counts == most]
        found = hashes[places]
        is_top = found == top[0] if len(top) == 1 else top[np.searchsorted(top, found) % len(top)] == found
        first = int(places[is_top.argmax()])
    return (int(ends[first + n] - ends[first]) + n - 1) * most


def _repeated_characters(
    hashes: NDArray[np.uint64], ends: NDArray[np.int64], n: int, places: NDArray[np.int64], least: float
) -> int:
    """The characters of runs that stood before, counted once each: after a repeat the search goes on behind it.

    Only ``places`` hold runs that stand again. No more than what all of them cover can be found; where that is at most
    ``least``, it is returned instead.
    """
    covered = int((ends[places + n] - ends[places]).sum())
    if covered <= least:
        return covered
    seen: set[int] = set()
    found = behind = 0
    for place, run in zip(places.tolist(), hashes[places].tolist(), strict=True):
        if place < behind:
            continue
        if run in seen:
            found += int(ends[place + n] - ends[place])
            behind = place + n
        else:
            seen.add(run)
    return found
