"""The files below a folder or behind a pattern, in one order on every machine; no link or pipe stops the walk."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WILD = re.compile(r"[*?[]")
_PARTS = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A file, its name below the folder that was named, and for what rule and reason it is passed over."""

    path: str
    name: str
    num_bytes: int = 0
    problem: tuple[str, str] | None = None
    is_listed: bool = False
    """Whether it was met in a folder, and not named by itself or by a pattern."""


def find(named: str) -> Iterator[Found]:
    """Every file that a path or a pattern names, in the order of the names.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the pattern is none.
    """
    root, pattern = _split(named)
    if not os.path.exists(root):
        raise FileNotFoundError(os.fspath(root))
    if not root.is_dir():
        yield _found(str(root), _sayable(root.name))
        return
    # The folder's own name stays in front, so that two folders with the same files are told apart.
    front = root.resolve().name
    for found in _walk(str(root)):
        # What cannot be looked into is said, since it may hold what the pattern names.
        if pattern is None or pattern.fullmatch(found.name) or (found.problem and found.problem[0] == "unreadable"):
            name = _sayable(f"{front}/{found.name}" if front else found.name)
            yield Found(found.path, name, found.num_bytes, found.problem, pattern is None)


def _sayable(name: str) -> str:
    """A name need not be UTF-8 on every file system, and what cannot be said must not be written."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _split(named: str) -> tuple[Path, re.Pattern[str] | None]:
    """The folder to walk and the pattern that names below it must match, None for all."""
    whole = Path(named).expanduser()
    parts = whole.parts
    wild = next((place for place, part in enumerate(parts) if _WILD.search(part)), None)
    if wild is None or os.path.exists(whole):
        return whole, None
    return Path(*parts[:wild]), _pattern("/".join(parts[wild:]))


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of the shell: ``*`` and ``?`` stay within a folder, ``**/`` crosses any number of them."""
    found = []
    for part in _PARTS.findall(text):
        if part == "**/":
            found.append("(?:[^/]+/)*")
        elif part == "**":
            found.append(".*")
        elif part == "*":
            found.append("[^/]*")
        elif part == "?":
            found.append("[^/]")
        elif len(part) > 2 and part[0] == "[":
            inside = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            found.append(f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]")
        else:
            found.append(re.escape(part))
    try:
        return re.compile("".join(found), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{text!r} is not a pattern: {error}") from error


def _walk(root: str) -> Iterator[Found]:
    """Every file below a folder, by its name there, or what is passed over, with the rule and the reason."""
    seen_links: set[str] = set()
    waiting = [""]
    while waiting:
        front = waiting.pop()
        try:
            with os.scandir(os.path.join(root, front)) as listed:
                entries = sorted(listed, key=_name_of)
        except OSError as error:
            yield Found(os.path.join(root, front), front.rstrip("/"), problem=("unreadable", str(error.strerror)))
            continue
        folders = []
        for entry in entries:
            name = f"{front}{entry.name}"
            if entry.name.startswith("."):
                yield Found(entry.path, name, problem=("hidden", "its name starts with a point"))
            elif not _is_folder(entry):
                yield _found(entry.path, name)
            elif entry.is_symlink() and not _leads_on(Path(entry.path), seen_links):
                yield Found(entry.path, name, problem=("link-loop", "a link to a folder that is read already"))
            else:
                folders.append(f"{name}/")
        waiting += reversed(folders)


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads to itself


def _leads_on(link: Path, seen: set[str]) -> bool:
    """Whether a link leads to a folder that neither holds it nor was reached by another link."""
    target, here = os.path.realpath(link), os.path.realpath(link.parent)
    if target in seen or os.path.commonpath([target, here]) == target:
        return False
    seen.add(target)
    return True


def _found(path: str, name: str) -> Found:
    """A file with its length, or why it is passed over without being opened."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Found(path, name, problem=("unreadable", str(error.strerror or error)))
    if not stat.S_ISREG(status.st_mode):
        return Found(path, name, problem=("not-a-file", "a pipe, socket or device"))
    return Found(path, name, status.st_size)
