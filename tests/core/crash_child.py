"""A process that forks writers and kills each of them before another act on files.

Run as `python crash_child.py SCENARIO FOLDER`; prints one JSON line per kill. It is a process of its own because a
fork of the test process would bring its threads and its plugins along.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preceptor.core import artifact
from preceptor.core.artifact import Store, load, sweep, write_folder
from preceptor.core.drafts import PREFIX, remove_folder, write_file

ACTS = ("open", "os.", "shutil.", "fcntl.", "ctypes.")


def write(folder: Path, text: str) -> None:
    """What most scenarios do: an artifact of two files."""
    with write_folder(folder / "a", "corpus", "key", {}) as draft:
        (draft.path / "one.txt").write_text(text)
        (draft.path / "two.txt").write_text(text * 2)


def read(folder: Path) -> str:
    """The text in the artifact, after it has been verified."""
    return load(folder / "a").file("one.txt").read_text()


def corrupt(folder: Path) -> None:
    """An artifact with a changed byte."""
    write(folder, "old")
    (folder / "a" / "one.txt").write_text("odd")


def in_store(folder: Path, text: str) -> None:
    """An artifact in a store."""
    with Store(folder).draft("corpus", "key", {}) as draft:
        (draft.path / "one.txt").write_text(text)


def read_store(folder: Path) -> str:
    """The text of the newest sound artifact of the store."""
    found = Store(folder).find("corpus", "key")
    return found.file("one.txt").read_text() if found else "none"


def no_exchange() -> None:
    """Make the system one that cannot swap two folders."""
    artifact.exchange = lambda first, second: False


def text_of(path: Path) -> str:
    """The text of a file in a folder that is whole or gone."""
    return path.read_text() if path.parent.exists() else "none"


# name -> (what is there before, what is killed, how to look, what may be seen)
SCENARIOS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], Callable[[Path], str], set[str]]] = {
    "replace": (lambda f: write(f, "old"), lambda f: write(f, "new"), read, {"old", "new"}),
    "keep": (lambda f: write(f, "old"), lambda f: write(f, "old"), read, {"old"}),
    "first": (lambda f: None, lambda f: write(f, "new"), read, {"error", "new"}),
    "repair": (corrupt, lambda f: write(f, "old"), read, {"error", "old"}),
    "repair-in-two-steps": (corrupt, lambda f: (no_exchange(), write(f, "old")), read, {"error", "old"}),
    "store": (lambda f: in_store(f, "old"), lambda f: in_store(f, "new"), read_store, {"old", "new"}),
    "file": (
        lambda f: write_file(f / "run.json", "old"),
        lambda f: write_file(f / "run.json", "new"),
        lambda f: (f / "run.json").read_text(),
        {"old", "new"},
    ),
    "remove": (
        lambda f: write(f, "old"),
        lambda f: remove_folder(f / "a"),
        lambda f: text_of(f / "a" / "two.txt"),
        {"oldold", "none"},
    ),
}


def killed_at(number: int, work: Callable[[Path], Any], folder: Path) -> bool:
    """Do the work in a child that dies by SIGKILL just before its nth act on files; whether it lived to do all of it.

    Python announces every opening, renaming, making, removing and locking to its audit hooks; between two of them, and
    the calls of fsync, nothing changes on the disk except bytes of a draft.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def act(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event.startswith(ACTS):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = lambda handle: act("os.fsync", ())
        sys.addaudithook(act)
        work(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def main(name: str, root: Path) -> None:
    """Kill the scenario before every act in turn until it outlives its work."""
    # What a killed process has written stays in the kernel, so waiting for the disk would only make this slow.
    os.fsync = lambda handle: None
    before, work, look, allowed = SCENARIOS[name]
    act = 0
    finished = False
    while not finished:
        act += 1
        folder = root / str(act)
        folder.mkdir()
        before(folder)
        finished = killed_at(act, work, folder)
        try:
            seen = look(folder)
        except artifact.ArtifactError:
            seen = "error"
        num_dead = len(list(folder.rglob(f"{PREFIX}*")))
        sweep(folder)
        Store(folder).sweep()
        swept = not list(folder.rglob(f"{PREFIX}*"))
        again = killed_at(-1, work, folder) and look(folder) in allowed - {"error"}
        told = {"act": act, "finished": finished, "seen": seen, "dead": num_dead, "swept": swept, "again": again}
        print(json.dumps({**told, "allowed": seen in allowed}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
