"""Gopher's rules of quality and of repetition, each a verdict of its own name.

Source: Rae et al. 2021, Scaling Language Models, appendix A1.1 and table A1.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

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
    for name, parts in _parts(text):
        verdict = _repeated_parts(text, name, parts)
        if isinstance(verdict, Drop):
            return verdict
    return _repeated_n_grams(len(text), words)


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """The paragraphs, parted by empty lines, and the lines; that nothing stands before the first break counts too."""
    yield "paragraphs", [part for each in text.strip().split("\n\n") if (part := each.lstrip("\n"))]
    lines = [line for line in text.split("\n") if line]
    yield "lines", lines + [""] * (text.startswith("\n") + text.endswith("\n"))


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
    kinds = defaultdict[str, int](count().__next__)
    ids = np.fromiter(map(kinds.__getitem__, words), np.int64, len(words))
    ends = np.zeros(len(words) + 1, np.int64)
    np.fromiter(map(len, kinds), np.int64, len(kinds))[ids].cumsum(out=ends[1:])
    runs = _Runs(np.arange(len(words)), ids, ids[:0])
    for n in range(2, min(len(words), _REPEATED_N_GRAMS[-1][0]) + 1):
        # What stands once stands once in every longer run too: only runs that stood again are looked at.
        runs = _standing_again(runs, ids[n - 1 :], len(kinds))
        if n <= _TOP_N_GRAMS[-1][0]:
            most = _TOP_N_GRAMS[n - 2][1]
            share = _top_characters(runs, ends, n) / num_characters
            if share > most:
                return Drop(f"gopher-top-{n}-gram", share, most)
            if n == 2 and _are_longer_runs_rare(runs, ends, num_characters):
                return KEEP
        elif _is_little(np.sort(runs.places), ends, num_characters):
            return KEEP
        else:
            most = _REPEATED_N_GRAMS[n - 5][1]
            share = _repeated_characters(runs, ends, n, most * num_characters) / num_characters
            if share > most:
                return Drop(f"gopher-repeated-{n}-grams", share, most)
    return KEEP


def _are_longer_runs_rare(pairs: "_Runs", ends: NDArray[np.int64], num_characters: int) -> bool:
    """Whether the pairs of words alone show that no longer run exceeds a limit, as those of most texts do."""
    num_words = len(ends) - 1
    n, most = _TOP_N_GRAMS[-1]
    # A run stands at most as often as the pair with which it begins; where none stands again, the first one counts.
    lengths = ends[np.minimum(pairs.places + n, num_words)] - ends[pairs.places] + n - 1
    top = (lengths * pairs.counts()[pairs.ids]).max(initial=ends[min(n, num_words)] + n - 1)
    if top >= most * num_characters:
        return False
    is_again = np.zeros(num_words, np.bool_)
    is_again[pairs.places] = True
    starts = (is_again[:-3] & is_again[1:-2] & is_again[2:-1] & is_again[3:]).nonzero()[0]
    return _is_little(starts, ends, num_characters)


def _is_little(places: NDArray[np.int64], ends: NDArray[np.int64], num_characters: int) -> bool:
    """Whether even the longest runs from these places cover less than any limit, and so all others do."""
    n, most = _REPEATED_N_GRAMS[-1]
    return _covered(places, ends, n) < most * num_characters


def _covered(places: NDArray[np.int64], ends: NDArray[np.int64], n: int) -> int:
    """The characters of all words in the runs that begin at these places, which are in order."""
    if not len(places):
        return 0
    stops = np.minimum(places + n, np.concatenate((places[1:], [len(ends) - 1])))
    return int((ends[stops] - ends[places]).sum())


class _Runs(NamedTuple):
    """The runs of so many words that stand at several places: those places, run by run, and each in order."""

    places: NDArray[np.int64]
    ids: NDArray[np.int64]
    """A small number for the run at each place; the same runs have the same."""
    firsts: NDArray[np.int64]
    """Where in both arrays each run begins."""

    def counts(self) -> NDArray[np.int64]:
        """How often each run stands."""
        counts = np.empty_like(self.firsts)
        np.subtract(self.firsts[1:], self.firsts[:-1], out=counts[:-1])
        counts[-1:] = len(self.places) - self.firsts[-1:]
        return counts


def _standing_again(shorter: _Runs, last_words: NDArray[np.int64], num_kinds: int) -> _Runs:
    """The runs of one word more: ``last_words`` are their last words by the place at which they begin."""
    places, ids = shorter.places, shorter.ids
    if len(places) and places.max() >= len(last_words):
        is_inside = places < len(last_words)
        places, ids = places[is_inside], ids[is_inside]
    keys = ids * num_kinds + last_words[places]
    bits = len(last_words).bit_length()
    if bits + (len(last_words) * num_kinds).bit_length() < 64:
        # Sorting numbers that carry their place is several times faster than sorting places by numbers.
        packed = np.sort((keys << bits) | places)
        keys, places = packed >> bits, packed & ((1 << bits) - 1)
    else:
        order = np.lexsort((places, keys))
        keys, places = keys[order], places[order]
    is_same = np.zeros(len(keys) + 1, np.bool_)
    np.equal(keys[1:], keys[:-1], out=is_same[1:-1])
    starts = is_same[1:] > is_same[:-1]
    is_again = is_same[1:] | is_same[:-1]
    starts = starts[is_again]
    return _Runs(places[is_again], starts.cumsum() - 1, starts.nonzero()[0])


def _top_characters(runs: _Runs, ends: NDArray[np.int64], n: int) -> int:
    """The characters of the most frequent run of words, the first where several are, with a space between words."""
    first, most = 0, 1
    if len(runs.places):
        counts = runs.counts()
        most = int(counts.max())
        first = int(runs.places[runs.firsts[counts == most]].min())
    return (int(ends[first + n] - ends[first]) + n - 1) * most


def _repeated_characters(runs: _Runs, ends: NDArray[np.int64], n: int, least: float) -> int:
    """The characters of runs that stood before, counted once each: after a repeat the search goes on behind it.

    No more than what all of them cover can be found; where that is at most ``least``, it is returned instead.
    """
    stood_before = np.ones(len(runs.places), np.bool_)
    stood_before[runs.firsts] = False
    covered = _covered(np.sort(runs.places[stood_before]), ends, n)
    if covered <= least:
        return covered
    order = runs.places.argsort()
    seen: set[int] = set()
    found = behind = 0
    for place, run in zip(runs.places[order].tolist(), runs.ids[order].tolist(), strict=True):
        if place < behind:
            continue
        if run in seen:
            found += int(ends[place + n] - ends[place])
            behind = place + n
        else:
            seen.add(run)
    return found
