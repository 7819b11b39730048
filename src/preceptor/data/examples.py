"""Questions with answers: read from a file, and split so that nothing asked in training is asked in the evaluation."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.core.seeds import derive

_SHAPES = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its answer, and the group that must stay on one side of a split."""

    question: str
    answer: str
    group: str
    kind: str = ""


def split_examples(
    examples: Iterable[Example], seed: int, held_out_fraction: float
) -> tuple[list[Example], list[Example]]:
    """The examples to train on and those held out; a group is wholly on one side, decided by its name and the seed."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        is_held_out = derive(seed, "held-out", example.group) < held_out_fraction * (1 << 63)
        sides[is_held_out].append(example)
    return sides


def read_examples(path: Path) -> list[Example]:
    """The examples of a JSON or JSONL file, whose keys are one of three pairs that the field uses.

    Raises:
        DataError: the file cannot be read, or a record is not such a pair; names the file and the record.
        EmptyDataError: there is no example.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as examples: {error}",
            remedy="name a UTF-8 file of JSON lines with the keys question and answer",
        ) from error
    examples = [_example(record, where) for where, record in _records(path, text)]
    if not examples:
        raise EmptyDataError(f"{path} holds no example", remedy="add records with the keys question and answer")
    return examples


def _records(path: Path, text: str) -> Iterable[tuple[str, object]]:
    is_list = text.lstrip().startswith("[")
    lines = [(0, text)] if is_list else [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            where = f"{path}:{number or getattr(error, 'lineno', 1)}"
            raise DataError(f"{where}: broken JSON: {error}", remedy="mend or remove this record") from error
        if isinstance(record, list) and is_list:
            yield from ((f"{path}, record {index}", entry) for index, entry in enumerate(record, 1))
        else:
            yield f"{path}:{number}", record


def _example(record: object, where: str) -> Example:
    wanted = " or ".join(" and ".join(pair) for pair in _SHAPES)
    if isinstance(record, Mapping):
        for question, answer in _SHAPES:
            if question in record and answer in record:
                asked, said = record[question], record[answer]
                if isinstance(record.get("input"), str) and record["input"]:
                    asked = f"{asked}\n{record['input']}"
                if not (isinstance(asked, str) and isinstance(said, str) and asked.strip() and said.strip()):
                    raise DataError(
                        f"{where}: {question} and {answer} must both be text that is not empty",
                        remedy="mend or remove this record",
                    )
                return Example(asked, said, str(record.get("group", asked)))
    found = f"the keys {', '.join(map(str, record))}" if isinstance(record, Mapping) else type(record).__name__
    raise DataError(f"{where}: expected an object with the keys {wanted}; found {found}", remedy="rename the keys")
