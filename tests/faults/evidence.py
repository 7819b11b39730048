"""What a fault has left on the disk, looked at from outside."""

import json
import re
from pathlib import Path

from preceptor.core.artifact import load
from preceptor.core.drafts import PREFIX
from preceptor.core.errors import ArtifactError

CHECKPOINTS, WEIGHTS, ORDER = "checkpoints", "final.safetensors", "order.jsonl"


def named(folder: Path) -> list[Path]:
    """Every folder of a run that is named as a checkpoint, the oldest first."""
    return sorted((folder / CHECKPOINTS).glob("step-*"))


def torn(folder: Path) -> list[str]:
    """What is named as a checkpoint and is none."""
    found = []
    for path in named(folder):
        try:
            load(path)
        except ArtifactError as error:
            found.append(str(error))
    return found


def steps(folder: Path) -> list[int]:
    """The steps whose checkpoint verifies; nothing may be named as one that does not."""
    assert torn(folder) == []
    return [int(path.name.removeprefix("step-")) for path in named(folder)]


def drafts(folder: Path) -> list[Path]:
    """What dead writers have left under a temporary name."""
    return list(folder.rglob(f"{PREFIX}*"))


def resumed_at(said: str) -> int:
    """The step from which a training said that it went on; 0 for one that began."""
    found = re.search(r"going on from step (\d+)", said)
    return int(found[1]) if found else 0


def rows_read(notes: Path) -> dict[int, list[int]]:
    """The rows that were read, by the place of the first; the same place twice must have held the same rows."""
    read: dict[int, list[int]] = {}
    for line in (notes / ORDER).read_text(encoding="utf-8").splitlines():
        place, rows = json.loads(line)
        assert read.setdefault(place, rows) == rows
    return read


def weights(notes: Path) -> bytes:
    """The bytes of the weights that a training came to."""
    return (notes / WEIGHTS).read_bytes()
