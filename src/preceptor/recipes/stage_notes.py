"""What the run of a folder is made of: for each stage its key, and its artifact once there is one."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preceptor.core.config import digest
from preceptor.core.drafts import write_file

STAGES_FILE = "stages.json"


@dataclass(frozen=True, slots=True)
class StageNote:
    """A stage of a run."""

    key: str
    artifact: str
    """The id of what it made; empty while it is at work, or where it was stopped."""


def write_notes(out: Path, run: Mapping[str, Any], notes: Mapping[str, StageNote]) -> None:
    """Write stages.json, for the run of that description."""
    table = {"run": digest(run), "stages": {stage: asdict(note) for stage, note in notes.items()}}
    write_file(out / STAGES_FILE, json.dumps(table, indent=2) + "\n")


def read_notes(out: Path, run: Mapping[str, Any]) -> dict[str, StageNote]:
    """The stages of a run that a folder knows of; none where it holds another run, or no file that can be read."""
    try:
        table = json.loads((out / STAGES_FILE).read_text(encoding="utf-8"))
        notes = {stage: StageNote(**note) for stage, note in table["stages"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return notes if table["run"] == digest(run) else {}
