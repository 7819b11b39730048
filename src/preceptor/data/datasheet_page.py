"""The datasheet as a page: one file, nothing fetched, no script; histograms are drawn as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from preceptor.core.units import human_bytes, human_count
from preceptor.data.histograms import LINEAR_BINS, Scale, bins_of
from preceptor.data.visible import visible

_MAX_BARS = 64
_WIDTH, _HEIGHT = 320.0, 90.0


def render(sheet: Mapping[str, Any]) -> str:
    """The page of a datasheet."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "count": human_count,
        "bytes": human_bytes,
        "number": _number,
        "plain": visible,
        "percent": _percent,
        "words": _words,
    }
    environment.tests["table"] = lambda value: isinstance(value, Mapping)
    environment.tests["rows"] = _is_rows
    environment.tests["matrix"] = lambda value: isinstance(value, Mapping) and _is_rows([*value.values()])
    charts = [_chart(name, measure, sheet["outliers"].get(name)) for name, measure in sheet["measures"].items()]
    drawn = [
        _Charted(name, chart, sheet["measures"][name]) for name, chart in zip(sheet["measures"], charts, strict=True)
    ]
    return environment.from_string(_template()).render(sheet=sheet, charts=drawn)


@cache
def _template() -> str:
    return resources.files("preceptor.data").joinpath("datasheet.html.jinja").read_text(encoding="utf-8")


def _words(name: str) -> str:
    """A name of the code as words for people."""
    return name.replace("_", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 or share == 0 else "<0.1%"


def _number(value: object) -> str:
    """A number in few characters, anything else as it is."""
    if isinstance(value, bool) or value is None:
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) >= 1000:
            return human_count(round(value))
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_rows(value: object) -> bool:
    """Whether a value is a list of tables with the same names, which makes a table."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return False
    return all(isinstance(row, Mapping) and row and list(row) == list(value[0]) for row in value)


@dataclass(frozen=True, slots=True)
class _Bar:
    x: float
    width: float
    kept: float
    """Height in the drawing."""
    dropped: float
    says: str


@dataclass(frozen=True, slots=True)
class _Chart:
    bars: list[_Bar]
    ticks: list[tuple[float, str]]
    limits: list[float]


@dataclass(frozen=True, slots=True)
class _Charted:
    name: str
    chart: _Chart
    measure: Mapping[str, Any]


def _chart(name: str, measure: Mapping[str, Any], limits: Sequence[float | None] | None) -> _Chart:
    """A histogram to draw: at most 64 bars, each for one bin or several neighbours."""
    scale: Scale = measure["scale"]
    counts: dict[int, list[int]] = {}
    edges: dict[int, tuple[float, float]] = {}
    for side, place in (("kept", 0), ("dropped", 1)):
        for low, high, count in measure[side]["bins"]:
            number = _place(low, scale)
            counts.setdefault(number, [0, 0])[place] += count
            edges[number] = low, high
    if not counts:
        return _Chart([], [], [])
    first, last = min(counts), max(counts)
    step = -(-(last - first + 1) // _MAX_BARS)
    gathered: dict[int, list[int]] = {}
    for number in sorted(counts):
        gathered.setdefault((number - first) // step, []).append(number)
    num_bars = (last - first) // step + 1
    width = _WIDTH / num_bars
    most = max(sum(sum(counts[number]) for number in members) for members in gathered.values())
    bars = []
    for place, members in gathered.items():
        kept, dropped = (sum(counts[number][side] for number in members) for side in (0, 1))
        low, high = edges[members[0]][0], edges[members[-1]][1]
        says = f"{_number(low)} to {_number(high)}: {kept:,} kept, {dropped:,} dropped"
        bars.append(_Bar(place * width, max(1.0, width - 1), _height(kept, most), _height(dropped, most), says))
    ticks = [(0.0, _number(edges[first][0])), (_WIDTH, _number(edges[last][1]))]
    drawn = []
    for limit in limits or ():
        if limit is not None and math.isfinite(limit):
            x = (_place(limit, scale) - first) / step * width
            if 0 <= x <= _WIDTH:
                drawn.append(x)
    return _Chart(bars, ticks, drawn)


def _height(count: int, most: int) -> float:
    """The height of a bar; what is there at all is seen."""
    return max(1.0, _HEIGHT * count / most) if count else 0.0


def _place(low: float, scale: Scale) -> int:
    """The number of the bin that begins at a value."""
    if scale == "linear":
        return round(low * LINEAR_BINS)
    return int(bins_of(np.array([low]), scale)[0])
