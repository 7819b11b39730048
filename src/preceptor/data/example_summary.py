"""A set of examples in one line: how many, of what, how long, and what was refused."""

from collections import Counter
from collections.abc import Callable
from statistics import median

from preceptor.core.units import human_count
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

_SHARES_SHOWN = 5
_REASONS_SHOWN = 3


def text_of_example(example: AnyExample) -> str:
    """All the text of an example, as it counts for its length."""
    match example:
        case Conversation():
            return "\n".join(each.content for each in example.messages)
        case ClassExample() | NumberExample():
            return example.text if example.second is None else f"{example.text}\n{example.second}"
        case TaggedExample():
            return " ".join(example.words)
        case AnswerExample():
            return f"{example.question}\n{example.context}"
        case PairExample():
            return f"{example.source}\n{example.target}"
        case _:
            return "\n".join([*(each.content for each in example.messages), example.chosen])


def summary(found: ExampleSet, count_tokens: Callable[[str], int] | None = None, *, with_rejected: bool = True) -> str:
    """The set in one line; lengths are in words where nothing counts tokens."""
    num_rows = len(found.examples) + len(found.rejected)
    parts = [f"{num_rows:,} {'row' if num_rows == 1 else 'rows'}", found.shape, *_labels(found)]
    if found.examples:
        count, unit = (count_tokens, "tokens") if count_tokens else (lambda text: len(text.split()), "words")
        middle = median(count(text_of_example(example)) for example in found.examples)
        parts.append(f"median {human_count(round(middle))} {unit}")
    said = ", ".join(part for part in parts if part)
    return f"{said}, {_rejected(found)}" if found.rejected and with_rejected else said


def _labels(found: ExampleSet) -> list[str]:
    if found.task == "regress":
        targets = [each.targets for each in found.examples if isinstance(each, NumberExample)]
        values = [value for each in targets for value in each]
        return [f"numbers from {min(values):g} to {max(values):g}"] if values else []
    if found.task == "tag":
        words = sum(len(each.words) for each in found.examples if isinstance(each, TaggedExample))
        return [f"{len(found.labels):,} tags", f"{words:,} words"]
    if found.task == "answer":
        without = sum(isinstance(each, AnswerExample) and not each.answers for each in found.examples)
        return [f"{without:,} without an answer"] if without else []
    if found.task != "classify":
        return []
    counts = Counter(label for each in found.examples if isinstance(each, ClassExample) for label in each.labels)
    name = "classes, several a text" if found.multi_label else "class" if len(counts) == 1 else "classes"
    return [f"{len(counts):,} {name}", *_shares(counts, max(1, len(found.examples)))]


def _shares(counts: Counter[str], total: int) -> list[str]:
    shares = [100 * count / total for _, count in counts.most_common()]
    if len(shares) < 2:
        return []
    if len(shares) <= _SHARES_SHOWN:
        return ["/".join(f"{share:.0f}" if share >= 1 else f"{share:.1f}" for share in shares)]
    return [f"{shares[-1]:.1f} to {shares[0]:.1f} % each"]


def _rejected(found: ExampleSet) -> str:
    count = len(found.rejected)
    told = "; ".join(f"{place}: {reason}" for place, reason in found.rejected[:_REASONS_SHOWN])
    rest = "; ..." if count > _REASONS_SHOWN else ""
    return f"{count:,} {'row' if count == 1 else 'rows'} rejected: {told}{rest}"
