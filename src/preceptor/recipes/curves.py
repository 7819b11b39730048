"""How training went, drawn: loss and validation loss over the steps, learning rate and gradient norm below."""

import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from preceptor.core.artifact import Artifact
from preceptor.core.drafts import write_file
from preceptor.core.errors import OutputError
from preceptor.core.progress import say
from preceptor.recipes.look import ACCENT, SECOND, STYLE
from preceptor.train.validation_config import MEASURE

PLOTS_FOLDER = "plots"
_NAMES = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}
_SMOOTHED_FROM = 60
"""With so many points or more a line shows where they go, and the points stand behind it."""
_MOST_SHOWN = 2000
"""More points than a plot has room for only make its file large."""
_SETS_NAMED = 8
"""The legend has room for so many validation sets."""


def keep_curves(out: Path, stage: str, artifact: Artifact) -> str:
    """The curves of what a training stage made, as SVG; plots/ of the run's folder then holds them as SVG and PNG.

    What is there already is not drawn again. That a disk is full is told, and costs the plots alone.
    """
    folder = out / PLOTS_FOLDER
    svg, png = folder / f"{stage}.svg", folder / f"{stage}.png"
    mark = f"{stage} {artifact.id}"
    if svg.is_file() and png.is_file() and mark in (text := svg.read_text(encoding="utf-8")):
        return _inline(text)
    curve = json.loads(artifact.file("curve.json").read_text(encoding="utf-8"))
    figure = draw_curves(curve, _NAMES[stage])
    text = as_svg(figure, mark)
    try:
        write_file(png, as_png(figure))
        write_file(svg, text)
    except OutputError as error:
        say(f"warning: {error}")
    return _inline(text)


def draw_curves(curve: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A figure of the steps of a training stage."""
    steps = [point["step"] for point in curve]
    checks = [(point["step"], point["validation_loss"]) for point in curve if "validation_loss" in point]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(1.9, 1))
        loss, rate, norm = (figure.add_subplot(place) for place in (grid[0, :], grid[1, 0], grid[1, 1]))
        _draw_smoothed(loss, steps, [point["loss"] for point in curve], "training")
        if checks:
            loss.plot(*zip(*checks, strict=True), color=SECOND, marker="o", markersize=4, label="validation")
            last = checks[-1][1]
            loss.annotate(f"{last:.3f}", checks[-1], (6, 0), textcoords="offset points", va="center", color=SECOND)
        _draw_sets(loss, curve)
        loss.set_title(f"{title}: loss, nats per token", loc="left", fontsize=11)
        loss.legend()
        some = [curve[index] for index in thinned(len(curve))]
        rate.plot(
            [point["step"] for point in some], [point["learning_rate"] for point in some], color=ACCENT, linewidth=1.5
        )
        rate.set_title("learning rate", loc="left")
        _draw_smoothed(norm, steps, [point["grad_norm"] for point in curve], "")
        norm.set_title("gradient norm", loc="left")
        for axes in (rate, norm):
            axes.set_ylim(bottom=0)
        for axes in (loss, rate, norm):
            axes.set_xlabel("step")
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.patch.set_alpha(0)
    return figure


def _draw_sets(axes: Axes, curve: Sequence[Mapping[str, Any]]) -> None:
    """A thin line for the loss on each named set, the first of them with a colour and a name."""
    names = dict.fromkeys(name for point in curve for name in point if name.startswith(MEASURE))
    for number, name in enumerate(names):
        points = [(point["step"], point[name]) for point in curve if name in point]
        # A label that begins so would be left out of the legend.
        is_named = number < _SETS_NAMED
        label = name.removeprefix(MEASURE).lstrip("_") if is_named else ""
        # The first two colours are like those of the main lines.
        color = f"C{number + 2}" if is_named else "0.6"
        axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=0.8, marker=".", markersize=3)


def _draw_smoothed(axes: Axes, steps: Sequence[int], values: Sequence[float], label: str) -> None:
    """A line through the values; where there are many, their running mean, and the values themselves pale behind it."""
    if len(values) < _SMOOTHED_FROM:
        axes.plot(steps, values, color=ACCENT, linewidth=1.4, label=label)
        return
    shown = thinned(len(values))
    means = smoothed(values)
    places = [steps[index] for index in shown]
    axes.plot(places, [values[index] for index in shown], color=ACCENT, linewidth=0.7, alpha=0.3)
    axes.plot(places, [means[index] for index in shown], color=ACCENT, linewidth=1.6, label=label)


def thinned(count: int) -> list[int]:
    """The numbers of the points that are drawn of so many, the last among them."""
    every = -(-count // _MOST_SHOWN)
    return sorted({*range(0, count, every), count - 1}) if count else []


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean around each value, with weights that halve over less than a hundredth of all values to either side.

    It runs neither ahead nor behind. What is not finite counts for nothing.
    """
    keep = 1 - 1 / max(1.0, len(values) / 100)
    before = _decayed(values, keep)
    behind = _decayed(values[::-1], keep)[::-1]
    means = []
    for value, (total, weight), (other, other_weight) in zip(values, before, behind, strict=True):
        # The value itself is in both.
        if math.isfinite(value):
            other, other_weight = other - value, other_weight - 1
        means.append((total + other) / (weight + other_weight) if weight + other_weight > 0 else math.nan)
    return means


def _decayed(values: Sequence[float], keep: float) -> list[tuple[float, float]]:
    """For each value the sum of all up to it, the older the less, and the sum of their weights."""
    total, weight, sums = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total, keep * weight
        if math.isfinite(value):
            total, weight = total + value, weight + 1
        sums.append((total, weight))
    return sums


def as_svg(figure: Figure, mark: str = "") -> str:
    """A figure as SVG on no background, for pages of any colour; ``mark`` is noted in it."""
    buffer = io.StringIO()
    with _drawing():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Description": mark})
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    """A figure as PNG, on white."""
    buffer = io.BytesIO()
    with _drawing():
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


@contextmanager
def _drawing() -> Iterator[None]:
    """Our style; a name may have signs that the font lacks, which a PNG shows as boxes and an SVG holds as text."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _inline(text: str) -> str:
    """An SVG file as it stands inside a page."""
    return text[text.index("<svg") :]
