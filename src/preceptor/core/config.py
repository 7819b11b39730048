"""Strict configuration: plain tables in, frozen dataclasses out, and every mistake named by its full path.

A configuration is a tree of frozen dataclasses. Its fields may be bool, int, float, str, Path, Literal, other
dataclasses, unions of dataclasses told apart by `kind`, tuples, lists and dictionaries of these, and `X | None`.
"""

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from preceptor.core import schema
from preceptor.core.canonical import canonical_json, digest, plain
from preceptor.core.errors import ConfigError
from preceptor.core.recipe_file import apply_overrides, read_recipe
from preceptor.core.schema import Field, describe, json_schema

__all__ = [
    "Field",
    "apply_overrides",
    "canonical_json",
    "decode",
    "describe",
    "digest",
    "encode",
    "json_schema",
    "read_recipe",
]

T = TypeVar("T")


def decode(cls: type[T], table: Mapping[str, object], *, where: str = "") -> T:
    """The dataclass that a table of plain values describes; what the table leaves out has its default.

    A nested table changes the default it stands for: keys it leaves out keep the values of that default. `where`
    is the dotted path of the table itself, for messages.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type or outside its range.
    """
    decoded = _Decoder(cls, where).config(cls, table, where, None)
    return typing.cast(T, decoded)


