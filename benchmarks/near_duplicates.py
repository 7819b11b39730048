"""Documents per second through the search for near duplicates, ours against datatrove, on one core, in one run.

Pages are made by code: most are new, some are copies with a few words changed. Both read the same JSONL and write the
documents that stay as JSONL; what is timed starts after imports and a warm-up. datatrove runs its four MinHash stages
with its own defaults, in the interpreter that is given. Prints documents per second, the ratio, and how many of the
planted copies each one found and how many new pages it lost.

    python benchmarks/near_duplicates.py --peer-python ENV/bin/python [--documents 20000] [--seed 0]
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from itertools import accumulate, islice
from pathlib import Path

import pyarrow

from preceptor.data.overlap import SKETCH_FIELDS, OverlapConfig, resolve, sketch_many

BATCH_DOCUMENTS = 512
NUM_KINDS = 50_000
PEER = """
import json, sys, time
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

source, work = Path(sys.argv[1]), Path(sys.argv[2])
signature = MinhashDedupSignature(str(work / "signatures"))
signature.get_shingles("A few words that set everything up, and say nothing.")

def reader():
    return JsonlReader(str(source.parent), glob_pattern=source.name, compression=None)

stages = [
    [reader(), signature],
    [MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"))],
    [MinhashDedupCluster(str(work / "buckets"), str(work / "removed"))],
    [reader(), MinhashDedupFilter(str(work / "removed")), JsonlWriter(str(work / "kept"), compression=None)],
]
started = time.perf_counter()
for number, stage in enumerate(stages):
    tasks = 14 if number == 1 else 1
    LocalPipelineExecutor(stage, tasks=tasks, workers=1, logging_dir=str(work / f"logs{number}")).run()
seconds = time.perf_counter() - started
kept = [json.loads(line)["id"] for path in (work / "kept").glob("*.jsonl") for line in path.open()]
print(json.dumps([seconds, kept]))
"""


def write_pages(path: Path, num_documents: int, seed: int) -> tuple[dict[str, str], int]:
    """The id of each page with that of the new page which it copies, or its own; and the bytes of all texts."""
    rng = random.Random(seed)
    kinds = [f"{rng.choice('bcdfglmnprst')}{rng.choice('aeiou')}{number:x}" for number in range(NUM_KINDS)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(NUM_KINDS)))
    families: dict[str, str] = {}
    num_bytes = 0
    last: list[tuple[str, list[str]]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_documents):
            if last and rng.random() < 0.25:
                family, copied = rng.choice(last)
                words = list(copied)
                # Each changed word takes five of a page's n-grams away, so that even eight leave 0.8 in common.
                for _ in range(rng.randrange(1, 1 + len(words) // 100)):
                    words[rng.randrange(len(words))] = "changed"
            else:
                family, words = str(number), rng.choices(kinds, cum_weights=weights, k=rng.randrange(200, 800))
                last = [*last[-999:], (family, words)]
            families[str(number)] = family
            text = "\n\n".join(" ".join(words[start : start + 60]) + "." for start in range(0, len(words), 60))
            num_bytes += len(text.encode())
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")
    return families, num_bytes


def ours(source: Path, work: Path) -> tuple[float, list[str]]:
    """Seconds, and the ids of the documents that stay."""
    config = OverlapConfig(repeated_paragraphs=False, max_line_documents=0)
    schema = pyarrow.schema(
        [
            *((name, pyarrow.string()) for name in ("id", "source", "text")),
            ("quality", pyarrow.float64()),
            *SKETCH_FIELDS,
        ]
    )
    sketch_many(["A few words that set everything up, and say nothing."], config)
    started = time.perf_counter()
    part = work / "part.arrow"
    options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
    with source.open("rb") as lines, pyarrow.ipc.new_file(str(part), schema, options=options) as out:
        while rows := [json.loads(line) for line in islice(lines, BATCH_DOCUMENTS)]:
            ids, texts = [row["id"] for row in rows], [row["text"] for row in rows]
            columns = {"id": ids, "source": ids, "text": texts, "quality": [0.0] * len(ids)}
            columns |= sketch_many(texts, config)
            out.write_batch(pyarrow.RecordBatch.from_pydict(columns, schema=schema))
    decisions = resolve([part], config, work / "decisions", lambda: None).for_part(0)
    kept = []
    with pyarrow.memory_map(str(part)) as file, (work / "kept.jsonl").open("w", encoding="utf-8") as written:
        reader = pyarrow.ipc.open_file(file)
        row = 0
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index).select(["id", "text"])
            for document in batch.to_pylist():
                if decisions.stays(row):
                    written.write(json.dumps(document) + "\n")
                    kept.append(document["id"])
                row += 1
    return time.perf_counter() - started, kept


def main() -> None:
    """Make the pages, run both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="an interpreter in which datatrove is installed")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "pages" / "pages.jsonl"
        source.parent.mkdir()
        families, num_bytes = write_pages(source, arguments.documents, arguments.seed)
        (Path(folder) / "ours").mkdir()
        results = {"preceptor": ours(source, Path(folder) / "ours")}
        command = [arguments.peer_python, "-c", PEER, str(source), str(Path(folder) / "peer")]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        results["datatrove"] = tuple(json.loads(output.stdout.splitlines()[-1]))
    num_copies = sum(id != family for id, family in families.items())
    print(f"{arguments.documents:,} documents, {num_bytes / 1e6:.0f} MB, {num_copies:,} of them copies; one core")
    print(f"{'':12s}{'docs/s':>10s}{'MB/s':>8s}{'copies found':>14s}{'new pages lost':>16s}")
    for name, (seconds, kept) in results.items():
        # Of a page and its copies any one may stay: each family must be left with one.
        staying = len({families[id] for id in kept})
        found = 1 - (len(kept) - staying) / num_copies
        rate = arguments.documents / seconds
        lost = len(families) - num_copies - staying
        print(f"{name:12s}{rate:10,.0f}{num_bytes / 1e6 / seconds:8.1f}{found:14.4f}{lost:16,d}")
    print(f"ratio: {results['datatrove'][0] / results['preceptor'][0]:.1f} times")


if __name__ == "__main__":
    main()
