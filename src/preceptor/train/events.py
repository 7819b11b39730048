"""What is out of the ordinary in a run, one JSON object a line, and told as it happens."""

import json
import time
from pathlib import Path
from typing import Any

from preceptor.core.progress import say


class EventLog:
    """A file of events; what cannot be written is told all the same. Of several processes one writes."""

    def __init__(self, path: Path, label: str, *, writes: bool = True) -> None:
        self.path, self.label, self.writes = path, label, writes
        self.warned = False

    def __call__(self, kind: str, text: str, **facts: Any) -> None:
        """Tell of an event, and append it."""
        say(f"{self.label}: {text}")
        if not self.writes:
            return
        line = json.dumps({"event": kind, "text": text, **facts, "at": round(time.time(), 3)})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            if not self.warned:
                say(f"warning: {self.path} cannot be written ({error.strerror}); training goes on")
            self.warned = True
