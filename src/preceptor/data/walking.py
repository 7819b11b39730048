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

    path: Path
    name: str
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
        yield Found(root, _sayable(root.name), _passed_over(root))
        return
    # The folder's own name stays in front, so that two folders with the same files are told apart.
    front = root.resolve().name
    for path, problem in _walk(root):
        name = path.relative_to(root).as_posix()
        if pattern is None or pattern.fullmatch(name):
            yield Found(path, _sayable(f"{front}/{name}" if front else name), problem, pattern is None)


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


def _walk(root: Path) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    """Every file below a folder, or what is passed over, with the rule and the reason."""
    seen_links: set[str] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.listdir(folder))
        except OSError as error:
            yield folder, ("unreadable", str(error.strerror))
            continue
        folders = []
        for name in entries:
            path = folder / name
            if name.startswith("."):
                yield path, ("hidden", "its name starts with a point")
            elif not os.path.isdir(path):
                yield path, _passed_over(path)
            elif path.is_symlink() and not _leads_on(path, seen_links):
                yield path, ("link-loop", "a link to a folder that is read already")
            else:
                folders.append(path)
        waiting += reversed(folders)


def _leads_on(link: Path, seen: set[str]) -> bool:
    """Whether a link leads to a folder that neither holds it nor was reached by another link."""
    target, here = os.path.realpath(link), os.path.realpath(link.parent)
    if target in seen or os.path.commonpath([target, here]) == target:
        return False
    seen.add(target)
    return True


def _passed_over(path: Path) -> tuple[str, str] | None:
    """Why a file is passed over without being opened, as rule and detail; None where it can be opened."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "unreadable", str(error.strerror or error)
    return None if stat.S_ISREG(mode) else ("not-a-file", "a pipe, socket or device")
