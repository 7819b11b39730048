"""Examples as a person can look at them: the summary, what was refused, and what exactly is learned of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from preceptor.data.example_checks import check_examples
from preceptor.data.example_types import (
    AnswerExample,
    AnyExample,
    ClassExample,
    Conversation,
    ExampleSet,
    NumberExample,
    PairExample,
    TaggedExample,
    Task,
)
from preceptor.data.examples import read_examples, split_examples, summary
from preceptor.data.visible import visible
from preceptor.recipes.folder import newest
from preceptor.recipes.run import RUN_FILE, Run
from preceptor.tokenizer.chat import encode_conversation
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.run import FinetuningConfig

_LEARNED = "bold green"
_HEAD, _TAIL = 1200, 400
_REJECTED_SHOWN = 20

Pieces = Sequence[tuple[str, bool]]
"""Pieces of text, and whether each is learned."""


@dataclass(frozen=True, slots=True)
class Marked:
    """Text of which some is learned: in colour on a terminal that has it, in brackets elsewhere."""

    title: str
    pieces: Pieces

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The title on a line of its own, and the text under it."""
        is_coloured = console.is_terminal and not console.no_color
        if self.title:
            yield Text(visible(self.title), style="dim")
        text = Text()
        for said, is_learned in self.pieces:
            shown = _clipped(visible(said))
            if is_learned and not is_coloured:
                shown = f"[{shown}]"
            text.append(shown, _LEARNED if is_learned else None)
        yield text


