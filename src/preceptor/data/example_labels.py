"""Labels as they were written, and whether all together they are classes or numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from preceptor.data.example_fields import UnfitError, kind_of, label_of
from preceptor.data.example_shapes import UndecidedExample
from preceptor.data.example_types import AnyExample, ClassExample, NumberExample, Task

_FEW_CLASSES = 20
_MANY_EACH = 5
_NUMBERS_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Decided:
    """The examples that labels make, and what was decided on the way."""

    task: Task
    examples: list[AnyExample]
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()


def decide(rows: Sequence[UndecidedExample], task: str) -> Decided:
    """Classes or numbers: as the task says, or else as the labels are.

    Numbers with a fraction are numbers to be told; whole ones are classes where there are few of them.
    """
    is_list = bool(rows) and isinstance(rows[0].value, list)
    chosen, notes = _task_of(rows, task)
    examples: list[AnyExample] = []
    rejected = []
    width = 0
    for row in rows:
        try:
            if isinstance(row.value, list) != is_list:
                others = "lists" if is_list else "single values"
                raise UnfitError(f"{row.name} is {kind_of(row.value)}, where the first row and others have {others}")
            found = _regressed(row) if chosen == "regress" else _classified(row)
            if isinstance(found, NumberExample):
                width = width or len(found.targets)
                if len(found.targets) != width:
                    raise UnfitError(f"{row.name} has {len(found.targets)} numbers, and that of other rows {width}")
            examples.append(found)
        except UnfitError as error:
            rejected.append((row.place, str(error)))
    return Decided(chosen, examples, is_list and chosen == "classify", notes, tuple(rejected))


def _task_of(rows: Sequence[UndecidedExample], task: str) -> tuple[Task, tuple[str, ...]]:
    if task == "classify":
        return "classify", ()
    if task == "regress":
        return "regress", ()
    written = [value for row in rows for value in (row.value if isinstance(row.value, list) else [row.value])]
    values = [value for value in written if _number(value) is not None]
    numbers = [number for value in values if (number := _number(value)) is not None]
    name = rows[0].name if rows else "label"
    if not numbers or len(numbers) < _NUMBERS_SHARE * len(written):
        return "classify", ()
    if any(isinstance(value, float) or (isinstance(value, str) and not _is_whole(value)) for value in values):
        return "regress", (f'{name} holds numbers with a fraction, taken as such; task = "classify" makes classes',)
    kinds = set(numbers)
    is_range = max(kinds) - min(kinds) == len(kinds) - 1 and min(kinds) in (0, 1)
    if len(kinds) <= _FEW_CLASSES or (is_range and len(kinds) * _MANY_EACH <= len(numbers)):
        said = (
            f'{name} holds {len(kinds)} different whole numbers, taken as classes; task = "regress" takes the numbers'
        )
        return "classify", (said,)
    said = f'{name} holds {len(kinds):,} different whole numbers, taken as such; task = "classify" makes classes'
    return "regress", (said,)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_whole(value: str) -> bool:
    return value.strip().lstrip("+-").isdecimal()


def _regressed(row: UndecidedExample) -> NumberExample:
    values = row.value if isinstance(row.value, list) else [row.value]
    numbers = [_number(value) for value in values]
    if not numbers:
        raise UnfitError(f"{row.name} is empty")
    for value, number in zip(values, numbers, strict=True):
        if number is None:
            raise UnfitError(f"{row.name} is {str(value)[:40]!r}, not a number")
    targets = tuple(number for number in numbers if number is not None)
    return NumberExample(
        text=row.text, second=row.second, targets=targets, group=row.group, kind=row.kind, place=row.place
    )


def _classified(row: UndecidedExample) -> ClassExample:
    values = row.value if isinstance(row.value, list) else [row.value]
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise UnfitError(f"{row.name} is missing")
    labels = tuple(dict.fromkeys(label_of(value, row.name) for value in values))
    return ClassExample(
        text=row.text, second=row.second, labels=labels, group=row.group, kind=row.kind, place=row.place
    )


def in_order(labels: set[str]) -> tuple[str, ...]:
    """Classes in their order: by number where all are numbers, else by name."""
    numbers = {label: _number(label) for label in labels}
    if any(number is None for number in numbers.values()):
        return tuple(sorted(labels))
    return tuple(sorted(labels, key=lambda label: (numbers[label] or 0.0, label)))
