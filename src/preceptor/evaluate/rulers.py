"""Two honest rulers beside a model's bits per byte: a compressor and an n-gram model, given the same text.

Both see the training text first, and both are asked for the same validation text.
"""

import lzma
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preceptor.core.progress import Progress
from preceptor.tokenizer.stream import TokenStream

_SEPARATOR = b"\n\n"


def xz_bits_per_byte(train: Sequence[str], validation: Sequence[str]) -> float:
    """The bits that ``xz -9e`` adds for one byte of the validation text when it has compressed the training text."""
    before = _SEPARATOR.join(text.encode() for text in train)
    after = _SEPARATOR.join(text.encode() for text in validation)
    added = _xz_size(before + _SEPARATOR + after) - _xz_size(before)
    return 8 * added / sum(len(text.encode()) for text in validation)


def _xz_size(content: bytes) -> int:
    return len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


class InterpolatedNgram:
    """An n-gram model with absolute discounting of the highest order and continuation counts below it.

    The probability of a token is that of its longest context, minus a discount per seen type, plus what was discounted
    times the probability one order lower; the lowest order is interpolated with the uniform distribution. Discounts are
    estimated for counts of one, two and more on the training text alone.

    Source: Chen and Goodman 1999, interpolated modified Kneser-Ney smoothing, section 4.1.
    """

    def __init__(self, stream: TokenStream, vocab_size: int, end_of_text_id: int, order: int = 5) -> None:
        self.vocab_size, self.order, self.end_of_text_id = vocab_size, order, end_of_text_id
        self._keys: list[NDArray[np.uint64]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._contexts: list[NDArray[np.uint64]] = []
        self._masses: list[NDArray[np.float64]] = []
        self._totals: list[NDArray[np.float64]] = []
        self._discounts: list[NDArray[np.float64]] = []
        with Progress("5-gram", total=order, unit="orders") as progress:
            grams = _grams(stream, order, end_of_text_id)
            counts = np.ones(len(grams), np.int64)
            for size in range(order, 0, -1):
                grams, counts = _count(grams[:, -size:], counts)
                self._add(grams, counts)
                # A lower order counts in how many different contexts a gram was seen, not how often.
                counts = np.ones(len(grams), np.int64)
                progress.advance()
        for table in (
            self._keys,
            self._counts,
            self._contexts,
            self._masses,
            self._totals,
            self._discounts,
        ):
            table.reverse()

    def _add(self, grams: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        discounts = _modified_discounts(counts)
        keys, contexts = _hash(grams), _hash(grams[:, :-1])
        order = np.argsort(keys)
        self._keys.append(keys[order])
        self._counts.append(counts[order])
        names, places = np.unique(contexts, return_inverse=True)
        self._contexts.append(names)
        self._totals.append(np.bincount(places, counts).astype(np.float64))
        self._masses.append(np.bincount(places, discounts[np.minimum(counts, 3)]).astype(np.float64))
        self._discounts.append(discounts)

    def probabilities(self, grams: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability of the last token of each row given the ones before it; rows are ``order`` long."""
        result = np.full(len(grams), 1 / self.vocab_size)
        for size in range(1, self.order + 1):
            table = size - 1
            counts = _look_up(self._keys[table], self._counts[table], _hash(grams[:, -size:]))
            contexts = _hash(grams[:, -size:-1])
            totals = _look_up(self._contexts[table], self._totals[table], contexts)
            masses = _look_up(self._contexts[table], self._masses[table], contexts)
            seen = totals > 0
            whole = np.where(seen, totals, 1.0)
            kept = np.maximum(counts - self._discounts[table][np.minimum(counts, 3).astype(np.int64)], 0.0)
            result = np.where(seen, (kept + masses * result) / whole, result)
        return result

    def bits_per_byte(self, stream: TokenStream) -> float:
        """The bits for one byte of a stream's text, the end of text of each document included."""
        grams = _grams(stream, self.order, self.end_of_text_id)
        return float(-np.log2(self.probabilities(grams)).sum() / stream.num_bytes)


def _grams(stream: TokenStream, order: int, end_of_text_id: int) -> NDArray[np.int64]:
    """Every token of every document with the order - 1 before it; what precedes a document is its end of text."""
    pieces = []
    for index in range(stream.num_documents):
        padded = np.concatenate((np.full(order - 1, end_of_text_id, np.int64), stream.document(index).astype(np.int64)))
        pieces.append(np.lib.stride_tricks.sliding_window_view(padded, order))
    return np.concatenate(pieces)


def _count(grams: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct grams with their summed counts."""
    _, first, places = np.unique(_hash(grams), return_index=True, return_inverse=True)
    return grams[first], np.bincount(places, counts).astype(np.int64)


def _hash(grams: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit number for each row; two of a million rows collide with a probability of about 1e-8."""
    result = np.full(len(grams), 0x9E3779B97F4A7C15, np.uint64)
    for column in range(grams.shape[1]):
        result = (result ^ (grams[:, column].astype(np.uint64) + np.uint64(1))) * np.uint64(0xFF51AFD7ED558CCD)
        result ^= result >> np.uint64(32)
    return result


def _look_up(
    keys: NDArray[np.uint64], values: NDArray[np.int64] | NDArray[np.float64], wanted: NDArray[np.uint64]
) -> NDArray[np.float64]:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(np.float64)


def _modified_discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Discounts for counts of 0, 1, 2 and at least 3; fixed ones where they cannot be estimated."""
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.0, 0.5, 0.75, 0.9])
    share = n1 / (n1 + 2 * n2)
    estimates = [1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3]
    return np.array([0.0, *(min(max(value, 0.0), rank - 1e-3) for rank, value in enumerate(estimates, 1))])


def uniform_bits_per_byte(stream: TokenStream, vocab_size: int) -> float:
    """The bits for one byte when every token is equally likely: what a model that knows nothing needs."""
    return stream.num_tokens * math.log2(vocab_size) / stream.num_bytes
