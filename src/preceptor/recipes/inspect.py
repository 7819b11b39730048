"""Browsing a corpus: documents that were kept and dropped, each with the reason."""

import io
import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, TextIO

import click

from preceptor.core.errors import ConfigError
from preceptor.data.corpus import Corpus
from preceptor.data.visible import visible
from preceptor.recipes.reasons import reason

_LINE_CHARACTERS = 100
_SCREEN_CHARACTERS = 4000
_LEAST_LINES = 3
_REMEMBERED = 1000
_NEXT = ("n", " ", "\r", "\n", "\x1b[C", "\x1b[B")
_BEFORE = ("p", "\x1b[D", "\x1b[A")
_KEYS = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_END = ("q", "\x03", "\x04", "")
# Among these keys are the arrows, control-C, control-D, and what a terminal gives that was closed.


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which documents are shown; what is empty does not choose."""

    verdict: Literal["", "kept", "dropped"] = ""
    rule: str = ""
    """The rule that dropped them; "outlier" also names "outlier:characters"."""
    source: str = ""
    """A part of the name of the source in the recipe, or of what a document says of where it comes from."""
    licence: str = ""
    search: str = ""
    """A part of the text, of the reason, or of the source, in whatever case."""
    limit: int = 0
    """So many at most; 0 for all."""

    def __post_init__(self) -> None:
        """Refuse what no document can be."""
        if self.limit < 0:
            raise ConfigError(f"limit must be at least 0, got {self.limit}")
        if self.rule and self.verdict == "kept":
            raise ConfigError("no rule drops a document that was kept", remedy="leave out --rule or --kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A document that was read, and what became of it."""

    id: str
    """The id under which it was read."""
    source: str
    collection: str
    licence: str
    verdict: Literal["kept", "dropped"]
    rule: str = ""
    measured: float = 0.0
    limit: float = 0.0
    detail: str = ""
    text: str
    """The text that was kept; of a document that was dropped, the beginning where the datasheet has it as a sample."""
    document: str = ""
    """The id of what was kept, after the edits."""
    split: str = ""

    @property
    def reason(self) -> str:
        """Why it is where it is."""
        if self.verdict == "kept":
            return f"for {self.split}" if self.split else ""
        return reason(self.rule, self.measured, self.limit, self.detail)


def select(corpus: Corpus, selection: Selection) -> Iterator[Entry]:
    """The documents that are asked for, in the order in which they were read; if only kept ones, split by split.

    Raises:
        ConfigError: no document was dropped by the rule.
    """
    rules = corpus.datasheet["drops_by_rule"]
    if selection.rule and not any(_is_rule(rule, selection.rule) for rule in rules):
        raise ConfigError(
            f"nothing was dropped by the rule {selection.rule!r}",
            expected=", ".join(rules) or "no document was dropped",
            remedy=f"name one of these: {', '.join(rules)}" if rules else "leave out --rule",
        )
    verdict = "dropped" if selection.rule else selection.verdict
    entries = _kept(corpus) if verdict == "kept" else _entries(corpus, with_kept=not verdict)
    number = 0
    for entry in entries:
        if _is_asked(entry, selection):
            yield entry
            number += 1
            if number == selection.limit:
                return


def _is_rule(rule: str, asked: str) -> bool:
    return rule == asked or rule.startswith(f"{asked}:")


def _is_asked(entry: Entry, selection: Selection) -> bool:
    if selection.rule and not _is_rule(entry.rule, selection.rule):
        return False
    if selection.source and selection.source not in entry.collection and selection.source not in entry.source:
        return False
    if selection.licence and selection.licence.casefold() != entry.licence.casefold():
        return False
    wanted = selection.search.casefold()
    return not wanted or any(wanted in part.casefold() for part in (entry.text, entry.detail, entry.source))


def _kept(corpus: Corpus) -> Iterator[Entry]:
    """The documents that were kept, without noisy copies of them: those to train on, then those to validate."""
    for split in ("train", "validation"):
        for document in corpus.documents(split):
            if "augmented" not in document.metadata:
                yield Entry(
                    id=document.root_id,
                    source=document.source,
                    collection=document.collection,
                    licence=document.licence,
                    verdict="kept",
                    text=document.text,
                    document=document.id,
                    split=split,
                )


def _entries(corpus: Corpus, *, with_kept: bool) -> Iterator[Entry]:
    """The rows of the ledger; those of documents that were kept with their texts, which lie in the same order."""
    excerpts = _excerpts(corpus)
    documents = corpus.documents() if with_kept else iter(())
    for row in corpus.ledger():
        if row["verdict"] == "drop":
            yield _of_row(row, excerpts.get((row["id"], row["source"], row["rule"]), ""))
        elif with_kept:
            yield _of_row(row, next((document.text for document in documents if document.id == row["detail"]), ""))


def _of_row(row: Mapping[str, Any], text: str) -> Entry:
    is_kept = row["verdict"] == "keep"
    return Entry(
        id=row["id"],
        source=row["source"],
        collection=row["collection"],
        licence=row["licence"],
        verdict="kept" if is_kept else "dropped",
        rule=row["rule"],
        measured=row["measured"],
        limit=row["limit"],
        detail="" if is_kept else row["detail"],
        text=text,
        document=row["detail"] if is_kept else "",
    )


def _excerpts(corpus: Corpus) -> dict[tuple[str, str, str], str]:
    """The beginnings of dropped documents that the datasheet has, by id, source and rule."""
    samples: dict[str, list[dict[str, Any]]] = corpus.datasheet.get("drop_samples", {})
    return {
        (row["id"], row["source"], rule): row["excerpt"]
        for rule, rows in samples.items()
        for row in rows
        if "excerpt" in row
    }


