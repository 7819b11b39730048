"""Examples of a task: read from a file in the shapes people have, and split so that no group is on both sides."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from preceptor.core.errors import ConfigError, DataError, EmptyDataError
from preceptor.core.files import require_file
from preceptor.core.seeds import derive
from preceptor.data.example_fields import Fields, UnfitError
from preceptor.data.example_labels import decide, in_order
from preceptor.data.example_rows import Row, read_rows
from preceptor.data.example_shapes import KNOWN, Shape, UndecidedExample, accepted, shape_of, title_of
from preceptor.data.example_summary import summary
from preceptor.data.example_types import (
    AnyExample,
    ClassExample,
    Conversation,
    ExampleSet,
    TaggedExample,
    Task,
    TaskExample,
)
from preceptor.data.records import REMEDIES, FlawError
from preceptor.data.source_config import ReadLimits

__all__ = ["conversations", "read_examples", "split_examples", "summary"]

Of = TypeVar("Of", bound=TaskExample)
_MAX_REJECTED_SHARE = 0.05
_LOOK_ROWS = 1000
"""After so many rows a file of which most are unfit is given up."""
_COLUMNS_REMEDY = 'say which is which with finetuning.columns, as in finetuning.columns = {text = "review"}'
_MEND = "mend or remove what is refused; at most 5 rows of 100 may be"


def split_examples(examples: Iterable[Of], seed: int, held_out_fraction: float) -> tuple[list[Of], list[Of]]:
    """The examples to train on and those held out; a group is wholly on one side, decided by its name and the seed."""
    sides: tuple[list[Of], list[Of]] = ([], [])
    for example in examples:
        is_held_out = derive(seed, "held-out", example.group) < held_out_fraction * (1 << 63)
        sides[is_held_out].append(example)
    return sides


def conversations(found: ExampleSet) -> list[Conversation]:
    """The examples as conversations.

    Raises:
        DataError: they are of another task.
    """
    said = [each for each in found.examples if isinstance(each, Conversation)]
    if len(said) != len(found.examples):
        raise DataError(
            f"the examples are {found.shape}, for the task {found.task}; here questions with answers are needed",
            remedy="name a file with questions and answers, or with messages",
        )
    return said


def read_examples(
    path: Path,
    task: Task | Literal["auto"] = "auto",
    columns: Mapping[str, str] = {},
    max_record_bytes: int = ReadLimits().max_record_bytes,
) -> ExampleSet:
    """The examples of a file, in the shape that its columns tell; rows that are none are counted with the reason.

    ``columns`` maps our names of columns to those of the file, where they differ; a name such as ``translation.de``
    is a member of an object.

    Raises:
        DataError: the file cannot be read, its columns are not known, more than 5 % of its rows are no examples, or
            they are of several shapes; names the file and the place.
        EmptyDataError: there is no example.
        ConfigError: ``columns`` maps a name that we do not know.
    """
    if unknown := sorted(set(columns) - set(KNOWN)):
        raise ConfigError(
            f"finetuning.columns maps {unknown[0]!r}, which is no name of ours",
            path="finetuning.columns",
            remedy=f"write our name on the left and the file's on the right; ours are {', '.join(KNOWN)}",
        )
    try:
        require_file(path)
        reading = _Reading(path, task, columns)
        for row in read_rows(path, ReadLimits(max_record_bytes=max_record_bytes)):
            reading.take(row)
    except FlawError as error:
        flaw = error.flaw
        remedy = REMEDIES.get(flaw.rule, "write the file again")
        raise DataError(flaw.message, file=path, line=flaw.line, remedy=remedy) from error
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", file=path, remedy="name a file of examples that can be read"
        ) from error
    return reading.finish()


def _labels_of(examples: Sequence[AnyExample]) -> tuple[str, ...]:
    labels: set[str] = set()
    for example in examples:
        if isinstance(example, ClassExample):
            labels.update(example.labels)
        elif isinstance(example, TaggedExample):
            labels.update(example.tags)
    return in_order(labels)


class _Reading:
    """What was read of a file so far."""

    def __init__(self, path: Path, task: str, columns: Mapping[str, str]) -> None:
        self._path = path
        self._task = task
        self._columns = columns
        self._made: list[AnyExample | UndecidedExample] = []
        self._rejected: list[tuple[Row, str]] = []
        self._shape: Shape | None = None
        self._names: tuple[str, ...] = ()
        self._first = ""
        self._odd: Fields | None = None
        """The first row whose columns are of no shape."""

    def take(self, row: Row) -> None:
        """Make an example of a row, or count it as rejected."""
        try:
            self._made.append(self._example(row))
        except UnfitError as error:
            self._rejected.append((row, str(error)))
        taken = len(self._made) + len(self._rejected)
        if len(self._rejected) * 2 > taken >= _LOOK_ROWS:
            self._require_few(len(self._rejected), taken)

    def _example(self, row: Row) -> AnyExample | UndecidedExample:
        if row.flaw:
            raise UnfitError(row.flaw)
        if not isinstance(row.columns, Mapping):
            raise UnfitError(f"expected an object with its columns; found {type(row.columns).__name__}")
        fields = Fields(self._renamed(row.columns), f"{self._path.name}, {row.place}")
        if self._shape is None or (names := self._shape.found(fields)) is None:
            if self._shape is not None and (lacking := self._shape.lacking(fields)):
                raise UnfitError(f"{lacking} is missing")
            if (found := shape_of(fields, self._task)) is None:
                self._odd = self._odd or fields
                raise UnfitError(self._lacking(fields))
            if self._shape is not None:
                self._refuse_mixed(row, title_of(found[1]))
            self._shape, self._names, self._first = *found, row.place
            names = self._names
        return self._shape.make(fields, names)

    def _renamed(self, columns: Mapping[str, object]) -> dict[str, object]:
        """The columns that hold something, by our names."""
        found = dict(columns)
        mapped = {ours: _member(found, theirs) for ours, theirs in self._columns.items()}
        for theirs in set(self._columns.values()):
            found.pop(theirs if theirs in found else theirs.partition(".")[0], None)
        # A column of the file that has by chance the name that another is mapped to is not that column.
        return {name: value for name, value in found.items() if name not in self._columns} | mapped

    def _lacking(self, row: Fields) -> str:
        names = ", ".join(name[:60] for name in row.names[:30]) or "none"
        if self._shape is None:
            return f"found the columns {names}, which are of no shape that is known"
        return f"found the columns {names}, where {title_of(self._names)} was expected"

    def _refuse_mixed(self, row: Row, other: str) -> None:
        raise DataError(
            f"{self._first} is {title_of(self._names)}, and {row.place} is {other}: a file has one shape",
            file=self._path,
            line=row.line,
            remedy="put each shape into a file of its own, and train on one after the other",
        )

    def finish(self) -> ExampleSet:
        """All examples as one set."""
        total = len(self._made) + len(self._rejected)
        if not total:
            raise EmptyDataError(
                "holds no example", file=self._path, remedy="add rows with the columns question and answer, say"
            )
        if self._shape is None and self._odd is not None:
            self._refuse_columns(self._odd)
        self._require_few(len(self._rejected), total)
        rejected = [(row.place, reason) for row, reason in self._rejected]
        labelled = [each for each in self._made if isinstance(each, UndecidedExample)]
        if not labelled or self._shape is None:
            examples = [each for each in self._made if not isinstance(each, UndecidedExample)]
            task: Task = self._named_task()
            return self._set(examples, task, rejected)
        decided = decide(labelled, self._task)
        front = f"{self._path.name}, "
        more = [(place.removeprefix(front), reason) for place, reason in decided.rejected]
        if len(rejected) + len(more) > _MAX_REJECTED_SHARE * total:
            self._refuse(more[0][0], more[0][1], len(rejected) + len(more), total)
        rejected = sorted([*rejected, *more], key=lambda each: [int(number) for number in re.findall(r"\d+", each[0])])
        return self._set(decided.examples, decided.task, rejected, decided.multi_label, decided.notes)

    def _named_task(self) -> Task:
        assert self._shape is not None
        return next(each for each in self._shape.tasks if self._task in ("auto", each))

    def _set(
        self,
        examples: Sequence[AnyExample],
        task: Task,
        rejected: Sequence[tuple[str, str]],
        multi_label: bool = False,
        notes: tuple[str, ...] = (),
    ) -> ExampleSet:
        return ExampleSet(
            task=task,
            examples=examples,
            labels=_labels_of(examples),
            multi_label=multi_label,
            shape=title_of(self._names),
            rejected=tuple(rejected),
            notes=notes,
        )

    def _require_few(self, num_rejected: int, total: int) -> None:
        """Refuse a file of which too many rows are no examples."""
        if num_rejected <= _MAX_REJECTED_SHARE * total:
            return
        if self._shape is None and self._odd is not None:
            self._refuse_columns(self._odd)
        row, reason = self._rejected[0]
        self._refuse(row.place, reason, num_rejected, total, row.line)

    def _refuse(self, place: str, reason: str, num_rejected: int, total: int, line: int | None = None) -> None:
        front = "" if line is not None else f"{place}: "
        raise DataError(
            f"{front}{reason}; {num_rejected:,} of {total:,} rows cannot be used",
            file=self._path,
            line=line,
            remedy="convert the file to UTF-8" if "not UTF-8" in reason else _MEND,
        )

    def _refuse_columns(self, row: Fields) -> None:
        names = ", ".join(name[:60] for name in row.names[:30]) or "none"
        of_task = "" if self._task == "auto" else f" for the task {self._task}"
        other = shape_of(row, "auto")
        said = f"; they are {title_of(other[1])}, for the task {' or '.join(other[0].tasks)}" if other else ""
        raise DataError(
            f"{row.place.removeprefix(self._path.name + ', ')}: found the columns {names}{said}; "
            f"expected{of_task} one of{accepted(self._task)}",
            file=self._path,
            remedy=_COLUMNS_REMEDY + (", or choose another finetuning.task" if other else ""),
        )


def _member(columns: Mapping[str, object], name: str) -> object:
    """What a column holds, or a member of an object that a column holds."""
    if name in columns:
        return columns[name]
    front, _, rest = name.partition(".")
    inner = columns.get(front)
    return _member(inner, rest) if rest and isinstance(inner, Mapping) else None
