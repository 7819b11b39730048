"""A comparison of runs as text and as a plot."""

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from preceptor.core.drafts import write_file
from preceptor.core.units import human_count, human_grams, human_joules, human_seconds
from preceptor.recipes.compare import Comparison, RunFolder, Scalar
from preceptor.recipes.curves import as_png, as_svg, smoothed, thinned
from preceptor.recipes.look import INK, PALETTE, STYLE

Places = NDArray[np.float64]
_LONGEST = 40
_HUMAN = {
    "seconds": human_seconds,
    "joules": human_joules,
    "grams_co2e": human_grams,
    "tokens": human_count,
    "parameters": human_count,
    "tokens_per_second": "{:,.0f}".format,
}
_TITLES = {"pretrain": "pre-training", "finetune": "fine-tuning"}
_AXES = (
    ("steps", "steps"),
    ("tokens", "tokens learned from"),
    ("seconds", "seconds of training"),
    ("joules", "joules, loading included"),
)


def as_text(comparison: Comparison) -> str:
    """The settings that differ and the results, a column for each run."""
    names = [run.name for run in comparison.runs]
    differing, results = comparison.differing, comparison.results
    rows: list[list[str]] = [["settings that differ", *names]]
    rows += [[path, *map(_setting, values)] for path, values in differing.items()] or [["none"]]
    parts = itertools.groupby(results.items(), key=lambda item: item[0].partition(".")[0])
    for part, items in parts:
        rows += [[], [part, *names]]
        rows += [[path.partition(".")[2], *(_result(path, value) for value in values)] for path, values in items]
    if not results:
        rows += [[], ["no results yet"]]
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(1 + len(names))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def _setting(value: Scalar) -> str:
    if value is None:
        return "–"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _result(path: str, value: Scalar) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    human = _HUMAN.get(path.rpartition(".")[2])
    if human is not None:
        return human(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def stage_of(comparison: Comparison) -> str | None:
    """The stage whose losses tell the runs apart, which is fine-tuning where all share their base.

    None where no run has trained.
    """
    runs = comparison.runs
    with_steps = {stage for run in runs for stage, steps in run.steps.items() if steps}
    same_base = len({run.keys.get("pretrain") for run in runs}) == 1
    wanted = ("finetune", "pretrain") if same_base else ("pretrain", "finetune")
    return next((stage for stage in wanted if stage in with_steps), None)


def draw(comparison: Comparison, stage: str, path: Path) -> None:
    """Write a picture of the losses of a stage over steps, tokens, seconds and joules.

    Raises:
        OutputError: it cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7.2), layout="constrained")
        axes = figure.subplots(2, 2, sharey=True)
        for number, run in enumerate(comparison.runs):
            steps = run.steps.get(stage, [])
            if steps:
                _draw_run(axes.flat, steps, run, PALETTE[number % len(PALETTE)])
        for (_, title), one in zip(_AXES, axes.flat, strict=True):
            one.set(xlabel=title, xlim=(0, None))
            one.xaxis.set_major_formatter(EngFormatter())
            one.grid(alpha=0.25, linewidth=0.6)
            one.patch.set_alpha(0)
            if not one.lines:
                one.text(0.5, 0.5, "not measured", transform=one.transAxes, ha="center", color=INK)
        for one in axes[:, 0]:
            one.set_ylabel("loss, nats per token")
        figure.suptitle(f"Loss in {_TITLES[stage]}; dots are validations", x=0.01, ha="left", fontsize=11)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=min(4, len(labels)))
    with warnings.catch_warnings():
        # The name of a folder may have signs that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        write_file(path, as_svg(figure) if path.suffix.lower() == ".svg" else as_png(figure))


def _draw_run(axes: Iterable[Axes], steps: Sequence[Mapping[str, Any]], run: RunFolder, colour: str) -> None:
    losses = np.array([float(step["loss"]) for step in steps])
    means = np.array(smoothed(losses.tolist()))
    some = thinned(len(steps))
    checks = [index for index, step in enumerate(steps) if "validation_loss" in step]
    places = places_of(steps)
    label = run.name.replace("$", r"\$")
    for (name, _), one in zip(_AXES, axes, strict=True):
        where = places[name]
        if where is None:
            continue
        one.plot(where[some], losses[some], color=colour, linewidth=0.6, alpha=0.25)
        one.plot(where[some], means[some], color=colour, linewidth=1.6, label=label)
        validations = [steps[index]["validation_loss"] for index in checks]
        one.plot(where[checks], validations, color=colour, marker="o", markersize=4.5, linestyle="none")


def places_of(steps: Sequence[Mapping[str, Any]]) -> dict[str, Places | None]:
    """Where each step stands on each axis; None where that was not measured."""
    seconds = np.cumsum([step.get("seconds", np.nan) for step in steps])
    return {
        "steps": np.array([step["step"] for step in steps], np.float64),
        "tokens": np.array([step["tokens"] for step in steps], np.float64),
        "seconds": seconds if np.isfinite(seconds).all() else None,
        "joules": _joules(steps, seconds),
    }


def _joules(steps: Sequence[Mapping[str, Any]], seconds: Places) -> Places | None:
    """The joules at each step: as read, which is now and then, and in between as if power had been the same."""
    read = np.array([step.get("joules", np.nan) for step in steps], np.float64)
    known = np.flatnonzero(np.isfinite(read) & (np.diff(read, prepend=np.nan) != 0))
    if len(known) < 2 or not np.isfinite(seconds).all():
        return None
    first, last = known[0], known[-1]
    power = (read[last] - read[first]) / max(seconds[last] - seconds[first], 1e-9)
    joules: Places = np.interp(seconds, seconds[known], read[known])
    joules[:first] = np.nan
    joules[last:] = read[last] + power * (seconds[last:] - seconds[last])
    return joules
