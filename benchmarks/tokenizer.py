"""Megabytes of text encoded per second, ours against `tokenizers`, on the embedded default, in one run.

Both use the same tokenizer.json; the ids are compared on every document. Prints a table and the ratio.

    python benchmarks/tokenizer.py [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers

from preceptor.recipes import python_docs
from preceptor.tokenizer.bpe import TokenizerConfig, train
from preceptor.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

Encode = Callable[[Sequence[str]], object]


WARM_UP = ["A few words that set everything up, and say nothing."] * 8


def rate(make: Callable[[], Encode], texts: Sequence[str], rounds: int) -> float:
    """Median megabytes per second over the rounds. Each has an encoder of its own that has not seen the texts."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    rates = []
    for _ in range(rounds):
        encode = make()
        encode(WARM_UP)
        started = time.perf_counter()
        encode(texts)
        rates.append(size / (time.perf_counter() - started))
    return statistics.median(rates)


def main() -> None:
    """Train once, encode with both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts = [document.text for document in python_docs.documents()]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ours = train(texts, TokenizerConfig(), Path(folder))
        training = time.perf_counter() - started
        theirs = tokenizers.Tokenizer.from_file(str(Path(folder) / TOKENIZER_FILE))
    reference = [encoding.ids for encoding in theirs.encode_batch_fast(texts)]
    equal = sum(ids.tolist() == wanted for ids, wanted in zip(ours.encode_many(texts), reference, strict=True))
    definition = theirs.to_str()
    our_rate = rate(lambda: Tokenizer(definition).encode_many, texts, arguments.rounds)
    their_rate = rate(lambda: tokenizers.Tokenizer.from_str(definition).encode_batch_fast, texts, arguments.rounds)
    print(f"training: {sum(len(text.encode()) for text in texts) / 1e6 / training:.1f} MB/s (by tokenizers)")
    print(f"{'preceptor':14s}{our_rate:8.1f} MB/s")
    print(f"{'tokenizers':14s}{their_rate:8.1f} MB/s")
    print(f"ratio: {our_rate / their_rate:.1f} times; ids equal on {equal} of {len(texts)} documents")


if __name__ == "__main__":
    main()
