"""The shapes that examples come in, known by their columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from preceptor.data.example_fields import Fields, UnfitError, folded, text_of
from preceptor.data.example_types import (
    AnswerExample,
    AnyExample,
    Conversation,
    Message,
    PairExample,
    PreferenceExample,
    TaggedExample,
    Task,
)

LABELS = ("label", "labels", "score", "target", "targets")
_TEXTS = ("text", "sentence")
_SIDES = ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2")
_MORE_SIDES = ("question", "sentence"), ("text", "second")
_BESIDE = ("group", "kind", "input", "system", "system_prompt", "history", "answer_start", "is_impossible", "prompt")


@dataclass(frozen=True, slots=True)
class UndecidedExample:
    """A text, or a pair, with its label as it was written: a class or a number, which only all rows together tell."""

    text: str
    second: str | None
    value: object
    name: str
    """What the column of the label is called."""
    group: str
    kind: str
    place: str


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns that belong together, the tasks they are for, the likeliest first, and what is made of them."""

    columns: tuple[tuple[str, ...], ...]
    """For each part what its column may be called."""
    tasks: tuple[Task, ...]
    make: Callable[[Fields, Sequence[str]], AnyExample | UndecidedExample]
    """The example of a row, given the names by which its columns were found."""

    def found(self, row: Fields) -> tuple[str, ...] | None:
        """By which names a row has the columns; None where one is missing."""
        names = [next((name for name in names if name in row), None) for names in self.columns]
        return None if None in names else tuple(name for name in names if name is not None)

    def lacking(self, row: Fields) -> str:
        """The first column that a row has and that holds nothing, where with such columns it were of this shape."""
        empty = [next((name for name in names if name in row.empty), "") for names in self.columns]
        present = [any(name in row for name in names) for names in self.columns]
        if not all(name or is_there for name, is_there in zip(empty, present, strict=True)):
            return ""
        return next((name for name, is_there in zip(empty, present, strict=True) if not is_there), "")

    @property
    def title(self) -> str:
        """What the shape is called in messages: by the first name of each column."""
        return " and ".join(names[0] for names in self.columns)


def _conversation(row: Fields, names: Sequence[str]) -> Conversation:
    return _closed(row, row.messages(names[0]))


def _closed(row: Fields, messages: list[Message]) -> Conversation:
    """The conversation up to its last answer: what is asked behind it has none."""
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not any(each.role == "assistant" and each.trains for each in messages):
        raise UnfitError("there is no answer to learn from")
    asked = next((each.content for each in messages if each.role == "user"), messages[0].content)
    return Conversation(messages=tuple(messages), group=row.group(asked), kind=row.kind, place=row.place)


def _alpaca(row: Fields, names: Sequence[str]) -> Conversation:
    system = row.optional("system") or row.optional("system_prompt")
    messages = [Message("system", system)] if system else []
    for turn in row.items("history") if "history" in row else ():
        if not isinstance(turn, list) or len(turn) != 2:
            raise UnfitError("history is not a list of pairs")
        messages += [Message("user", text_of(turn[0], "history")), Message("assistant", text_of(turn[1], "history"))]
    asked, said = row.text(names[0]), row.text(names[1])
    if more := row.optional("input") or row.optional("context"):
        asked = f"{asked}\n{more}"
    return _closed(row, [*messages, Message("user", asked), Message("assistant", said)])


def _prompted(row: Fields, names: Sequence[str]) -> Conversation:
    completion = row.value(names[1])
    if isinstance(completion, list):
        return _closed(row, [*row.messages(names[0]), *row.messages(names[1])])
    if isinstance(row.value(names[0]), list):
        return _closed(row, [*row.messages(names[0]), Message("assistant", row.text(names[1]))])
    return _alpaca(row, names)


def _preference(row: Fields, names: Sequence[str]) -> PreferenceExample:
    asked = next((row.messages(name) for name in ("prompt", "question", "instruction") if name in row), [])
    if asked and asked[0].role != "system" and (said := row.optional("system")):
        asked.insert(0, Message("system", said))
    if isinstance(row.value("chosen"), list):
        chosen, rejected = row.messages("chosen"), row.messages("rejected")
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        if len(chosen) != same + 1 or len(rejected) != same + 1 or chosen[-1].role != "assistant":
            raise UnfitError("chosen and rejected differ in more than the last answer")
        asked, better, worse = chosen[:same] or asked, chosen[-1].content, rejected[-1].content
    else:
        better, worse = row.text("chosen"), row.text("rejected")
    if not asked:
        raise UnfitError("prompt is missing: there is nothing that chosen and rejected answer")
    if better == worse:
        raise UnfitError("chosen and rejected are the same")
    group = row.group(folded([each.content for each in asked if each.role != "system"]))
    told = tuple(asked)
    return PreferenceExample(messages=told, chosen=better, rejected=worse, group=group, kind=row.kind, place=row.place)


def _tagged(row: Fields, names: Sequence[str]) -> TaggedExample:
    words, tags = row.words(names[0]), row.words(names[1])
    if len(words) != len(tags):
        raise UnfitError(f"there are {len(words)} {names[0]} and {len(tags)} {names[1]}")
    if not words:
        raise UnfitError(f"{names[0]} is empty")
    group = row.group(folded([" ".join(words)]))
    return TaggedExample(words=tuple(words), tags=tuple(tags), group=group, kind=row.kind, place=row.place)


def _answered(row: Fields, names: Sequence[str]) -> AnswerExample:
    question, context = row.text("question"), row.text("context")
    answers = () if _is_true(row, "is_impossible") else tuple(_answers(row, names[2], context))
    group = row.group(context)
    return AnswerExample(
        question=question, context=context, answers=answers, group=group, kind=row.kind, place=row.place
    )


