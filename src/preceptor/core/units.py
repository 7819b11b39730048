"""Quantities with their units: as types for signatures, as durations in recipes, as text for people."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NewType, Self, get_args

from preceptor.core.errors import ConfigError

Steps = NewType("Steps", int)
Tokens = NewType("Tokens", int)
Flops = NewType("Flops", float)
Joules = NewType("Joules", float)
GramsCO2e = NewType("GramsCO2e", float)

DurationKind = Literal["steps", "tokens", "epochs", "seconds", "joules"]

_DURATION = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([a-z]+)")


@dataclass(frozen=True, slots=True)
class Duration:
    """How long to train, in steps, tokens, passes over the data, seconds or joules."""

    kind: DurationKind
    """The unit."""
    amount: float
    """How many of them."""

    def __post_init__(self) -> None:
        """Refuse a duration that is no duration."""
        if self.kind not in get_args(DurationKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(DurationKind))}, got {self.kind!r}")
        if not 0 < self.amount < math.inf:
            raise ValueError(f"amount must be above 0 and finite, got {self.amount}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The duration that a text like `160 steps`, `2e6 tokens`, `1 epoch` or `90 seconds` names.

        Raises:
            ConfigError: the text is not a number above 0 and a unit.
        """
        expected = "a number above 0 and a unit: steps, tokens, epochs, seconds or joules, for example '160 steps'"
        matched = _DURATION.fullmatch(text.strip())
        kinds = {name: kind for kind in get_args(DurationKind) for name in (kind, kind.removesuffix("s"))}
        if matched is None or matched[2] not in kinds or not 0 < float(matched[1]) < math.inf:
            raise ConfigError(f"{text!r} is not a duration; expected {expected}", expected=expected)
        return cls(kinds[matched[2]], float(matched[1]))

    @property
    def is_budget(self) -> bool:
        """Whether it is used up by what a step costs, which no count of steps can tell beforehand."""
        return self.kind in ("seconds", "joules")

    def __str__(self) -> str:
        name = self.kind.removesuffix("s") if self.amount == 1 else self.kind
        return f"{self.amount:.15g} {name}"

    def num_steps(self, *, step_tokens: float, step_rows: int, epoch_rows: int) -> int:
        """The optimizer steps that come nearest to it, at least 1, where a step takes so many tokens and rows.

        Raises:
            ConfigError: it is in seconds or joules, which no count of steps can tell.
        """
        match self.kind:
            case "steps":
                exact = self.amount
            case "tokens":
                exact = self.amount / step_tokens
            case "epochs":
                exact = self.amount * epoch_rows / step_rows
            case "seconds" | "joules":
                raise ConfigError(f"{self} cannot be told in steps", remedy="give steps, tokens or epochs")
        return max(1, round(exact))


def _scaled(value: float, scales: Sequence[tuple[float, str]]) -> str:
    """The value in the largest unit of which it is at least 1 when rounded; units from large to small."""
    size = abs(value) or 1.0  # nothing is nothing of the plain unit
    scale, unit = next((pair for pair in scales if size >= 0.9995 * pair[0]), scales[-1])
    amount = value / scale
    digits = 0 if abs(amount) >= 99.95 or round(amount, 1).is_integer() else 1
    return f"{amount:,.{digits}f} {unit}"


def human_bytes(num_bytes: float) -> str:
    """Bytes in decimal units: `512 B`, `2.7 MB`."""
    return _scaled(num_bytes, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")])


def human_count(count: float) -> str:
    """A count: exact up to 99,999, then `412 k`, `4.1 M`, `1.3 B`."""
    if abs(count) < 1e5:
        return f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"
    return _scaled(count, [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")])


def human_seconds(seconds: float) -> str:
    """A length of time: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 14 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_joules(joules: float) -> str:
    """An energy: `40 mJ`, `12 J`, `3.4 kJ`, `1.2 MJ`."""
    return _scaled(joules, [(1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1, "J"), (1e-3, "mJ")])


def human_grams(grams: float) -> str:
    """A mass: `12 mg`, `3.4 g`, `1.2 kg`, `2 t`."""
    return _scaled(grams, [(1e6, "t"), (1e3, "kg"), (1, "g"), (1e-3, "mg")])
