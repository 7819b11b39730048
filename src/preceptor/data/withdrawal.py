"""Withdrawals: documents that somebody took back, which no corpus made in the same folder holds again."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.core.files import make_folder, sync_folder
from preceptor.data.document import KEEP, Document, Drop, Verdict
from preceptor.data.index import text_key

WITHDRAWALS_FILE = "withdrawals.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawal:
    """One line of the record: which documents were taken back, when, by whom and why. It holds no text."""

    when: str
    """As ISO 8601, in UTC."""
    who: str
    why: str
    ids: tuple[str, ...]
    """The ids under which the documents were read."""
    texts: tuple[str, ...]
    """The keys of their texts as 16 hexadecimal digits, by which they are known wherever else they come from."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """All that was ever withdrawn: can be pickled."""

    ids: frozenset[str] = frozenset()
    texts: frozenset[int] = frozenset()

    @property
    def digest(self) -> str:
        """The SHA-256 of what is withdrawn, in whatever order and for whatever reason; empty where nothing is."""
        if not self.ids and not self.texts:
            return ""
        said = json.dumps([sorted(self.ids), sorted(self.texts)])
        return hashlib.sha256(said.encode("ascii")).hexdigest()

    def judge(self, document: Document) -> Verdict:
        """Drop a document that was withdrawn, by the id under which it was read, its own id, or its text."""
        if document.root_id in self.ids or document.id in self.ids:
            return Drop("withdrawn", 1, 0, "by its id")
        if self.texts and text_key(document.text) in self.texts:
            return Drop("withdrawn", 1, 0, "by its text")
        return KEEP


NOTHING_WITHDRAWN = Withdrawn()


def withdrawals(out: Path) -> list[Withdrawal]:
    """The record of a run's folder, oldest first.

    A last line that a power cut tore is left out, since nobody was told that it was recorded.

    Raises:
        ArtifactError: a line is damaged.
    """
    path = out / WITHDRAWALS_FILE
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror}",
            remedy="make it readable: without it, what was withdrawn returns",
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_decode(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"{path}:{number}: damaged: {error}",
                remedy="restore the file: without it, what was withdrawn returns",
            ) from error
    return found


def _decode(line: bytes) -> Withdrawal:
    said = json.loads(line)
    ids, texts = (tuple(said[name]) for name in ("ids", "texts"))
    if not all(isinstance(each, str) for each in (*ids, *texts)):
        raise ValueError("an id or a key is not a string")
    for key in texts:
        int(key, 16)
    return Withdrawal(when=said["when"], who=said["who"], why=said["why"], ids=ids, texts=texts)


def withdrawn(out: Path) -> Withdrawn:
    """What was withdrawn in a run's folder.

    Raises:
        ArtifactError: the record is damaged.
    """
    record = withdrawals(out)
    ids = frozenset(id for each in record for id in each.ids)
    return Withdrawn(ids, frozenset(int(key, 16) for each in record for key in each.texts))


def record(out: Path, withdrawal: Withdrawal) -> None:
    """Add a line to the record of a run's folder and force it to the disk.

    Raises:
        OutputError: it cannot be written.
    """
    path = out / WITHDRAWALS_FILE
    line = json.dumps(asdict(withdrawal)).encode("ascii") + b"\n"
    make_folder(out)
    with output_errors(path):
        is_new = not path.exists()
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    _cut_torn_line(path)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(out)


def _cut_torn_line(path: Path) -> None:
    """Cut off what follows the last end of line: a write that a power cut tore."""
    held = path.read_bytes()
    os.truncate(path, held.rfind(b"\n") + 1)


def keys_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The keys of texts as they are recorded; a text without a letter or digit has none."""
    return tuple(sorted({f"{key:016x}" for key in map(text_key, texts) if key}))
