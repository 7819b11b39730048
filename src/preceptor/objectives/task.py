"""What a task asks of a model of each family: the head that speaks, and the objective that trains it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from preceptor.core.errors import DataError
from preceptor.data.example_types import (
    AnswerExample,
    AnyExample,
    ClassExample,
    Conversation,
    ExampleSet,
    NumberExample,
    PairExample,
    TaggedExample,
)
from preceptor.models.heads import HeadConfig, label_numbers, span_head
from preceptor.objectives.answer import AnswerObjective, with_answer
from preceptor.objectives.classify import ClassifyObjective, with_class
from preceptor.objectives.instruct import InstructObjective
from preceptor.objectives.labelled import Framing, LabelledDocument, LabelledObjective, framing_of
from preceptor.objectives.pairs import PairObjective
from preceptor.objectives.preference import PreferenceObjective
from preceptor.objectives.regress import RegressObjective
from preceptor.objectives.tag import TagObjective, with_tags
from preceptor.objectives.task_config import WRITING, require_task
from preceptor.tokenizer.tokenizer import Tokenizer

HEAD = "task"
"""The name of the head that a task trains."""
_OVERLAP = 4
"""Windows over a text that is too long overlap by one part in so many."""
TaskObjective = InstructObjective | PairObjective | LabelledObjective | PreferenceObjective


@dataclass(frozen=True, slots=True)
class Prepared:
    """The examples of a task as a model reads them."""

    objective: TaskObjective
    owners: Sequence[int]
    """For each document of the objective the number of its example; a long text may be several documents."""
    offsets: Sequence[int] = ()
    """For each document that is a window of a text the token of the text with which it begins."""
    num_cut: int = 0
    """How many examples lost part of their text because it did not fit into the context."""


def head_of(examples: ExampleSet, dropout: float = 0.0) -> HeadConfig | None:
    """The head that a task needs; None where the model says tokens."""
    if examples.task == "classify":
        return HeadConfig(labels=examples.labels, multi_label=examples.multi_label, dropout=dropout)
    if examples.task == "tag":
        return HeadConfig(kind="tagger", labels=examples.labels, dropout=dropout)
    if examples.task == "answer":
        return replace(span_head(), dropout=dropout)
    if examples.task == "regress":
        first = cast(NumberExample, examples.examples[0])
        names = examples.labels or tuple(f"number {place}" for place in range(1, len(first.targets) + 1))
        return HeadConfig(kind="regression", labels=names, dropout=dropout)
    return None


def prepare(
    examples: ExampleSet,
    head: HeadConfig | None,
    tokenizer: Tokenizer,
    model_config: Any,
    context_length: int,
    prefix_ids: Sequence[int] = (),
) -> Prepared:
    """The examples as documents of a model of this configuration, with what is to be said of them.

    ``prefix_ids`` stand in front of every document. A text that is too long for its label is cut at its end; one that
    is asked for an answer becomes several windows.

    Raises:
        ConfigError: the task is not for models of this family.
        DataError: no example leaves anything to learn from.
    """
    require_task(examples.task, model_config.family)
    if examples.task in WRITING:
        said = [_conversation(example) for example in examples.examples]
        if model_config.family == "encoder_decoder":
            pairs = [(_asked(each), each.answer) for each in said]
            start = model_config.decoder_start_token_id
            sides = PairObjective(pairs, tokenizer, context_length, start_id=start, prefix_ids=prefix_ids)
            return Prepared(sides, range(len(pairs)))
        return Prepared(InstructObjective(said, tokenizer, context_length, prefix_ids=prefix_ids), range(len(said)))
    assert head is not None
    framing = framing_of(tokenizer, model_config, prefix_ids)
    room = context_length - len(prefix_ids)
    reader = _Reader(tokenizer, framing, head, room)
    documents: list[LabelledDocument] = []
    owners: list[int] = []
    offsets: list[int] = []
    for number, example in enumerate(examples.examples):
        for offset, document in reader.documents(example):
            documents.append(document)
            owners.append(number)
            offsets.append(offset)
    if not documents:
        raise DataError(
            f"none of the {len(examples.examples)} examples has a label that the model has learned",
            remedy="evaluate on examples with the labels of the training examples",
        )
    kinds = {"classify": ClassifyObjective, "regress": RegressObjective, "tag": TagObjective, "answer": AnswerObjective}
    objective = kinds[examples.task](documents, HEAD, context_length, framing)
    return Prepared(objective, owners, offsets, reader.num_cut)


def _conversation(example: AnyExample) -> Conversation:
    """What a model that writes is asked and should say."""
    if isinstance(example, PairExample):
        return Conversation.of(
            example.source, example.target, group=example.group, kind=example.kind, place=example.place
        )
    assert isinstance(example, Conversation)
    return example


def _asked(example: Conversation) -> str:
    """What a model that reads a source is given of a conversation: all that comes before its last answer."""
    return "\n".join(message.content for message in example.messages[:-1])


@dataclass(slots=True)
class _Reader:
    """Turns examples into documents with labels that fit into so many tokens."""

    tokenizer: Tokenizer
    framing: Framing
    head: HeadConfig
    room: int
    num_cut: int = 0

    def documents(self, example: AnyExample) -> Iterator[tuple[int, LabelledDocument]]:
        """The documents of an example, and where in its text each begins; none where its label is not the head's."""
        if isinstance(example, ClassExample):
            yield from self._class(example)
        elif isinstance(example, NumberExample):
            text, second = self._texts(example.text, example.second)
            yield 0, with_class(self.framing, text, example.targets, second)
        elif isinstance(example, TaggedExample):
            yield from self._tagged(example)
        else:
            assert isinstance(example, AnswerExample)
            yield from self._windows(example)

    def _class(self, example: ClassExample) -> Iterator[tuple[int, LabelledDocument]]:
        if not set(example.labels) <= set(self.head.labels):
            return
        text, second = self._texts(example.text, example.second)
        numbers = label_numbers(self.head, example.labels)
        if self.head.multi_label:
            row = [float(number in numbers) for number in range(len(self.head.labels))]
            yield 0, with_class(self.framing, text, row, second)
        else:
            yield 0, with_class(self.framing, text, numbers[0], second)

    def _texts(self, text: str, second: str | None) -> tuple[list[int], list[int] | None]:
        """The tokens of a text, or of a pair, cut so that they fit; of a pair the longer side first."""
        first = self.tokenizer.encode(text)
        if second is None:
            room = self.room - 2
            self.num_cut += len(first) > room
            return first[:room], None
        other = self.tokenizer.encode(second)
        room = self.room - 3
        self.num_cut += len(first) + len(other) > room
        shorter = min(len(first), len(other), room // 2)
        longest = room - shorter
        return first[:longest] if len(first) >= len(other) else first[:shorter], (
            other[:longest] if len(other) > len(first) else other[:shorter]
        )

    def _tagged(self, example: TaggedExample) -> Iterator[tuple[int, LabelledDocument]]:
        if not set(example.tags) <= set(self.head.labels):
            return
        words = word_tokens(self.tokenizer, example.words)
        kept, total = 0, 0
        while kept < len(words) and total + len(words[kept]) <= self.room - 2:
            total += len(words[kept])
            kept += 1
        self.num_cut += kept < len(words)
        if kept:
            yield 0, with_tags(self.framing, words[:kept], label_numbers(self.head, example.tags[:kept]))

    def _windows(self, example: AnswerExample) -> Iterator[tuple[int, LabelledDocument]]:
        question = self.tokenizer.encode(example.question)[: self.room // 2]
        ids, places = self.tokenizer.encode_with_places(example.context)
        width = self.room - 3 - len(question)
        self.num_cut += len(ids) > width
        found = answer_places(example, places)
        for start in window_starts(len(ids), width):
            end = min(start + width, len(ids))
            inside = found is not None and start <= found[0] and found[1] < end
            answer = (found[0] - start, found[1] - start) if inside and found is not None else None
            if end > start:
                yield start, with_answer(self.framing, question, ids[start:end], answer)


def window_starts(length: int, width: int) -> list[int]:
    """Where the windows begin that cover a text, each of which overlaps the one before."""
    if length <= width:
        return [0]
    step = max(1, width - width // _OVERLAP)
    return [*range(0, length - width, step), length - width]


def answer_places(example: AnswerExample, places: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last token of the first answer, given the characters of each token; None without an answer."""
    if not example.answers:
        return None
    text, start = example.answers[0]
    end = start + len(text)
    inside = [number for number, (first, last) in enumerate(places) if first < end and last > start]
    return (inside[0], inside[-1]) if inside else None


def word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each word of a sentence, as they are where the words stand behind each other with spaces."""
    ids, places = tokenizer.encode_with_places(" ".join(words))
    ends, end = [], -1
    for word in words:
        end += len(word) + 1
        ends.append(end)
    parts: list[list[int]] = [[] for _ in words]
    number = 0
    for token, (_, last) in zip(ids, places, strict=True):
        # A token that reaches over the end of a word belongs to the word in which it ends.
        while number < len(words) - 1 and last > ends[number]:
            number += 1
        parts[number].append(token)
    return parts
