"""What is looked at before training: whether anything can be learned from examples, and whether it can be measured."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from preceptor.core.errors import DataError
from preceptor.data.example_fields import folded
from preceptor.data.example_types import (
    AnswerExample,
    AnyExample,
    ClassExample,
    Conversation,
    ExampleSet,
    NumberExample,
    PairExample,
    PreferenceExample,
    TaggedExample,
)

_SHOWN = 3
_RARE_TAGS_SHARE = 0.01


def check_examples(train: ExampleSet, held_out: ExampleSet, *, is_split: bool) -> list[str]:
    """What is odd about the examples, a sentence each; what makes them useless is refused.

    ``is_split`` says that both sides were one set, split by group, and not two files.

    Raises:
        DataError: a side is empty, the sides are for different tasks or have other sorts of labels, there is one class
            only, a held-out label is never trained on, an answer is empty, or a held-out file has texts that are
            trained on.
    """
    _require_both(train, held_out)
    answers = [_answers_of(each) for each in (*train.examples, *held_out.examples)]
    if empty := sum(not all(answer.strip() for answer in each) for each in answers):
        raise DataError(
            f"{empty:,} of {len(answers):,} examples have an empty answer, so that saying nothing would be learned",
            remedy="remove them, or write their answers",
        )
    return [
        *_labels(train, held_out),
        *_numbers(train),
        *_overlap(train, held_out, is_split=is_split),
        *_contradictions([*train.examples, *held_out.examples]),
    ]


def _require_both(train: ExampleSet, held_out: ExampleSet) -> None:
    both = (train, held_out)
    if not train.examples or not held_out.examples:
        total = len(train.examples) + len(held_out.examples)
        side = "trained on" if not train.examples else "held out"
        raise DataError(
            f"of {total:,} examples none would be {side}",
            remedy="add examples of other groups, change finetuning.held_out_fraction, or name finetuning.held_out",
        )
    if train.task != held_out.task:
        raise DataError(
            f"the examples are for the task {train.task} ({train.shape}), and the held-out ones for {held_out.task} "
            f"({held_out.shape})",
            remedy="give both files the same columns, or set finetuning.task",
        )
    if held_out.multi_label and not train.multi_label:
        raise DataError(
            "the held-out texts have lists of classes, and those that are trained on have one class each",
            remedy="write the classes of both files as lists, or of both as single values",
        )
    widths = [{len(each.targets) for each in side.examples if isinstance(each, NumberExample)} for side in both]
    if widths[0] != widths[1]:
        first, second = (max(each, default=0) for each in widths)
        raise DataError(
            f"a held-out text has {second} numbers, and one that is trained on {first}",
            remedy="give the texts of both files as many numbers",
        )


def labels_of(example: AnyExample) -> tuple[str, ...]:
    """The classes or tags of an example; none where it has no such thing."""
    if isinstance(example, ClassExample):
        return example.labels
    return example.tags if isinstance(example, TaggedExample) else ()


def _answers_of(example: AnyExample) -> Sequence[str]:
    """What is to be said; nothing where that is a label, or that there is no answer."""
    match example:
        case Conversation():
            return [each.content for each in example.messages if each.role == "assistant" and each.trains] or [""]
        case AnswerExample():
            return [text for text, _ in example.answers]
        case PairExample():
            return [example.target]
        case PreferenceExample():
            return [example.chosen, example.rejected]
        case _:
            return []


def _asked(example: AnyExample) -> str:
    """What is asked, without what white space and capitals tell apart."""
    match example:
        case Conversation():
            return folded([each.content for each in example.messages[:-1]])
        case ClassExample() | NumberExample():
            return folded([example.text, example.second or ""])
        case TaggedExample():
            return folded([" ".join(example.words)])
        case AnswerExample():
            return folded([example.question, example.context])
        case PairExample():
            return folded([example.source])
        case _:
            return folded([each.content for each in example.messages])


def _said(example: AnyExample) -> Any:
    """What the label of an example is, so that two can be compared."""
    match example:
        case ClassExample():
            return tuple(sorted(example.labels))
        case NumberExample():
            return example.targets
        case TaggedExample():
            return example.tags
        case AnswerExample():
            return example.answers
        case _:
            # Two answers to one question, or two translations, may both be right.
            return None


def _labels(train: ExampleSet, held_out: ExampleSet) -> list[str]:
    if train.task not in ("classify", "tag"):
        return []
    name = "class" if train.task == "classify" else "tag"
    ours, theirs = (Counter(label for each in one.examples for label in labels_of(each)) for one in (train, held_out))
    if len(ours) < 2 and not (train.multi_label and ours and any(not labels_of(each) for each in train.examples)):
        raise DataError(
            f"all training examples have one {name}, {next(iter(ours), 'none')!r}: there is nothing to tell apart",
            remedy="add examples of other labels, or check finetuning.columns",
        )
    found = []
    if unseen := {label: count for label, count in theirs.items() if label not in ours}:
        count = sum(unseen.values())
        said = (
            f"{_listed(unseen)} {'occurs' if len(unseen) == 1 else 'occur'} in held-out examples only ({count:,} times)"
        )
        if train.task == "classify" or count > _RARE_TAGS_SHARE * theirs.total():
            raise DataError(
                f"{said}: what is never trained on cannot be told",
                remedy="add training examples of it, join rare labels, or split with another seed",
            )
        found.append(f"{said}; they cannot be told")
    if unmeasured := {label: count for label, count in ours.items() if label not in theirs}:
        found.append(
            f"{_listed(unmeasured)} {'has' if len(unmeasured) == 1 else 'have'} no held-out example to be measured on"
        )
    return found


def _listed(labels: Iterable[str]) -> str:
    names = sorted(labels)
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{'label' if len(names) == 1 else 'labels'} {', '.join(map(repr, names[:_SHOWN]))}{rest}"


def _numbers(train: ExampleSet) -> list[str]:
    if train.task != "regress":
        return []
    targets = {each.targets for each in train.examples if isinstance(each, NumberExample)}
    if len(targets) == 1:
        raise DataError(
            f"all training examples have the same number, {next(iter(targets))}: there is nothing to tell apart",
            remedy="add examples with other numbers, or check finetuning.columns",
        )
    return []


def _overlap(train: ExampleSet, held_out: ExampleSet, *, is_split: bool) -> list[str]:
    """Texts on both sides."""
    trained = {_asked(each) for each in train.examples} - {""}
    both = [each for each in held_out.examples if _asked(each) in trained]
    if not both:
        return []
    first = f", the first at {both[0].place}" if both[0].place else ""
    said = f"{len(both):,} of {len(held_out.examples):,} held-out texts are also trained on{first}"
    if not is_split:
        raise DataError(
            f"{said}: the score would be better than the model is",
            remedy="remove them from one of the two files, or leave out finetuning.held_out to split by group",
        )
    return [f"{said}, as their groups differ"]


def _contradictions(examples: Sequence[AnyExample]) -> list[str]:
    """Texts that are there several times with different labels, and preferences both ways."""
    first: dict[str, Any] = {}
    odd = {_asked(each) for each in examples if _differs(first, _asked(each), _said(each))}
    found = [f"{len(odd):,} {'text has' if len(odd) == 1 else 'texts have'} several labels that contradict each other"]
    preferred = {(_asked(each), each.chosen, each.rejected) for each in examples if isinstance(each, PreferenceExample)}
    both_ways = sum((asked, worse, better) in preferred for asked, better, worse in preferred) // 2
    return [*(found if odd else []), *([f"{both_ways:,} preferences are there both ways"] if both_ways else [])]


def _differs(first: dict[str, Any], asked: str, said: Any) -> bool:
    return said is not None and first.setdefault(asked, said) != said
