"""Peak memory of the data stage as the data grows: a JSONL file of one size and of ten times that size, in one run.

The file is generated, read by the whole command `preceptor data`, and removed again. Peak memory is the sum over all
processes of the command, sampled from /proc (proportional set size, so that shared pages count once).

    python benchmarks/data_memory.py [--gigabytes 10]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

_SAMPLE_SECONDS = 0.2
_VOCABULARY = 40_000


def generate(path: Path, num_bytes: int, seed: int = 0) -> int:
    """The number of records written: paragraphs of phrases drawn at random, one record in twenty a copy of the last."""
    draw = random.Random(seed)
    numbers = np.random.default_rng(seed)
    syllables = [
        consonant + vowel + end for consonant in "bdfgklmnprst" for vowel in "aeiou" for end in ("", "n", "r", "s")
    ]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(_VOCABULARY)]
    phrases = [" ".join(draw.choices(words, k=5)) for _ in range(1 << 16)]
    written = number = 0
    text = ""
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            if number % 20 != 19:
                drawn = numbers.integers(0, len(phrases), (int(numbers.integers(4, 17)), 8)).tolist()
                paragraphs = [" ".join([phrases[place] for place in row]).capitalize() + "." for row in drawn]
                text = "\n\n".join(paragraphs)
            line = json.dumps({"text": text, "id": str(number)}) + "\n"
            written += file.write(line)
            number += 1
    return number


def _memory(process: int) -> int:
    """Bytes of a process and of those it started."""
    total = 0
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return total
    return total + sum(_memory(int(child)) for child in children)


def run(path: Path, out: Path, workers: int) -> tuple[int, float, dict[str, int]]:
    """Peak bytes, seconds, and the counts of the datasheet."""
    command = [
        str(Path(sys.executable).with_name("preceptor")),
        *("data", f'data.sources=[{{path="{path}", licence="CC0-1.0"}}]', f"execution.num_workers={workers}"),
        *("--out", str(out)),
    ]
    started = time.perf_counter()
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        # Its progress lines are drained beside the sampling, or a full pipe would stop it.
        lines: list[str] = []
        drain = threading.Thread(target=lambda: lines.extend(process.stderr or []))
        drain.start()
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        drain.join()
    if process.returncode:
        sys.exit("".join(lines))
    (corpus,) = (out / "artifacts" / "corpus").iterdir()
    datasheet = json.loads((corpus / "datasheet.json").read_text(encoding="utf-8"))
    counts = {key: datasheet[key] for key in ("documents_in", "documents_kept", "documents_dropped")}
    return peak, time.perf_counter() - started, counts


def main() -> None:
    """Run a tenth of the size and the whole size; print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="where there is room for three times the size")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    peaks = []
    for gigabytes in (arguments.gigabytes / 10, arguments.gigabytes):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            path = Path(scratch, "records.jsonl")
            generate(path, int(gigabytes * 1e9))
            peak, seconds, counts = run(path, Path(scratch, "out"), arguments.workers)
            peaks.append(peak)
            said = ", ".join(f"{key} {value:,}" for key, value in counts.items())
            print(f"{gigabytes:6.2f} GB: peak {peak / 2**20:6.0f} MiB, {seconds:7.1f} s, {said}", flush=True)
    print(f"ten times the data, {peaks[1] / peaks[0]:.2f} times the memory")


if __name__ == "__main__":
    main()
