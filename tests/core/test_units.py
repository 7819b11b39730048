"""Durations and texts for people."""

import math

import pytest

from preceptor.core.errors import ConfigError
from preceptor.core.units import (
    Duration,
    human_bytes,
    human_count,
    human_grams,
    human_joules,
    human_seconds,
)


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("160 steps", "steps", 160),
        ("1 step", "steps", 1),
        ("2e6 tokens", "tokens", 2e6),
        ("1_000_000 tokens", "tokens", 1e6),
        ("0.5 epochs", "epochs", 0.5),
        ("  90seconds ", "seconds", 90),
    ],
)
def test_parse(text: str, kind: str, amount: float) -> None:
    duration = Duration.parse(text)
    assert (duration.kind, duration.amount) == (kind, amount)
    assert Duration.parse(str(duration)) == duration


def test_text() -> None:
    assert [str(Duration(kind, n)) for kind, n in (("steps", 160.0), ("epochs", 1), ("tokens", 2e6))] == [
        "160 steps",
        "1 epoch",
        "2000000 tokens",
    ]


@pytest.mark.parametrize(
    "text", ["", "160", "steps", "0 steps", "-1 steps", "160 stps", "1e999 steps", "nan steps", "1 2 steps"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration; expected a number above 0"):
        Duration.parse(text)


def test_a_duration_checks_itself() -> None:
    for amount in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="amount must be above 0"):
            Duration("steps", amount)
    with pytest.raises(ValueError, match="kind must be one of steps, tokens"):
        Duration("years", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("160 steps", 160),
        ("2.6 steps", 3),
        ("0.1 steps", 1),
        ("4096 tokens", 1),
        ("6100 tokens", 1),
        ("6200 tokens", 2),
        ("3 epochs", 8),
        ("0.5 epochs", 1),
    ],
)
def test_num_steps(text: str, steps: int) -> None:
    assert Duration.parse(text).num_steps(step_tokens=4096, step_rows=4, epoch_rows=11) == steps


def test_seconds_are_no_number_of_steps() -> None:
    with pytest.raises(ConfigError, match="9 seconds cannot be told in steps"):
        Duration.parse("9 seconds").num_steps(step_tokens=4096, step_rows=4, epoch_rows=11)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (human_bytes(0), "0 B"),
        (human_bytes(512), "512 B"),
        (human_bytes(2_700_000), "2.7 MB"),
        (human_bytes(999_960), "1 MB"),
        (human_bytes(137.4e9), "137 GB"),
        (human_bytes(-1500), "-1.5 kB"),
        (human_bytes(5e15), "5,000 TB"),
        (human_count(12), "12"),
        (human_count(0.5), "0.5"),
        (human_count(99_999), "99,999"),
        (human_count(412_300), "412 k"),
        (human_count(4_096_000), "4.1 M"),
        (human_count(1.34e9), "1.3 B"),
        (human_seconds(0), "0.0 s"),
        (human_seconds(0.42), "0.4 s"),
        (human_seconds(9.96), "10 s"),
        (human_seconds(59.6), "1 min 00 s"),
        (human_seconds(185), "3 min 05 s"),
        (human_seconds(3599.7), "1 h 00 min"),
        (human_seconds(8040), "2 h 14 min"),
        (human_joules(0), "0 J"),
        (human_joules(0.04), "40 mJ"),
        (human_joules(12), "12 J"),
        (human_joules(3400), "3.4 kJ"),
        (human_joules(1.2e6), "1.2 MJ"),
        (human_grams(0), "0 g"),
        (human_grams(0.012), "12 mg"),
        (human_grams(3.44), "3.4 g"),
        (human_grams(1234), "1.2 kg"),
        (human_grams(2e6), "2 t"),
        (human_grams(0.0004), "0.4 mg"),
    ],
)
def test_texts(found: str, expected: str) -> None:
    assert found == expected
