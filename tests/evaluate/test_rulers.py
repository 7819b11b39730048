"""The rulers: a compressor that has read the training text, and an n-gram model that is a proper distribution."""

import lzma
import math
import shutil
import subprocess
from collections import Counter, defaultdict

import numpy as np
import pytest

from preceptor.evaluate import rulers
from preceptor.evaluate.rulers import InterpolatedNgram, xz_bits_per_byte

VOCAB_SIZE, END_OF_TEXT = 30, 0


def documents(num_documents, seed=0, length=60):
    """Documents of a chain in which a token follows from the two before it, most of the time."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(num_documents):
        tokens = [int(generator.integers(1, VOCAB_SIZE)) for _ in range(2)]
        while len(tokens) < length:
            follows = (tokens[-1] * 7 + tokens[-2] * 3) % (VOCAB_SIZE - 1) + 1
            tokens.append(follows if generator.random() < 0.7 else int(generator.integers(1, VOCAB_SIZE)))
        made.append(tokens)
    return made


class SlowNgram:
    """The same model written down from the paper with dictionaries, one probability at a time."""

    def __init__(self, texts, vocab_size, order):
        self.vocab_size, self.order, self.counts = vocab_size, order, {}
        raw = Counter()
        for text in texts:
            padded = [END_OF_TEXT] * (order - 1) + [*text, END_OF_TEXT]
            for end in range(order, len(padded) + 1):
                raw[tuple(padded[end - order : end])] += 1
        self.counts[order] = raw
        for size in range(order - 1, 0, -1):
            before = defaultdict(set)
            for gram in self.counts[size + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[size] = Counter({gram: len(found) for gram, found in before.items()})

    def discounts(self, size):
        number = Counter(self.counts[size].values())
        if not all(number[n] for n in (1, 2, 3, 4)):
            return {1: 0.5, 2: 0.75, 3: 0.9}
        y = number[1] / (number[1] + 2 * number[2])
        found = {n: n - (n + 1) * y * number[n + 1] / number[n] for n in (1, 2, 3)}
        return {n: min(max(value, 0.05), n - 0.05) for n, value in found.items()}

    def probability(self, gram):
        value = 1 / self.vocab_size
        for size in range(1, self.order + 1):
            context = gram[-size:][:-1]
            followers = {g: c for g, c in self.counts[size].items() if g[:-1] == context}
            total = sum(followers.values())
            if not total:
                continue
            discounts = self.discounts(size)
            left = sum(discounts[min(count, 3)] for count in followers.values())
            count = followers.get(gram[-size:], 0)
            kept = count - discounts[min(count, 3)] if count else 0.0
            value = kept / total + left / total * value
        return value


@pytest.fixture(scope="module")
def texts():
    return documents(40)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_are_those_of_the_paper(stream_of, texts, order):
    ours = InterpolatedNgram(stream_of(texts), VOCAB_SIZE, END_OF_TEXT, order)
    slow = SlowNgram(texts, VOCAB_SIZE, order)
    generator = np.random.default_rng(1)
    grams = [tuple(text[place : place + order]) for text in texts[:6] for place in (0, 9, 30)]
    grams += [tuple(map(int, generator.integers(0, VOCAB_SIZE, order))) for _ in range(12)]
    grams.append((END_OF_TEXT,) * (order - 1) + (texts[0][0],))
    np.testing.assert_allclose(
        ours.probabilities(np.array(grams)), [slow.probability(gram) for gram in grams], rtol=1e-10
    )


@pytest.mark.parametrize("num_documents", [1, 40])
def test_probabilities_sum_to_one_after_any_context(stream_of, texts, num_documents):
    model = InterpolatedNgram(stream_of(texts[:num_documents]), VOCAB_SIZE, END_OF_TEXT)
    generator = np.random.default_rng(2)
    contexts = [generator.integers(0, VOCAB_SIZE, 4) for _ in range(30)]
    contexts += [np.array(texts[0][place : place + 4]) for place in range(20)] + [np.zeros(4, np.int64)]
    for context in contexts:
        grams = np.column_stack([np.tile(context, (VOCAB_SIZE, 1)), np.arange(VOCAB_SIZE)])
        probabilities = model.probabilities(grams)
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
        assert probabilities.min() > 0


def test_probabilities_sum_to_one_where_estimated_discounts_would_be_negative():
    """Counts whose plain estimate for 2 is below zero: nothing would be left to what was never seen."""
    counts = np.array([1] * 10 + [2] * 5 + [3] * 40 + [4] * 3)
    discounts = rulers._modified_discounts(counts)
    assert (discounts[1:] > 0).all() and (discounts[1:] < [1, 2, 3]).all()


def test_bits_per_byte_counts_every_token_and_the_end_of_each_document(stream_of, texts):
    model = InterpolatedNgram(stream_of(texts), VOCAB_SIZE, END_OF_TEXT, 3)
    unseen = documents(4, seed=9)
    slow = SlowNgram(texts, VOCAB_SIZE, 3)
    bits = 0.0
    for text in unseen:
        padded = (END_OF_TEXT, END_OF_TEXT, *text, END_OF_TEXT)
        bits -= sum(math.log2(slow.probability(padded[i : i + 3])) for i in range(len(text) + 1))
    assert model.bits_per_byte(stream_of(unseen, num_bytes=500)) == pytest.approx(bits / 500)


def test_it_learns_the_chain_and_more_context_helps(stream_of):
    train, unseen = stream_of(documents(300)), stream_of(documents(20, seed=7), num_bytes=1200)
    found = [InterpolatedNgram(train, VOCAB_SIZE, END_OF_TEXT, order).bits_per_byte(unseen) for order in (1, 2, 3)]
    assert found[2] < 0.8 * found[0] and found[1] < 1.02 * found[0]
    # What cannot be known: in 3 of 10 cases the token is drawn from all.
    entropy = -(0.7 + 0.3 / 29) * math.log2(0.7 + 0.3 / 29) - 28 * (0.3 / 29) * math.log2(0.3 / 29)
    assert found[2] > 0.9 * entropy * unseen.num_tokens / unseen.num_bytes


def test_tokens_do_not_reach_across_documents(stream_of):
    """The first token of a document has the same probability whatever the document before it ended with."""
    model = InterpolatedNgram(stream_of(documents(30)), VOCAB_SIZE, END_OF_TEXT)
    unseen = documents(3, seed=5)
    alone = sum(model.bits_per_byte(stream_of([text], num_bytes=1)) for text in unseen)
    assert model.bits_per_byte(stream_of(unseen, num_bytes=1)) == pytest.approx(alone)


def test_a_stream_too_large_to_count_is_cut_and_said(stream_of, texts):
    whole = InterpolatedNgram(stream_of(texts), VOCAB_SIZE, END_OF_TEXT)
    cut = InterpolatedNgram(stream_of(texts), VOCAB_SIZE, END_OF_TEXT, largest_training_tokens=10 * 61)
    first = InterpolatedNgram(stream_of(texts[:10]), VOCAB_SIZE, END_OF_TEXT)
    unseen = stream_of(documents(5, seed=3))
    assert cut.bits_per_byte(unseen) == first.bits_per_byte(unseen) != whole.bits_per_byte(unseen)
    assert "first 610" in cut.what and "first" not in whole.what
    assert (whole.num_training_tokens, cut.num_training_tokens) == (40 * 61, 610)
    within = InterpolatedNgram(stream_of(texts), VOCAB_SIZE, END_OF_TEXT, largest_training_tokens=30)
    assert within.num_training_tokens == 30


def sentences(seed, count):
    generator = np.random.default_rng(seed)
    return [" ".join(f"word{n}" for n in generator.integers(0, 500, 60)) for _ in range(count)]


def test_xz_is_given_the_training_text_first():
    train, unseen = sentences(0, 50), sentences(1, 5)
    assert xz_bits_per_byte([*train, *unseen], unseen) < 0.3 * xz_bits_per_byte(train, unseen)
    assert xz_bits_per_byte(train, unseen) < xz_bits_per_byte(["x"], unseen)


def test_xz_by_hand():
    before, after = b"first\n\nsecond", b"unseen"
    preset = 9 | lzma.PRESET_EXTREME
    added = len(lzma.compress(before + b"\n\n" + after, preset=preset)) - len(lzma.compress(before, preset=preset))
    assert xz_bits_per_byte(["first", "second"], ["unseen"]) == pytest.approx(8 * added / 6)


def test_xz_counts_the_bytes_and_not_the_characters_of_a_text():
    assert xz_bits_per_byte(["a"], ["ä" * 50]) == pytest.approx(xz_bits_per_byte(["a"], ["xy" * 50]), rel=0.15)


def test_a_training_text_beyond_the_window_of_xz_is_cut_from_its_front(monkeypatch):
    monkeypatch.setattr(rulers, "_XZ_WINDOW_BYTES", 100)
    late, unseen = "z" * 100, ["hello world " * 8]
    assert xz_bits_per_byte([unseen[0], late], unseen) == xz_bits_per_byte([late], unseen)


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the xz command")
def test_the_size_is_that_of_the_command():
    content = "\n\n".join(sentences(2, 100)).encode()
    command = subprocess.run(["xz", "-9e", "--stdout"], input=content, capture_output=True, check=True)
    assert rulers._xz_size(content) == len(command.stdout)
