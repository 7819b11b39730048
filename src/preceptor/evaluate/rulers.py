"""Two honest rulers beside a model's bits per byte: a compressor and an n-gram model, given the same text.

Both see the training text first, and both are asked for the same validation text.
"""

import lzma
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.core.progress import Progress
from preceptor.core.units import human_count
from preceptor.tokenizer.stream import TokenStream

_SEPARATOR = b"\n\n"
_XZ_WINDOW_BYTES = 64 << 20
_LARGEST_TRAINING_TOKENS = 1 << 24


def xz_bits_per_byte(train: Sequence[str], validation: Sequence[str]) -> float:
    """The bits that ``xz -9e`` adds for one byte of the validation text when it has compressed the training text.

    Of a training text larger than the window in which xz finds repetitions, the end that fits is given.
    """
    after = _joined(validation)
    before = _joined(train)[-_XZ_WINDOW_BYTES:]
    added = _xz_size(before + _SEPARATOR + after) - _xz_size(before)
    return 8 * added / sum(len(text.encode()) for text in validation)


def _joined(texts: Sequence[str]) -> bytes:
    return _SEPARATOR.join(text.encode() for text in texts)


def _xz_size(content: bytes) -> int:
    return len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


class InterpolatedNgram:
    """An n-gram model with absolute discounting of the highest order and continuation counts below it.

    The probability of a token is that of its longest context, minus a discount per seen type, plus what was discounted
    times the probability one order lower; the lowest order is interpolated with the uniform distribution. Discounts are
    estimated for counts of one, two and more on the training text alone. Of a larger stream than can be counted in
    memory, the first documents are.

    Source: Chen and Goodman 1999, interpolated modified Kneser-Ney smoothing, section 4.1.
    """

    def __init__(
        self,
        stream: TokenStream,
        vocab_size: int,
        end_of_text_id: int,
        order: int = 5,
        largest_training_tokens: int = _LARGEST_TRAINING_TOKENS,
    ) -> None:
        self.vocab_size, self.order, self.end_of_text_id = vocab_size, order, end_of_text_id
        grams = _grams(stream, order, end_of_text_id, largest_training_tokens)
        self.num_training_tokens = len(grams)
        self.what = f"interpolated modified Kneser-Ney {order}-gram model over the same tokens"
        if len(grams) < stream.num_tokens:
            self.what += f" (the first {human_count(len(grams))} of them)"
        self._orders: list[_Order] = []
        with Progress(f"{order}-gram", total=order, unit="orders") as progress:
            for size in range(order, 0, -1):
                # The highest order counts how often a gram was seen, a lower one in how many different contexts: it is
                # given the distinct grams of the order above.
                grams, counts = _count(grams[:, -size:])
                self._orders.insert(0, _Order(grams, counts))
                progress.advance()

    def probabilities(self, grams: NDArray[Any]) -> NDArray[np.float64]:
        """The probability of the last token of each row given the ones before it; rows are ``order`` long."""
        result = np.full(len(grams), 1 / self.vocab_size)
        for size, table in enumerate(self._orders, 1):
            result = table.interpolate(grams[:, -size:], result)
        return result

    def bits_per_byte(self, stream: TokenStream) -> float:
        """The bits for one byte of a stream's text, the end of text of each document included."""
        bits = 0.0
        grams = _grams(stream, self.order, self.end_of_text_id, stream.num_tokens)
        for start in range(0, len(grams), 1 << 20):
            bits -= float(np.log2(self.probabilities(grams[start : start + (1 << 20)])).sum())
        return bits / stream.num_bytes


class _Order:
    """The discounted counts of all grams of one length, and what their contexts leave to the order below."""

    def __init__(self, grams: NDArray[Any], counts: NDArray[np.int64]) -> None:
        discounts = _modified_discounts(counts)
        taken = discounts[np.minimum(counts, 3)]
        keys = _hash(grams)
        places = np.argsort(keys)
        self._keys, self._kept = keys[places], (counts - taken)[places]
        self._contexts, context_of = np.unique(_hash(grams[:, :-1]), return_inverse=True)
        self._totals = np.bincount(context_of, counts).astype(np.float64)
        self._left = np.bincount(context_of, taken) / self._totals

    def interpolate(self, grams: NDArray[Any], lower: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities of the last tokens by this order; those of the lower one where a context was never seen."""
        totals = _look_up(self._contexts, self._totals, _hash(grams[:, :-1]))
        left = _look_up(self._contexts, self._left, _hash(grams[:, :-1]))
        kept = _look_up(self._keys, self._kept, _hash(grams))
        seen = totals > 0
        return np.where(seen, kept / np.where(seen, totals, 1.0) + left * lower, lower)


def _grams(stream: TokenStream, order: int, end_of_text_id: int, largest_tokens: int) -> NDArray[np.uint32]:
    """Every token of the first documents with the order - 1 before it; what precedes a document is its end of text."""
    num_documents = max(1, int(np.searchsorted(stream.offsets, largest_tokens, side="right")) - 1)
    num_tokens = min(int(stream.offsets[num_documents]), largest_tokens)
    lengths = np.diff(np.minimum(stream.offsets[: num_documents + 1], num_tokens))
    # Each document is moved back by the padding before it and before all earlier ones.
    places = np.arange(num_tokens) + np.repeat(np.arange(len(lengths)) * (order - 1), lengths)
    padded = np.full(num_tokens + len(lengths) * (order - 1), end_of_text_id, np.uint32)
    padded[places + order - 1] = stream.tokens[:num_tokens]
    return np.lib.stride_tricks.sliding_window_view(padded, order)[places]


def _count(grams: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The distinct grams, and how often each is there."""
    _, first, counts = np.unique(_hash(grams), return_index=True, return_counts=True)
    return grams[first], counts


def _hash(grams: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit number for each row; two of a million rows collide with a probability of about 1e-8."""
    result = np.full(len(grams), 0x9E3779B97F4A7C15, np.uint64)
    for column in range(grams.shape[1]):
        result = (result ^ (grams[:, column].astype(np.uint64) + np.uint64(1))) * np.uint64(0xFF51AFD7ED558CCD)
        result ^= result >> np.uint64(32)
    return result


def _look_up(keys: NDArray[np.uint64], values: NDArray[np.float64], wanted: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The values of the wanted keys, 0 where there is none."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0.0)


def _modified_discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Discounts for counts of 0, 1, 2 and at least 3; fixed ones where they cannot be estimated.

    None is zero: a context leaves something to tokens that never followed it.
    """
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.0, 0.5, 0.75, 0.9])
    share = n1 / (n1 + 2 * n2)
    estimates = [1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3]
    return np.array([0.0, *(min(max(value, 0.05), rank - 0.05) for rank, value in enumerate(estimates, 1))])