def pieces_of(ids: Sequence[int], supervised: Sequence[bool], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The text of ids, special tokens by their names, cut where what is supervised begins and ends."""
    names = {tokenizer.special_id(token): token for token in tokenizer.special_tokens}
    found = []
    for is_learned, run in groupby(zip(ids, supervised, strict=True), key=lambda each: each[1]):
        raw = b"".join(_bytes_of(token, names, tokenizer) for token, _ in run)
        found.append((raw.decode("utf-8", "replace"), is_learned))
    return found


def _bytes_of(token: int, names: Mapping[int, str], tokenizer: Tokenizer) -> bytes:
    # Ids behind the vocabulary are those of a prompt that is learned itself.
    name = f"<|prompt {token - tokenizer.vocab_size}|>" if token >= tokenizer.vocab_size else names.get(token)
    return tokenizer.token_bytes(token) if name is None else name.encode()


def described(example: AnyExample, tokenizer: Tokenizer | None = None) -> Marked:
    """An example with what is learned of it marked; a conversation as the model sees it, where there is a tokenizer."""
    if isinstance(example, Conversation) and tokenizer is not None:
        ids, supervised = encode_conversation(tokenizer, example.messages)
        title = f"{example.place or 'example'}: {len(ids):,} tokens, {sum(supervised):,} of them learned"
        return Marked(title, pieces_of(ids, supervised, tokenizer))
    return Marked(example.place, [*_pieces(example)])


def _pieces(example: AnyExample) -> Pieces:
    match example:
        case Conversation():
            return _spoken(
                [(each.role, each.content, each.role == "assistant" and each.trains) for each in example.messages]
            )
        case ClassExample():
            return [*_texts(example), (", ".join(example.labels) or "none", True)]
        case NumberExample():
            return [*_texts(example), (", ".join(f"{target:g}" for target in example.targets), True)]
        case TaggedExample():
            pairs = zip(example.words, example.tags, strict=True)
            return [piece for word, tag in pairs for piece in ((f"{word}/", False), (tag, tag != "O"), (" ", False))]
        case AnswerExample():
            return [(f"{example.question}\n", False), *_answered(example)]
        case PairExample():
            return [(f"{example.source}\n-> ", False), (example.target, True)]
        case _:
            asked = [(each.role, each.content, False) for each in example.messages]
            return [*_spoken([*asked, ("preferred", example.chosen, True)]), (f"\nto: {example.rejected}", False)]


def _spoken(turns: Sequence[tuple[str, str, bool]]) -> list[tuple[str, bool]]:
    return [
        piece
        for number, (role, content, is_learned) in enumerate(turns)
        for piece in ((f"\n{role}: " if number else f"{role}: ", False), (content, is_learned))
    ]


def _texts(example: ClassExample | NumberExample) -> list[tuple[str, bool]]:
    second = "" if example.second is None else f"\n{example.second}"
    return [(f"{example.text}{second}\n-> ", False)]


def _answered(example: AnswerExample) -> list[tuple[str, bool]]:
    if not example.answers:
        return [(f"{example.context}\n-> ", False), ("no answer", True)]
    answer, start = example.answers[0]
    stop = start + len(answer)
    # The context around the answer, which may stand far behind its beginning.
    before, after = example.context[max(0, start - _TAIL) : start], example.context[stop : stop + _TAIL]
    return [(before, False), (answer, True), (after, False)]


def _clipped(text: str) -> str:
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} ... {text[-_TAIL:]}"


def find_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file or a folder, or of a run.

    Raises:
        ArtifactError: there is none.
        ConfigError: the file is no tokenizer.
    """
    if (path / RUN_FILE).is_file():
        return Tokenizer.load(newest(path, "tokenizer").path)
    return import_tokenizer(path, TokenizerConfig().split_pattern)


def print_examples(
    path: Path,
    *,
    task: Task | Literal["auto"] = "auto",
    columns: Mapping[str, str] = {},
    tokenizer: Tokenizer | None = None,
    held_out: Path | None = None,
    show: int = 3,
    console: Console | None = None,
) -> None:
    """Print what a file of examples holds, and what fine-tuning on it would find odd.

    Raises:
        DataError: the file cannot be read, or nothing could be learned from it.
    """
    console = console or Console(highlight=False)
    count = None if tokenizer is None else lambda text: len(tokenizer.encode(text))
    found = read_examples(path, task, columns)
    _line(console, summary(found, count, with_rejected=False))
    for note in found.notes:
        _line(console, note)
    _print_rejected(console, found)
    for example in found.examples[:show]:
        console.print()
        console.print(described(example, tokenizer), soft_wrap=True)
    console.print()
    config = FinetuningConfig()
    if held_out is None:
        train, kept = split_examples(found.examples, Run().seed, config.held_out_fraction)
        sides = replace(found, examples=train), replace(found, examples=kept)
    else:
        sides = found, read_examples(held_out, found.task, columns)
    _line(console, f"{len(sides[0].examples):,} to train on, {len(sides[1].examples):,} held out")
    findings = check_examples(*sides, is_split=held_out is None)
    for finding in findings:
        _line(console, f"note: {finding}")


def tell_examples(
    train: ExampleSet, held_out: ExampleSet, tokenizer: Tokenizer, *, is_split: bool, show: int = 3
) -> None:
    """Tell, before anything is trained, what the examples are, the first as the model sees them, and what is odd.

    Raises:
        DataError: nothing could be learned from them.
    """
    console = Console(stderr=True, highlight=False)
    findings = check_examples(train, held_out, is_split=is_split)
    _line(console, f"examples: {summary(train, lambda text: len(tokenizer.encode(text)))}")
    _line(console, f"examples: {len(train.examples):,} to train on, {len(held_out.examples):,} held out")
    for note in (*train.notes, *findings):
        _line(console, f"examples: {note}")
    for example in train.examples[:show]:
        console.print(described(example, tokenizer), soft_wrap=True)
    if train.rejected:
        _print_rejected(console, train)


def _print_rejected(console: Console, found: ExampleSet) -> None:
    if not found.rejected:
        return
    _line(console, f"{len(found.rejected):,} rejected:")
    for place, reason in found.rejected[:_REJECTED_SHOWN]:
        _line(console, f"  {place}: {reason}")
    if len(found.rejected) > _REJECTED_SHOWN:
        _line(console, f"  and {len(found.rejected) - _REJECTED_SHOWN:,} more")


def _line(console: Console, text: str) -> None:
    console.print(Text(visible(text)), soft_wrap=True)
