"""HTML pages to clean, de-duplicated, de-identified Parquet: documents per second, ours against datatrove, in one run.

Ours is the whole command `preceptor data`, start-up included, which besides does what the peer does not: licences,
consent, languages, more kinds of personal data, repeated paragraphs, ledger, index, datasheet. The peer (an interpreter
with datatrove and trafilatura, see data_peer.py) may be given fewer pages of the same folder, since it needs hours.

    python benchmarks/data.py --peer-python DIR/bin/python [--html DIR] [--pages 100000] [--peer-pages 2000]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preceptor.recipes import python_docs

RULES = '["gopher-quality","gopher-repetition","c4","fineweb"]'
_PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="date" content="2024-0{month}-1{month}"></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/a">Articles</a></li><li><a href="/b">About us</a></li></ul></nav>
<main><article><h1>{title}</h1>
{paragraphs}
</article></main>
<aside><p>Subscribe to our newsletter</p></aside><footer><p>All rights reserved. <a href="/p">Privacy</a></p></footer>
</body></html>
"""


def sentences() -> list[str]:
    """Sentences of the embedded default, in the order of their documents."""
    found = []
    for document in python_docs.documents():
        for paragraph in document.text.split("\n\n"):
            for sentence in " ".join(paragraph.split()).split(". "):
                if 40 <= len(sentence) <= 240 and sentence[0].isupper() and sentence.isascii():
                    found.append(sentence.rstrip(".") + ".")
    return found


def generate(folder: Path, num_pages: int, seed: int = 0) -> None:
    """Write pages: most of fresh combinations, one in ten a near copy of an earlier one, one in twenty short."""
    draw = random.Random(seed)
    supply = sentences()
    recent: list[list[str]] = []
    for number in range(num_pages):
        if number % 500 == 0:
            place = folder / f"{number // 500:04d}"
            place.mkdir(parents=True)
        if number % 10 == 9 and recent:
            paragraphs = list(draw.choice(recent))
            words = paragraphs[0].split()
            words[draw.randrange(len(words))] = "otherwise"
            paragraphs[0] = " ".join(words)
        else:
            length = 1 if number % 20 == 3 else draw.randint(3, 9)
            paragraphs = [" ".join(draw.sample(supply, draw.randint(3, 6))) for _ in range(length)]
            if number % 7 == 0:
                paragraphs.append(f"Please write to user{number}@example.org, and we will answer the same week.")
            recent = [*recent[-200:], paragraphs]
        body = "\n".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
        page = _PAGE.format(title=f"Page {number}", month=number % 9 + 1, paragraphs=body)
        (place / f"{number:07d}.html").write_text(page, encoding="utf-8")


def ours(folder: Path, out: Path, workers: int) -> tuple[int, int, float]:
    """Documents read, documents kept, and seconds of the whole command."""
    command = [
        str(Path(sys.executable).with_name("preceptor")),
        *("data", f'data.sources=[{{path="{folder}/**/*.html", licence="CC0-1.0"}}]', f"data.filters.rules={RULES}"),
        *('data.on_bad_input="reject"', f"execution.num_workers={workers}", "--out", str(out)),
    ]
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if result.returncode:
        sys.exit(result.stderr)
    (corpus,) = (out / "artifacts" / "corpus").iterdir()
    datasheet = json.loads((corpus / "datasheet.json").read_text(encoding="utf-8"))
    return datasheet["documents_in"], datasheet["documents_kept"], seconds


def theirs(folder: Path, work: Path, python: str, workers: int, limit: int) -> tuple[int, int, float]:
    """The same of datatrove, on the first pages of the folder."""
    script = Path(__file__).with_name("data_peer.py")
    command = [python, str(script), str(folder), str(work), "--workers", str(workers), "--limit", str(limit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr[-4000:])
    said = json.loads(result.stdout.strip().splitlines()[-1])
    return said["documents"], said["kept"], said["seconds"]


def main() -> None:
    """Run both on each folder of pages and print documents per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, help="a folder of pages, such as the HTML of Debian's python3-doc")
    parser.add_argument("--pages", type=int, default=100_000, help="how many pages are generated; 0 for none")
    parser.add_argument("--peer-python", help="an interpreter with datatrove and trafilatura")
    parser.add_argument("--peer-pages", type=int, default=2000, help="how many pages the peer is given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"given": arguments.html} if arguments.html else {}
        if arguments.pages:
            folders[f"{arguments.pages:,} generated"] = Path(scratch, "pages")
            generate(Path(scratch, "pages"), arguments.pages)
        for name, folder in folders.items():
            results = {"preceptor": ours(folder.resolve(), Path(scratch, f"out-{len(name)}"), arguments.workers)}
            if arguments.peer_python:
                work, limit = Path(scratch, "peer"), arguments.peer_pages
                results["datatrove"] = theirs(folder.resolve(), work, arguments.peer_python, arguments.workers, limit)
            rates = []
            for who, (num_in, kept, seconds) in results.items():
                rates.append(num_in / seconds)
                print(f"{name}: {who} {num_in:,} pages, {kept:,} kept, {seconds:.1f} s, {rates[-1]:.1f} a second")
            print(f"{name}: ratio {rates[0] / rates[-1]:.1f}", flush=True)


if __name__ == "__main__":
    main()
