"""The steps of the data stage in datatrove, for benchmarks/data.py, which runs this with an interpreter that has it.

HTML files to clean, de-duplicated, de-identified Parquet: trafilatura, the rules of Gopher, C4 and FineWeb, MinHash in
its four steps, e-mail and IP addresses. Prints one line of JSON: documents read, documents kept, seconds.

    python benchmarks/data_peer.py SOURCE WORK --workers 2 [--limit 2000]
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter


class PageReader(PipelineStep):  # type: ignore[misc]
    """The pages of a folder, every so-manieth for each worker."""

    name = "pages"
    type = "READER"

    def __init__(self, folder: str, limit: int) -> None:
        super().__init__()
        self.folder = folder
        self.limit = limit

    def run(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The pages of one worker."""
        pages = sorted(Path(self.folder).rglob("*.html"))[: self.limit or None]
        for page in pages[rank::world_size]:
            yield Document(text=page.read_text(encoding="utf-8", errors="replace"), id=page.name)


def main() -> None:
    """Run the five jobs one after the other and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("work", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    work = str(arguments.work)
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    filters = [GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()]
    jobs: list[tuple[list[PipelineStep], int]] = [
        (
            [
                PageReader(arguments.source, arguments.limit),
                Trafilatura(),
                *filters,
                ParquetWriter(f"{work}/filtered", compression="zstd"),
            ],
            arguments.workers,
        ),
        ([ParquetReader(f"{work}/filtered"), MinhashDedupSignature(f"{work}/signatures", config)], arguments.workers),
        ([MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)], config.num_buckets),
        ([MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config)], 1),
        (
            [
                ParquetReader(f"{work}/filtered"),
                MinhashDedupFilter(f"{work}/remove"),
                PIIFormatter(),
                ParquetWriter(f"{work}/out", compression="zstd"),
            ],
            arguments.workers,
        ),
    ]
    started = time.perf_counter()
    for number, (steps, tasks) in enumerate(jobs):
        logs = f"{work}/logs/{number}"
        LocalPipelineExecutor(steps, tasks=tasks, workers=arguments.workers, logging_dir=logs).run()
    seconds = time.perf_counter() - started
    import pyarrow.parquet

    kept = sum(pyarrow.parquet.read_metadata(path).num_rows for path in Path(work, "out").rglob("*.parquet"))
    pages = len(sorted(Path(arguments.source).rglob("*.html"))[: arguments.limit or None])
    print(json.dumps({"documents": pages, "kept": kept, "seconds": seconds}))


if __name__ == "__main__":
    main()
