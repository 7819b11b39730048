"""Training, encoding and feeding of tokens, ours against `tokenizers`, in one run.

Trains byte-level BPE with both and compares the merges; encodes the same files and strings with both, with the same
tokenizer.json, and compares the ids; then reads windows of a stream in random order, stops, and goes on from the
position. Text is generated (seeded), or taken from the files of a folder. Prints a table and the ratios.

    python benchmarks/tokenizer.py [--rounds 3] [--megabytes 64] [--folder FOLDER --pattern '*.html']
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from preceptor.objectives.causal import CausalObjective
from preceptor.recipes import python_docs
from preceptor.tokenizer.config import SPECIAL_TOKENS, TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer
from preceptor.tokenizer.training import train

WARM_UP = ["A few words that set everything up, and say nothing."] * 8
WINDOW = 1024


def read_texts(arguments: argparse.Namespace) -> list[str]:
    """The texts of the folder, or generated ones: sentences of the documentation that Python ships, shuffled."""
    if arguments.folder:
        paths = sorted(Path(arguments.folder).rglob(arguments.pattern))
        return [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    draw = random.Random(0)
    lines = [line for document in python_docs.documents() for line in document.text.splitlines(keepends=True)]
    words = sorted({word for line in lines for word in line.split()})
    texts: list[str] = []
    size = 0
    while size < arguments.megabytes * 1e6:
        # Half of the lines get a word from elsewhere, so that the text does not repeat itself.
        chosen = draw.choices(lines, k=100)
        text = "".join(f"{draw.choice(words)}{number} {line}" for number, line in enumerate(chosen))
        texts.append(text)
        size += len(text.encode())
    return texts


def seconds(make: Callable[[], Callable[[], object]], rounds: int) -> float:
    """Median seconds over the rounds. What each sets up for itself is not counted."""
    taken = []
    for _ in range(rounds):
        work = make()
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def train_reference(texts: Sequence[str], vocab_size: int) -> list[tuple[str, str]]:
    """The merges of `tokenizers`."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]


def compare_training(texts: Sequence[str], folder: Path, vocab_size: int, rounds: int) -> None:
    """Print how long both train and whether the merges are the same. The tokenizer is in the folder afterwards."""
    config = TokenizerConfig(vocab_size=vocab_size)
    ours = seconds(lambda: partial(train, iter(texts), config, folder), rounds)
    theirs = seconds(lambda: partial(train_reference, texts, vocab_size), 1)
    merges = [tuple(pair) for pair in json.loads((folder / TOKENIZER_FILE).read_text())["model"]["merges"]]
    same = merges == train_reference(texts, vocab_size)
    show("train", ours, theirs, sum(len(text.encode()) for text in texts), f"merges equal: {same}")


def show(what: str, ours: float, theirs: float, num_bytes: int, note: str) -> None:
    """Print a line of the table."""
    rates = f"{num_bytes / 1e6 / ours:10.1f} MB/s {num_bytes / 1e6 / theirs:10.1f} MB/s"
    print(f"{what:24s}{rates} {theirs / ours:8.1f} times   {note}", flush=True)


def compare_encoding(texts: Sequence[str], folder: Path, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Print how long both encode from files and from strings; the ids and the lengths."""
    definition = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_str(definition)
    size = sum(len(text.encode()) for text in texts)
    their_seconds = seconds(lambda: partial(tokenizers.Tokenizer.from_str(definition).encode_batch, list(texts)), 1)
    strings = seconds(lambda: partial(fresh(definition).encode_flat, texts), rounds)
    flat, lengths = fresh(definition).encode_flat(texts)
    note = compare_ids(flat, lengths, theirs, texts)
    show("encode strings", strings, their_seconds, size, note)
    # Files of about a megabyte, as corpora come in; each is encoded as one text.
    joined = ["".join(texts[start : start + 200]) for start in range(0, len(texts), 200)]
    paths = [folder / f"{number:06d}.txt" for number in range(len(joined))]
    for path, text in zip(paths, joined, strict=True):
        path.write_bytes(text.encode())
    files = seconds(lambda: partial(fresh(definition).encode_files, paths), rounds)
    note = compare_ids(*fresh(definition).encode_files(paths), theirs, joined)
    show("encode files", files, their_seconds, size, note)
    return flat, lengths


def compare_ids(flat: np.ndarray, lengths: np.ndarray, theirs: tokenizers.Tokenizer, texts: Sequence[str]) -> str:
    """On how many texts the ids are those of `tokenizers`."""
    rows = np.split(flat, np.cumsum(lengths)[:-1])
    wanted = [encoding.ids for encoding in theirs.encode_batch_fast(list(texts))]
    equal = sum(row.tolist() == ids for row, ids in zip(rows, wanted, strict=True))
    return f"ids equal on {equal} of {len(texts)}"


def fresh(definition: str) -> Tokenizer:
    """A tokenizer that has set up its fast encoder and has not seen the texts."""
    tokenizer = Tokenizer(definition)
    tokenizer.encode_many(WARM_UP)
    return tokenizer


def feed(flat: np.ndarray, lengths: np.ndarray, folder: Path) -> None:
    """Print how fast a stream gives out windows in random order and packed batches, and whether it resumes exactly."""
    tokens = np.tile(flat.astype(np.uint16), max(1, 100_000_000 // len(flat)))
    path = folder / "tokens.bin"
    path.write_bytes(tokens.tobytes())
    repeats = len(tokens) // len(flat)
    offsets = np.cumsum(np.concatenate([[0], np.tile(lengths, repeats)]))
    names = np.zeros(len(offsets) - 1, "S1")
    stream = TokenStream(np.memmap(path, np.uint16, "r"), offsets, names, 0)
    order = np.random.default_rng(0).permutation(stream.num_tokens // WINDOW)
    for _ in stream.windows(order, WINDOW, 64):
        pass
    started = time.perf_counter()
    fed = sum(rows.size for rows in stream.windows(order, WINDOW, 64))
    rate = fed / (time.perf_counter() - started) / 1e6
    first = stream.windows(order, WINDOW, 64)
    reading = iter(first)
    for _ in range(len(order) // 128):
        next(reading)
    rest = stream.windows(order, WINDOW, 64, first.position)
    same = all(np.array_equal(a, b) for a, b in zip(reading, rest, strict=True))
    print(f"{'stream windows':24s}{rate:10.1f} M tokens/s   resumes exactly from its position: {same}")
    part = TokenStream(stream.tokens, offsets[: len(lengths) + 1], names[: len(lengths)], 0)
    objective = CausalObjective(part, WINDOW, 0)
    rows = np.random.default_rng(0).permutation(objective.num_rows).tolist()[:4096]
    started = time.perf_counter()
    for start in range(0, len(rows), 64):
        objective.collate(rows[start : start + 64])
    rate = len(rows) * WINDOW / (time.perf_counter() - started) / 1e6
    print(f"{'packed batches':24s}{rate:10.1f} M tokens/s   inputs, labels, positions and segments of 64 rows")


def main() -> None:
    """Train, encode, feed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--folder", default="")
    parser.add_argument("--pattern", default="*")
    arguments = parser.parse_args()
    texts = read_texts(arguments)
    print(f"{len(texts)} documents, {sum(len(text.encode()) for text in texts) / 1e6:.1f} MB")
    print(f"{'':24s}{'preceptor':>15s} {'tokenizers':>15s}")
    with tempfile.TemporaryDirectory() as folder:
        compare_training(texts, Path(folder), arguments.vocab_size, arguments.rounds)
        feed(*compare_encoding(texts, Path(folder), arguments.rounds), Path(folder))


if __name__ == "__main__":
    main()
