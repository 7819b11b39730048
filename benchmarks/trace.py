"""Time to index a corpus of a million documents, to look one up, and to trace one through a trained model.

python benchmarks/trace.py [--documents 1000000] [--out FOLDER]
"""

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preceptor.core.artifact import Artifact, Store
from preceptor.core.config import encode
from preceptor.data import index
from preceptor.data.index import Index
from preceptor.data.mixture import Blending
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train
from preceptor.train.run import PretrainingConfig

SHARD_DOCUMENTS = 20_000
CHILD = "import sys; from pathlib import Path; from preceptor.recipes.trace import as_text, trace; "
CHILD += "print(as_text(trace(Path(sys.argv[1]), sys.argv[2])))"


def text_of(number: int) -> str:
    """The text of a document."""
    return f"Document {number} of many. " + f"It says {number * 7919 % 1000003} things of interest. " * 20


def id_of(number: int) -> str:
    """The id of a document."""
    return hashlib.sha256(f"{number}".encode()).hexdigest()[:16]


def make_corpus(store: Store, num_documents: int) -> tuple[Artifact, float]:
    """A corpus of generated documents, and how long its index took in seconds."""
    with store.draft("corpus", "benchmark", {}) as draft:
        for name in ("documents", "ledger"):
            (draft.path / name).mkdir()
        for first in range(0, num_documents, SHARD_DOCUMENTS):
            numbers = range(first, min(first + SHARD_DOCUMENTS, num_documents))
            columns = {"id": [id_of(n) for n in numbers], "source": [f"file:pages.jsonl#{n}" for n in numbers]}
            name = f"{first // SHARD_DOCUMENTS:05d}.parquet"
            ledger: dict[str, Any] = columns | {
                key: [""] * len(numbers) for key in ("collection", "licence", "rule", "detail")
            }
            ledger |= {
                "verdict": ["keep"] * len(numbers),
                "measured": np.zeros(len(numbers)),
                "limit": np.zeros(len(numbers)),
            }
            pq.write_table(pa.table(ledger), draft.path / "ledger" / name, compression="zstd")
            documents = columns | {
                "text": [text_of(n) for n in numbers],
                "origin": [f"https://example.org/{n}" for n in numbers],
                "metadata": ["{}"] * len(numbers),
                "split": ["train"] * len(numbers),
                "parent": pa.nulls(len(numbers), pa.string()),
                "date": [""] * len(numbers),
            }
            pq.write_table(
                pa.table(documents), draft.path / "documents" / name, row_group_size=1024, compression="zstd"
            )
        started = time.perf_counter()
        index.write_from_shards(draft.path)
        seconds = time.perf_counter() - started
    return draft.artifact, seconds


def make_model(store: Store, corpus: Artifact, num_documents: int) -> None:
    """A checkpoint without weights, of a run over made-up tokens of those documents."""
    with store.draft("tokenizer", "benchmark", {"corpus": corpus.id}) as draft:
        tokenizer = train(map(text_of, range(100)), TokenizerConfig(vocab_size=512), draft.path)
    tokenizer_id = draft.artifact.id
    with store.draft("tokens", "benchmark", {"corpus": corpus.id, "tokenizer": tokenizer_id}) as draft:
        offsets = np.concatenate([[0], np.cumsum(np.random.default_rng(0).integers(50, 600, num_documents))])
        np.save(draft.path / "train.offsets.npy", offsets.astype(np.int64))
        np.save(draft.path / "train.document_ids.npy", np.array([id_of(n) for n in range(num_documents)], "S16"))
        np.save(draft.path / "train.sources.npy", np.zeros(num_documents, np.uint16))
        np.zeros(int(offsets[-1]), "<u2").tofile(draft.path / "train.tokens.bin")
        said = {"documents": num_documents, "tokens": int(offsets[-1]), "bytes": 1, "collections": ["a"]}
        stream = {"tokenizer": tokenizer.fingerprint, "dtype": "<u2", "splits": {"train": said}}
        (draft.path / "stream.json").write_text(json.dumps(stream))
    parents = {"tokens": draft.artifact.id, "tokenizer": tokenizer_id}
    with store.draft("checkpoint", "benchmark", parents) as draft:
        tokenizer.save(draft.path)
        settings = encode(PretrainingConfig(duration="3 epochs"))
        draft.notes["settings"] = {"pretraining": settings, "seed": 0, "blending": encode(Blending()), "model": {}}
        draft.facts["num_steps"] = 0


def traced_seconds(out: Path, query: str) -> float:
    """How long a trace takes from the start of Python to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", CHILD, out, query], check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - started


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="trace-"))
    store = Store(out / "artifacts")
    corpus, seconds = make_corpus(store, arguments.documents)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"index of {arguments.documents:,} documents: {seconds:.1f} s, peak memory {peak:.0f} MiB with the generator")
    num_bytes = sum(path.stat().st_size for path in (corpus.path / "index").iterdir())
    print(f"index: {num_bytes / arguments.documents:.0f} bytes a document")
    make_model(store, corpus, arguments.documents)
    chosen = arguments.documents // 3
    opened = Index.open(corpus.path)
    started = time.perf_counter()
    for number in range(chosen, chosen + 1000):
        assert opened.find_id(id_of(number % arguments.documents))
    print(f"look-up: {(time.perf_counter() - started) * 1000:.0f} microseconds")
    print(f"first trace, which also keeps the order of the run: {traced_seconds(out, id_of(chosen)):.2f} s")
    for name, query in {"id": id_of(chosen), "URL": f"https://example.org/{chosen}", "text": text_of(chosen)}.items():
        times = sorted(traced_seconds(out, query) for _ in range(5))
        print(f"trace by {name}, Python's start included: median {times[2]:.2f} s, slowest {times[-1]:.2f} s")
    if arguments.out is None:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
