"""What a classifier confuses with what, and how well it tells each class, drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from preceptor.recipes.look import ACCENT, INK, SECOND, STYLE

MOST_CLASSES = 30
"""The rarest of more classes are drawn as one."""
_LONGEST_NAME = 22
_ZEROS_SHOWN = 10
"""With more classes, empty cells are left blank, so that the others stand out."""
_WHITE_FROM = 0.55
_THOUSANDS = 10_000


def draw_confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """A confusion matrix: a row for each true class, a column for what was said, dark where much of the row is.

    ``names`` and ``counts`` are those of ``ClassificationScores``, or of its facts.
    """
    names, table = merged(names, counts)
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    size = len(names)
    side = 0.62 if size <= _ZEROS_SHOWN else 0.36
    width = size * side + 1.6 + 0.06 * max(map(len, _short(names)))
    with _style():
        figure = Figure(figsize=(max(3.6, width + 0.5), max(3.0, width)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        _write_counts(axes, table, shares)
        small = 9 if size <= _ZEROS_SHOWN else 7
        axes.set_xticks(range(size), _short(names), rotation=90 if size > 3 else 0, fontsize=small)
        axes.set_yticks(range(size), _short(names), fontsize=small)
        axes.set_xlabel("said")
        axes.set_ylabel("true class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
    return figure


def _write_counts(axes: Axes, table: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    """The number in each cell, light on dark cells and dark on light ones: cells keep their colour on any page."""
    size = len(table)
    for row, column in np.ndindex(*table.shape):
        count = int(table[row, column])
        if count or size <= _ZEROS_SHOWN:
            colour = "white" if shares[row, column] > _WHITE_FROM else "#1f2937"
            text = str(count) if count < _THOUSANDS else f"{count / 1000:.0f}k"
            fontsize = 9 if size <= _ZEROS_SHOWN else 6
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=fontsize)


def merged(
    names: Sequence[str], counts: Sequence[Sequence[int]], most: int = MOST_CLASSES
) -> tuple[list[str], NDArray[np.int64]]:
    """At most so many classes in their order: of more, the rarest are put together and stand last."""
    table = np.asarray(counts, np.int64)
    if len(names) <= most:
        return list(names), table
    by_size = np.argsort(-(table.sum(axis=1) + table.sum(axis=0)), kind="stable")
    kept = np.sort(by_size[: most - 1])
    group = np.full(len(names), most - 1)
    group[kept] = np.arange(most - 1)
    together = np.zeros((most, most), np.int64)
    np.add.at(together, (group[:, None], group[None, :]), table)
    return [*(names[place] for place in kept), f"({len(names) - most + 1} others)"], together


def draw_class_scores(per_class: Mapping[str, Mapping[str, Any]]) -> Figure:
    """F1 of each class as a bar with its interval, precision and recall as marks; the commonest class first.

    ``per_class`` is that of the facts of ``ClassificationScores``.
    """
    order = sorted(per_class, key=lambda name: -per_class[name]["support"])[:MOST_CLASSES]
    places = range(len(order))
    values = [per_class[name]["f1"]["value"] for name in order]
    with _style():
        figure = Figure(figsize=(7, 1.3 + 0.28 * len(order)), layout="constrained")
        axes = figure.add_subplot()
        low = [max(0.0, value - per_class[name]["f1"]["low"]) for name, value in zip(order, values, strict=True)]
        high = [max(0.0, per_class[name]["f1"]["high"] - value) for name, value in zip(order, values, strict=True)]
        axes.barh(places, values, color=ACCENT, alpha=0.75, height=0.7, label="F1")
        axes.errorbar(values, places, xerr=(low, high), fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        for part, mark, colour in (("precision", "o", SECOND), ("recall", "D", INK)):
            found = [per_class[name][part]["value"] for name in order]
            axes.plot(found, places, mark, color=colour, markersize=5, markeredgecolor="white", label=part)
        labels = [f"{name} ({per_class[full]['support']})" for name, full in zip(_short(order), order, strict=True)]
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.set_title("F1 of each class, and of how many examples", loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.grid(axis="x", alpha=0.25, linewidth=0.6)
        axes.patch.set_alpha(0)
    return figure


def _style() -> Any:
    # A class may have a dollar sign in its name, which is not mathematics.
    return matplotlib.rc_context({**STYLE, "text.parse_math": False})


def _short(names: Sequence[str]) -> list[str]:
    """Names that leave room for the picture."""
    flat = [" ".join(name.split()) for name in names]
    return [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in flat]
