"""The one JSON text of a value, and its digest: the same in every process and on every Python."""

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from pathlib import PurePath


def plain(value: object, *, where: str = "value") -> object:
    """The value made of dict, list, str, int, float, bool and None only: what JSON can hold without loss.

    Raises:
        TypeError: it holds something with no JSON form, named by its place.
        ValueError: it holds a number that is not finite, named by its place.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Real):
        return _plain_number(value, where)
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; only strings can be keys in JSON")
        return {key: plain(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where=f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where} is of type {type(value).__name__}, which has no JSON form")


def _plain_number(value: numbers.Real, where: str) -> int | float:
    """The number as Python's own int or float, for NumPy's numbers are of both kinds too."""
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{where} is {number}, which JSON cannot hold")
    return number


def _whole_floats_as_integers(value: object) -> object:
    """The same value with 1.0 written 1, so that a float field set to 1 and to 1.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_floats_as_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_floats_as_integers(item) for item in value]
    return value


def canonical_json(value: object) -> str:
    """The value as compact ASCII JSON with sorted keys; equal values give equal texts."""
    return json.dumps(_whole_floats_as_integers(plain(value)), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """The SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