def encode(config: object) -> dict[str, object]:
    """The table of plain values that decodes to an equal dataclass."""
    table = plain(config, where=type(config).__name__)
    if not isinstance(table, dict):
        raise TypeError(f"{type(config).__name__} is not a dataclass")
    return table


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _found(value: object) -> str:
    """A value as a message shows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {value!r}" if len(value) <= 60 else f"a string of {len(value)} characters"
    if isinstance(value, int | float):
        return f"the number {value!r}" if not 1e100 < abs(value) < math.inf else "a number that large"
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _wrong(
    annotation: object, value: object, path: str, *, expected: str = "", choices: Sequence[str] = ()
) -> ConfigError:
    expected = expected or schema.in_words(annotation)
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    is_number = isinstance(value, int | float)
    return ConfigError(
        f"{path or 'the recipe'}: expected {expected}, found {_found(value)}{hint}",
        path=path,
        expected=expected,
        nearest=close[0] if close else "",
        remedy="put the value in quotes" if is_number and str in schema.members(annotation) else "",
    )


class _Decoder:
    """Decoding of one tree; keeps the root, to look a misplaced key up in the whole tree."""

    def __init__(self, root: type, where: str) -> None:
        self.root = root
        self.where = where

    def config(self, cls: type, table: object, path: str, base: object) -> object:
        if isinstance(table, cls):
            return table
        if not isinstance(table, Mapping):
            raise _wrong(cls, table, path)
        annotations = schema.annotations(cls)
        for key in table:
            if key not in annotations:
                raise self.unknown_key(cls, str(key), path)
        values: dict[str, object] = {}
        for field in dataclasses.fields(cls):
            if not field.init:
                continue
            inner, annotation = _join(path, field.name), annotations[field.name]
            default = schema.default_of(field, base)
            if field.name in table:
                values[field.name] = self.value(annotation, table[field.name], inner, default)
            elif default is dataclasses.MISSING:
                expected = schema.in_words(annotation)
                raise ConfigError(f"{inner}: missing; expected {expected}", path=inner, expected=expected)
            else:
                values[field.name] = default
        return _construct(cls, values, path)

    def unknown_key(self, cls: type, key: str, path: str) -> ConfigError:
        nearest = self.nearest(cls, key, path)
        expected = "one of " + ", ".join(schema.annotations(cls))
        hint = f"did you mean {nearest!r}?" if nearest else f"expected {expected}"
        inner = _join(path, key)
        return ConfigError(f"{inner}: unknown key; {hint}", path=inner, expected=expected, nearest=nearest)

    def nearest(self, cls: type, key: str, path: str) -> str:
        """The name here that is most like the key, or the full path of one like it elsewhere in the tree."""
        # What is below this table comes first: the key most likely belongs one level further down.
        all_places = [_join(self.where, field.path) for field in schema.describe(self.root)]
        all_places.sort(key=lambda place: not place.startswith(f"{path}." if path else ""))
        places: dict[str, list[str]] = {}
        for place in all_places:
            places.setdefault(place.rpartition(".")[2], []).append(place)
        close_here = difflib.get_close_matches(key, schema.annotations(cls), n=1)
        close_elsewhere = difflib.get_close_matches(key, places, n=1)
        if close_here and key not in places:
            return close_here[0]
        return places[close_elsewhere[0]][0] if close_elsewhere else ""

    def value(self, annotation: object, value: object, path: str, default: object = None) -> object:
        members = schema.members(annotation)
        if types.NoneType in members:
            # TOML has no null, so the word stands for it where no string could be meant.
            takes_text = any(member in (str, Path) or "none" in typing.get_args(member) for member in members)
            if value is None or (value == "none" and not takes_text):
                return None
            members = tuple(member for member in members if member is not types.NoneType)
        variants = [member for member in members if schema.is_config(member)]
        if len(variants) > 1 and (isinstance(value, Mapping) or len(variants) == len(members)):
            return self.variant(variants, value, path, default)
        if len(members) == 1:
            return self.member(annotation, members[0], value, path, default)
        for member in members:
            # In a union of plain types the first that takes the value as it is wins.
            try:
                return self.member(annotation, member, value, path, default)
            except ConfigError as error:
                if error.path != path:
                    raise
        raise _wrong(annotation, value, path)

    def variant(self, variants: Sequence[type], value: object, path: str, default: object) -> object:
        if type(value) in variants:
            return value
        by_tag = {schema.tag_of(variant): variant for variant in variants}
        name = schema.tag_name(variants[0])
        inner = _join(path, name)
        expected = " or ".join(map(repr, by_tag))
        if not isinstance(value, Mapping):
            raise _wrong(None, value, path, expected=f"a table whose {name} is {expected}")
        if name in value:
            tag = value[name]
            if not isinstance(tag, str) or tag not in by_tag:
                raise _wrong(None, tag, inner, expected=expected, choices=list(by_tag))
            cls = by_tag[tag]
        elif type(default) in variants:
            cls = type(default)
        else:
            raise ConfigError(f"{inner}: missing; expected {expected}", path=inner, expected=expected)
        return self.config(cls, value, path, default if type(default) is cls else None)

    def member(self, annotation: object, member: object, value: object, path: str, default: object) -> object:
        """One value against one type that is no union; `annotation` is the whole type, for the message."""
        if schema.is_config(member):
            return self.config(member, value, path, default if type(default) is member else None)
        if typing.get_origin(member) is typing.Literal:
            allowed = typing.get_args(member)
            if not any(type(value) is type(choice) and value == choice for choice in allowed):
                raise _wrong(annotation, value, path, choices=[str(choice) for choice in allowed])
            return value
        if (of_values := schema.value_type(member)) is not None:
            if not isinstance(value, Mapping):
                raise _wrong(annotation, value, path)
            return {str(key): self.value(of_values, item, _join(path, str(key))) for key, item in value.items()}
        if (items := schema.item_types(member)) is not None:
            return self.sequence(annotation, member, items, value, path)
        return _scalar(annotation, member, value, path)

    def sequence(self, annotation: object, member: object, items: object, value: object, path: str) -> object:
        if not isinstance(value, list | tuple):
            raise _wrong(annotation, value, path)
        if isinstance(items, tuple):
            if len(value) != len(items):
                expected = f"a list of {len(items)} items"
                raise ConfigError(f"{path}: expected {expected}, found {len(value)}", path=path, expected=expected)
            return tuple(
                self.value(of, item, f"{path}[{i}]") for i, (of, item) in enumerate(zip(items, value, strict=True))
            )
        decoded = [self.value(items, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return decoded if typing.get_origin(member) is list else tuple(decoded)


def _scalar(annotation: object, member: object, value: object, path: str) -> object:
    if member in (typing.Any, object):
        return value
    if member is float and isinstance(value, int | float) and not isinstance(value, bool):
        # Not math.isfinite: it fails on an integer too large for a float.
        if not abs(value) <= sys.float_info.max:
            raise _wrong(annotation, value, path, expected="a finite number")
        return float(value)
    if member is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if member is Path and isinstance(value, str | Path):
        return Path(value)
    if (member is bool and isinstance(value, bool)) or (member is str and isinstance(value, str)):
        return value
    if member not in (bool, int, float, str, Path):
        raise TypeError(f"{path}: a configuration cannot hold {member!r}")
    raise _wrong(annotation, value, path)


def _construct(cls: type, values: Mapping[str, object], path: str) -> object:
    """The dataclass, with what its own checks say put under the full path."""
    try:
        return cls(**values)
    except (ValueError, ConfigError) as error:
        text = error.message if isinstance(error, ConfigError) else str(error)
        remedy = error.remedy if isinstance(error, ConfigError) else ""
        first = text.partition(" ")[0].rstrip(":,")
        if first in values:
            named = _join(path, first)
            raise ConfigError(named + text[len(first) :], path=named, expected=text, remedy=remedy) from error
        raise ConfigError(f"{path}: {text}" if path else text, path=path, expected=text, remedy=remedy) from error
