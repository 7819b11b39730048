"""Recall and precision of each kind of personal data on the labelled set, and how fast clean and personal text pass."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from preceptor.data.personal import KINDS, PersonalConfig, Redactor
from preceptor.data.personal_samples import Sample, look_alikes, samples, scores, wilson_lower
from preceptor.data.spans import Span

_CLEAN = (
    "The committee met on Tuesday to discuss the budget for the coming year and agreed on three points. "
    "In 1998 it had not, and 42 members were asked why.\n"
)
_DOCUMENT_CHARACTERS = 4000


def _megabytes_per_second(redactor: Redactor, texts: Sequence[str]) -> float:
    """The best of three passes, in processor time, so that other work on the machine counts little."""
    size = sum(len(text.encode()) for text in texts)
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for text in texts:
            redactor.redact(text)
        best = min(best, time.process_time() - started)
    return size / best / 1e6


def _speeds(redactor: Redactor, folder: Path | None) -> dict[str, float]:
    clean = _CLEAN * 10_000
    kinds = [[sample.text for sample in samples(kind, 300)] for kind in KINDS]
    texts = {
        "clean prose": [clean[at : at + _DOCUMENT_CHARACTERS] for at in range(0, len(clean), _DOCUMENT_CHARACTERS)],
        "look-alikes": list(look_alikes(3000)),
        "personal data": [text for of_kind in kinds for text in of_kind],
    }
    if folder:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        texts[f"files of {folder.name}"] = [path.read_text("utf-8", "replace") for path in files]
    return {name: _megabytes_per_second(redactor, group) for name, group in texts.items() if group}


def _growth(redactor: Redactor) -> float:
    """The largest ratio of time for twice the text, over rows of signs that every recogniser starts from."""
    worst = 0.0
    for attack in (
        "a@",
        "1.",
        "1:",
        "+1 (2",
        "4111 ",
        "DE89 ",
        "00-",
        "://a:",
        " at dot ",
        "(at)a dot ",
        "sk-",
        "&#64;",
    ):
        times = []
        for size in (40_000, 80_000):
            text = attack * (size // len(attack))
            times.append(min(_seconds(redactor, text) for _ in range(3)))
        worst = max(worst, times[1] / times[0])
    return worst


def _seconds(redactor: Redactor, text: str) -> float:
    started = time.process_time()
    redactor.find(text)
    return time.process_time() - started


def _printer(limit: int) -> Callable[[Sample | str, Sequence[Span]], None]:
    seen = Counter[str]()

    def show(sample: Sample | str, spans: Sequence[Span]) -> None:
        name, text = (
            ("look-alike", sample) if isinstance(sample, str) else (f"{sample.kind} {sample.variant}", sample.text)
        )
        seen[name] += 1
        if seen[name] <= limit:
            around = text if isinstance(sample, str) else text[max(0, sample.start - 30) : sample.end + 20]
            found = [(span.kind, text[span.start : span.end]) for span in spans]
            click.echo(f"{name}: {around!r} gave {found}", err=True)

    return show


@click.command()
@click.option("--count", default=2000, show_default=True, help="Labelled spans of each kind.")
@click.option("--seed", default=0, show_default=True, help="Of the set.")
@click.option("--files", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A folder to measure too.")
@click.option("--mistakes", default=0, show_default=True, help="How many mistakes of each variant are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(count: int, seed: int, files: Path | None, mistakes: int, as_json: bool) -> None:
    """Print the scores with the lower ends of their 95% intervals (Wilson), and the speeds."""
    redactor = Redactor(PersonalConfig())
    results = scores(redactor, count, seed, _printer(mistakes) if mistakes else None)
    speeds, growth = _speeds(redactor, files), _growth(redactor)
    rows = {
        kind: {
            "spans": score.labelled,
            "recall": score.recall,
            "recall_lower": wilson_lower(score.recalled, score.labelled),
            "found": score.found,
            "precision": score.precision,
            "precision_lower": wilson_lower(score.correct, score.found),
        }
        for kind, score in results.items()
    }
    if as_json:
        click.echo(json.dumps({"schema": 1, "kinds": rows, "megabytes_per_second": speeds, "growth": growth}))
        return
    click.echo("| Kind | Spans | Recall | at least | Found | Precision | at least |\n|---|---|---|---|---|---|---|")
    for kind, row in rows.items():
        click.echo(
            f"| {kind} | {row['spans']} | {row['recall']:.4f} | {row['recall_lower']:.4f} | {row['found']}"
            f" | {row['precision']:.4f} | {row['precision_lower']:.4f} |"
        )
    for name, speed in speeds.items():
        click.echo(f"{name}: {speed:.1f} MB/s on one core")
    click.echo(f"twice the text takes at most {growth:.2f} times as long")


if __name__ == "__main__":
    main()