def _is_true(row: Fields, name: str) -> bool:
    return name in row and str(row.value(name)).lower() in ("true", "1")


def _answers(row: Fields, name: str, context: str) -> list[tuple[str, int]]:
    value = row.parsed(name) if name == "answers" else row.value(name)
    starts: object = None
    if isinstance(value, Mapping):
        both: Mapping[str, object] = value
        value, starts = both.get("text"), both.get("answer_start")
    elif isinstance(value, list) and (inside := [each for each in value if isinstance(each, Mapping)]):
        value, starts = [each.get("text") for each in inside], [each.get("answer_start") for each in inside]
    elif "answer_start" in row:
        starts = row.parsed("answer_start")
    texts = value if isinstance(value, list) else [value]
    places = starts if isinstance(starts, list) else [starts] * len(texts)
    if len(places) != len(texts):
        raise UnfitError(f"there are {len(texts)} answers and {len(places)} places where they begin")
    return [_located(text_of(text, "answer"), place, context) for text, place in zip(texts, places, strict=True)]


def _located(answer: str, place: object, context: str) -> tuple[str, int]:
    """An answer and where it begins: where that is said, or else where it first stands in the context."""
    if isinstance(place, str) and place.strip().isdecimal():
        place = int(place)
    if place is None:
        place = context.find(answer)
        if place < 0:
            raise UnfitError(f"the answer {answer[:60]!r} does not stand in the context")
    if not isinstance(place, int) or isinstance(place, bool) or place < 0:
        raise UnfitError(f"answer_start is {place!r}, not the number of a character")
    if context[place : place + len(answer)] != answer:
        raise UnfitError(f"at answer_start {place} of the context there is no {answer[:60]!r}")
    return answer, place


def _translation(row: Fields, names: Sequence[str]) -> PairExample:
    value = row.parsed(names[0])
    if not isinstance(value, Mapping) or len(value) != 2:
        raise UnfitError("translation does not hold two languages")
    (first, source), (second, target) = value.items()
    return _both(row, text_of(source, str(first)), text_of(target, str(second)))


def _pair(row: Fields, names: Sequence[str]) -> PairExample:
    return _both(row, row.text(names[0]), row.text(names[1]))


def _both(row: Fields, source: str, target: str) -> PairExample:
    group = row.group(folded([source]))
    return PairExample(source=source, target=target, group=group, kind=row.kind, place=row.place)


def _labelled(row: Fields, names: Sequence[str]) -> UndecidedExample:
    text, second = row.text(names[0]), row.text(names[1]) if len(names) == 3 else None
    # What is said of one text with several others stays together, or it could be told by the text alone.
    return UndecidedExample(
        text, second, row.parsed(names[-1]), names[-1], row.group(folded([text])), row.kind, row.place
    )


_CLASSES: tuple[Task, ...] = ("classify", "regress")
_TARGETS: tuple[Task, ...] = ("translate", "summarise")
SHAPES = (
    Shape((("chosen",), ("rejected",)), ("prefer",), _preference),
    Shape((("messages",),), ("instruct",), _conversation),
    Shape((("conversations",),), ("instruct",), _conversation),
    Shape((("tokens", "words"), ("tags", "ner_tags", "pos_tags", "labels")), ("tag",), _tagged),
    Shape((("question",), ("context",), ("answers", "answer")), ("answer",), _answered),
    *(Shape(((first,), (second,), LABELS), _CLASSES, _labelled) for first, second in (*_SIDES, *_MORE_SIDES)),
    Shape((("instruction",), ("output", "response")), ("instruct",), _alpaca),
    Shape((("prompt",), ("completion", "response")), ("instruct",), _prompted),
    Shape((("question",), ("answer", "response")), ("instruct",), _alpaca),
    Shape((("translation",),), _TARGETS, _translation),
    Shape((("source",), ("target",)), _TARGETS, _pair),
    Shape((("document", "dialogue"), ("summary",)), ("summarise", "translate"), _pair),
    Shape((("article",), ("highlights",)), ("summarise", "translate"), _pair),
    Shape((_TEXTS, LABELS), _CLASSES, _labelled),
    Shape((("text",), ("summary",)), ("summarise", "translate"), _pair),
)
"""The first whose columns are all there is taken, so that those which need more stand first."""
KNOWN = sorted({name for shape in SHAPES for names in shape.columns for name in names} | set(_BESIDE))
"""The names that columns can be mapped to."""
_TITLES = {
    ("chosen", "rejected"): "chosen/rejected",
    ("instruction", "output"): "alpaca",
    ("instruction", "response"): "Dolly",
    ("conversations",): "ShareGPT",
    ("question", "context", "answers"): "SQuAD",
}


def title_of(names: Sequence[str]) -> str:
    """What a shape is called, by the names its columns were found by."""
    return _TITLES.get(tuple(names), "/".join(names))


def accepted(task: str = "auto") -> str:
    """The columns that are known, for all tasks or for one, a line for each."""
    by_task: dict[str, list[str]] = {}
    for shape in SHAPES:
        if task == "auto" or task in shape.tasks:
            by_task.setdefault(" or ".join(sorted(shape.tasks)), []).append(shape.title)
    return "".join(f"\n  {name}: {'; '.join(titles)}" for name, titles in by_task.items())


def shape_of(row: Fields, task: str) -> tuple[Shape, tuple[str, ...]] | None:
    """The shape of a row and the names its columns were found by, or None."""
    for shape in SHAPES:
        if (task == "auto" or task in shape.tasks) and (names := shape.found(row)) is not None:
            return shape, names
    return None
