"""Tokenizers side by side on the same text: how short they write it, what they lose, how fast they are."""

import html
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from preceptor.core.errors import EmptyDataError, output_errors
from preceptor.tokenizer.tokenizer import Tokenizer

_WORD = re.compile(r"\w+")
_BATCH_DOCUMENTS = 1024


class Readable(Protocol):
    """What the report takes of a document."""

    @property
    def text(self) -> str:
        """Its words."""

    @property
    def collection(self) -> str:
        """The name of the source that it comes from."""

    @property
    def language(self) -> str:
        """Its language as ISO 639-1, or nothing."""


@dataclass(slots=True)
class Tally:
    """What a tokenizer made of some of the documents."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0

    def add(self, size: int, words: int, tokens: int) -> None:
        """Count one more document."""
        self.documents += 1
        self.bytes += size
        self.words += words
        self.tokens += tokens

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token stands for on average."""
        return self.bytes / self.tokens if self.tokens else float("nan")

    @property
    def fertility(self) -> float:
        """Tokens per word, where a word is a run of letters, digits and underscores."""
        return self.tokens / self.words if self.words else float("nan")


@dataclass(slots=True)
class Row:
    """What one tokenizer does on all the documents."""

    name: str
    vocab_size: int
    overall: Tally = field(default_factory=Tally)
    by_language: dict[str, Tally] = field(default_factory=dict)
    by_source: dict[str, Tally] = field(default_factory=dict)
    unknown_rate: float = 0.0
    """Share of the tokens that are the unknown one."""
    round_trip_rate: float = 0.0
    """Share of the documents that decoding gives back exactly."""
    used_tokens: int = 0
    """How many different tokens occur."""
    megabytes_per_second: float = 0.0
    embedding_parameters: int = 0
    embedding_share: float = 0.0
    """Share of the model's parameters that its embedding takes, of the body and the embedding together."""


def compare(
    tokenizers: Mapping[str, Tokenizer],
    documents: Iterable[Readable],
    *,
    hidden_size: int,
    body_parameters: int,
    is_tied: bool = True,
) -> list[Row]:
    """One row for each tokenizer, all on the same documents, which are taken once and in bounded memory.

    ``body_parameters`` counts the model without its embedding; without ``is_tied`` the output has one of its own.

    Raises:
        EmptyDataError: there are no documents.
    """
    measures = [_Measure(name, tokenizer) for name, tokenizer in tokenizers.items()]
    batch: list[Readable] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH_DOCUMENTS:
            _take(measures, batch)
            batch = []
    _take(measures, batch)
    rows = [measure.row(hidden_size * (1 if is_tied else 2), body_parameters) for measure in measures]
    if not rows or not rows[0].overall.documents:
        raise EmptyDataError("there is no tokenizer or no document to compare", remedy="name both")
    return rows


def _take(measures: Sequence["_Measure"], batch: Sequence[Readable]) -> None:
    sizes = [len(document.text.encode("utf-8", "surrogatepass")) for document in batch]
    words = [sum(1 for _ in _WORD.finditer(document.text)) for document in batch]
    for measure in measures:
        measure.take(batch, sizes, words)