def browse(
    corpus: Corpus,
    selection: Selection,
    *,
    as_json: bool = False,
    output: TextIO | None = None,
    read_key: Callable[[], str] | None = None,
) -> int:
    """The number of documents that were shown: on a terminal one at a time, else one after the other.

    Raises:
        ConfigError: no document was dropped by the rule.
    """
    output = output or sys.stdout
    if isinstance(output, io.TextIOWrapper):
        # A terminal may know fewer letters than the documents have.
        output.reconfigure(errors="backslashreplace")
    entries = select(corpus, selection)
    if as_json:
        shown = _write_json(entries, output)
    elif output.isatty():
        shown = _leaf_through(entries, output, read_key)
    else:
        shown = _list(entries, output)
    if not shown:
        click.echo("no document is like that", err=True)
    return shown


def _write_json(entries: Iterator[Entry], output: TextIO) -> int:
    number = 0
    for entry in entries:
        output.write(json.dumps(asdict(entry)) + "\n")
        number += 1
    return number


def _list(entries: Iterator[Entry], output: TextIO) -> int:
    """One line for the verdict on each document, and one for how it begins."""
    number = 0
    for entry in entries:
        number += 1
        parts = [entry.verdict, entry.source, entry.licence, entry.document or entry.id, entry.reason]
        output.write("  ".join(visible(" ".join(part.split())) for part in parts if part) + "\n")
        if beginning := visible(" ".join(entry.text[: 4 * _LINE_CHARACTERS].split())[:_LINE_CHARACTERS]):
            output.write(f"    {beginning}\n")
    return number


def _leaf_through(entries: Iterator[Entry], output: TextIO, read_key: Callable[[], str] | None) -> int:
    """Show one document at a time: n or space for the next, p for the one before, q to end."""
    # Rich takes a tenth of a second to load, which nothing else here needs.
    from rich.console import Console

    first = next(entries, None)
    if first is None:
        return 0
    console = Console(file=output, force_terminal=True, highlight=False)
    with nullcontext(read_key) if read_key else _terminal_keys() as keys:
        return _turn_pages(console, first, entries, keys)


def _turn_pages(console: Any, first: Entry, entries: Iterator[Entry], read_key: Callable[[], str]) -> int:
    from rich.text import Text

    seen = deque([first], maxlen=_REMEMBERED)
    number, back = 1, 0
    # Ctrl-C may come while a page is drawn, and ends the browsing there as it does at its foot.
    with suppress(KeyboardInterrupt):
        while True:
            _show(console, seen[-1 - back], number - back)
            key = "none yet"
            while key not in (*_NEXT, *_BEFORE, *_END):
                key = _key(read_key)
            if key in _END:
                return number
            if key in _BEFORE:
                back = min(back + 1, len(seen) - 1)
            elif back:
                back -= 1
            else:
                following = next(entries, None)
                if following is None:
                    console.print(Text("that was the last one", style="dim"))
                    return number
                seen.append(following)
                number += 1
    return number


@contextmanager
def _terminal_keys() -> Iterator[Callable[[], str]]:
    """What gives the next key of the terminal, which is set once: set for each key, it would lose those between."""
    try:
        import termios
        import tty
    except ImportError:  # another system than Unix
        yield click.getchar
        return
    with ExitStack() as left:
        place = sys.stdin if sys.stdin.isatty() else left.enter_context(open("/dev/tty", encoding="utf-8"))
        terminal = place.fileno()
        before = termios.tcgetattr(terminal)
        waiting: deque[str] = deque()

        def read_key() -> str:
            if not waiting:
                waiting.extend(_KEYS.findall(os.read(terminal, 64).decode(errors="replace")))
            return waiting.popleft() if waiting else ""

        tty.setcbreak(terminal, termios.TCSADRAIN)
        try:
            yield read_key
        finally:
            # A terminal that was closed cannot be set back.
            with suppress(termios.error):
                termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _key(read_key: Callable[[], str]) -> str:
    """The key that is pressed; control-C, control-D and a terminal that was closed end the browsing like q."""
    try:
        return read_key()
    except (KeyboardInterrupt, EOFError, OSError):
        return _END[0]


def _show(console: Any, entry: Entry, number: int) -> None:
    from rich.panel import Panel
    from rich.text import Text

    head = Text()
    head.append(f"{number}  ", style="dim")
    head.append(entry.verdict, style="bold green" if entry.verdict == "kept" else "bold yellow")
    if entry.reason:
        head.append(f"  {visible(entry.reason)}")
    about = [
        entry.source,
        entry.licence or "no licence",
        entry.collection,
        f"id {entry.document or entry.id or 'none'}",
    ]
    place = Text(visible("  ".join(filter(None, about))), style="dim")
    # What is above the text must not leave the screen: it says what became of the document.
    above = sum(len(part.wrap(console, console.width)) for part in (head, place))
    text = _fitting(console, entry.text, max(_LEAST_LINES, console.height - above - 4))
    console.clear()
    console.print(head)
    console.print(place)
    console.print(Panel(Text(text or "The corpus holds no text of it.", style="" if text else "dim")))
    console.print(Text("n next   p before   q end", style="dim"))


def _fitting(console: Any, text: str, num_lines: int) -> str:
    """As much of the beginning of a text as stands in a panel of so many lines, and how much is left out."""
    from rich.text import Text

    shown = visible(text[:_SCREEN_CHARACTERS])
    lines = Text(shown).wrap(console, console.width - 4)
    if len(lines) <= num_lines and len(text) <= _SCREEN_CHARACTERS:
        return shown
    beginning = "\n".join(line.plain.rstrip() for line in lines[: num_lines - 1])
    # What marks of control characters add and line ends take away is little beside what is left out.
    return f"{beginning}\n[... {max(1, len(text) - len(beginning)):,} more characters]"
