"""What a user wrote: a recipe in TOML, and `key=value` overrides on top of it."""

import copy
import datetime
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from preceptor.core.errors import ConfigError

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def read_recipe(path: Path) -> dict[str, object]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or is not TOML; names the file and the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        near = _similar_file(path)
        raise ConfigError(
            f"{path}: cannot read this recipe: {error.strerror}",
            remedy=f"did you mean {near}?" if near else "give the path of a TOML file",
            nearest=near,
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 text: byte 0x{raw[error.start]:02x}", remedy="save the recipe as UTF-8"
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        place = _PLACE.search(what)
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        reason = what[: place.start()] if place else what
        written = text.splitlines()[line - 1].strip() if line <= len(text.splitlines()) else ""
        shown = f": {written}" if written else ""
        raise ConfigError(
            f"{path}:{line}: not TOML: {reason[:1].lower()}{reason[1:]}{shown}",
            remedy="strings stand in quotes, lists in [ ], and a table starts with [name]",
        ) from error


def _similar_file(path: Path) -> str:
    try:
        names = [other.name for other in path.parent.iterdir() if other.suffix == ".toml"]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return str(path.parent / close[0]) if close else ""


def apply_overrides(table: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """The table with every `a.b.c=value` set, later ones last; the table given stays as it is.

    A value is read as TOML (`3`, `true`, `[1, 2]`, `"text"`), and as a plain string where it is not TOML.

    Raises:
        ConfigError: an override is not of this form, or leads through something that is not a table.
    """
    result: dict[str, object] = copy.deepcopy(dict(table))
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(
                f"{override!r} is not a setting", remedy="write it as key=value, for example tokenizer.vocab_size=8192"
            )
        *folders, name = key.split(".")
        place = result
        for depth, folder in enumerate(folders, start=1):
            below = place.setdefault(folder, {})
            if not isinstance(below, dict):
                inner = ".".join(folders[:depth])
                raise ConfigError(
                    f"{key}: {inner} is not a table but {below!r}",
                    path=key,
                    expected="a table",
                    remedy=f"set all of it: {inner}=...",
                )
            place = below
        place[name] = _read_value(text.strip())
    return result


def _read_value(text: str) -> object:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table.get("value")
    # More than one key means that the text held a line break; a date is only ever meant as text.
    dates = (datetime.date, datetime.time)
    return text if len(table) != 1 or isinstance(value, dates) else value