class _Measure:
    """The counts of one tokenizer while documents pass."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._row = Row(name, tokenizer.vocab_size)
        self._seen = np.zeros(tokenizer.vocab_size, np.int64)
        self._seconds = 0.0
        self._given_back = 0
        tokenizer.encode_many(["Words that set everything up."])

    def take(self, batch: Sequence[Readable], sizes: Sequence[int], words: Sequence[int]) -> None:
        """Count a batch."""
        if not batch:
            return
        started = time.perf_counter()
        flat, lengths = self._tokenizer.encode_flat([document.text for document in batch])
        self._seconds += time.perf_counter() - started
        self._seen += np.bincount(flat, minlength=len(self._seen))
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        for document, size, num_words, ids in zip(batch, sizes, words, rows, strict=True):
            for tally in (
                self._row.overall,
                self._row.by_language.setdefault(document.language or "unknown", Tally()),
                self._row.by_source.setdefault(document.collection or "all", Tally()),
            ):
                tally.add(size, num_words, len(ids))
            self._given_back += self._tokenizer.decode(ids.tolist()) == document.text

    def row(self, parameters_per_token: int, body_parameters: int) -> Row:
        """What was found."""
        row, total = self._row, int(self._seen.sum())
        unknown = self._tokenizer.unknown_id
        row.unknown_rate = int(self._seen[unknown]) / total if unknown is not None and total else 0.0
        row.round_trip_rate = self._given_back / row.overall.documents if row.overall.documents else 0.0
        row.used_tokens = int((self._seen > 0).sum())
        row.megabytes_per_second = row.overall.bytes / 1e6 / self._seconds if self._seconds else 0.0
        row.embedding_parameters = row.vocab_size * parameters_per_token
        row.embedding_share = row.embedding_parameters / (row.embedding_parameters + body_parameters)
        return row


_COLUMNS = (
    ("tokenizer", "", lambda row: row.name),
    ("tokens", "how many it has", lambda row: f"{row.vocab_size:,}"),
    ("used", "how many occur", lambda row: f"{row.used_tokens:,}"),
    ("bytes/token", "", lambda row: f"{row.overall.bytes_per_token:.3f}"),
    ("tokens/word", "", lambda row: f"{row.overall.fertility:.3f}"),
    ("unknown", "share of tokens", lambda row: f"{100 * row.unknown_rate:.3f} %"),
    ("round trip", "share of documents", lambda row: f"{100 * row.round_trip_rate:.1f} %"),
    ("MB/s", "encoding", lambda row: f"{row.megabytes_per_second:.1f}"),
    ("embedding", "share of the model", lambda row: f"{100 * row.embedding_share:.1f} %"),
)


def as_text(rows: Sequence[Row]) -> str:
    """The report as tables of plain text: all documents, then tokens per word by language and by source."""
    tables = [_text_table([name for name, _, _ in _COLUMNS], [[show(row) for *_, show in _COLUMNS] for row in rows])]
    for title, parts in _breakdowns(rows):
        body = [
            [row.name, *(_fertility(tallies.get(part)) for part in parts)] for row, tallies in _tallies(rows, title)
        ]
        tables.append(f"tokens per word by {title}\n" + _text_table(["tokenizer", *parts], body))
    return "\n\n".join(tables) + "\n"


def as_json(rows: Sequence[Row]) -> str:
    """The report as JSON, with bytes per token and tokens per word beside the counts."""
    listed = []
    for row in rows:
        table = asdict(row)
        table["overall"] = _tally_json(row.overall)
        for key, tallies in (("by_language", row.by_language), ("by_source", row.by_source)):
            table[key] = {name: _tally_json(tally) for name, tally in sorted(tallies.items())}
        listed.append(table)
    return json.dumps({"tokenizers": listed}, indent=2) + "\n"


def as_html(rows: Sequence[Row]) -> str:
    """The report as one page that needs nothing else: the tables, and bars of bytes per token."""
    head = "".join(f'<th title="{html.escape(title)}">{html.escape(name)}</th>' for name, title, _ in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(show(row))}</td>" for *_, show in _COLUMNS) + "</tr>" for row in rows
    )
    parts = [f"<table><tr>{head}</tr>{body}</table>", "<h2>Bytes per token</h2>", _bars(rows)]
    for title, names in _breakdowns(rows):
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in ["tokenizer", *names])
        lines = "".join(
            f"<tr><td>{html.escape(row.name)}</td>"
            + "".join(f"<td>{_fertility(tallies.get(name))}</td>" for name in names)
            + "</tr>"
            for row, tallies in _tallies(rows, title)
        )
        parts += [f"<h2>Tokens per word by {title}</h2>", f"<table><tr>{heads}</tr>{lines}</table>"]
    return _PAGE.replace("CONTENT", "\n".join(parts))


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write tokenizers.txt, tokenizers.json and tokenizers.html.

    Raises:
        OutputError: they cannot be written.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in (("txt", as_text(rows)), ("json", as_json(rows)), ("html", as_html(rows))):
            (folder / f"tokenizers.{ending}").write_text(text, encoding="utf-8")


_TITLES = ("language", "source")
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tokenizers</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .8rem; border-bottom: 1px solid #8885 }
th:first-child, td:first-child { text-align: left }
svg text { fill: currentColor; font-size: 13px }
</style>
<h1>Tokenizers on the same text</h1>
CONTENT
</html>
"""


def _bars(rows: Sequence[Row]) -> str:
    longest = max(row.overall.bytes_per_token for row in rows)
    lines = []
    for place, row in enumerate(rows):
        value, top = row.overall.bytes_per_token, 28 * place
        lines.append(
            f'<text x="0" y="{top + 16}">{html.escape(row.name)}</text>'
            f'<rect x="160" y="{top + 3}" width="{400 * value / longest:.1f}" height="18" fill="#4477aa"/>'
            f'<text x="{168 + 400 * value / longest:.1f}" y="{top + 16}">{value:.2f}</text>'
        )
    height = 28 * len(rows)
    return f'<svg viewBox="0 0 640 {height}" width="640" height="{height}" role="img">{"".join(lines)}</svg>'


def _tallies(rows: Sequence[Row], title: str) -> list[tuple[Row, dict[str, Tally]]]:
    return [(row, row.by_language if title == "language" else row.by_source) for row in rows]


def _breakdowns(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The languages and the sources, each where there is more than one."""
    found = [(title, sorted({part for _, tallies in _tallies(rows, title) for part in tallies})) for title in _TITLES]
    return [(title, parts) for title, parts in found if len(parts) > 1]


def _fertility(tally: Tally | None) -> str:
    return "-" if tally is None or not tally.words else f"{tally.fertility:.3f}"


def _tally_json(tally: Tally) -> dict[str, float | None]:
    return {
        **asdict(tally),
        "bytes_per_token": tally.bytes_per_token if tally.tokens else None,
        "tokens_per_word": tally.fertility if tally.words else None,
    }


def _text_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in [head, *body]
    ]
    return "\n".join(line.rstrip() for line in lines)
