"""Attention maps and norms of a model, drawn."""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from preceptor.core.drafts import write_file
from preceptor.core.errors import ConfigError
from preceptor.evaluate.inspection import AttentionMap, Norms
from preceptor.recipes.look import ACCENT, SECOND, STYLE, check_suffix

_COLUMNS = 4
_POWER = 10.0


def chosen_panels(
    maps: Sequence[AttentionMap], layers: Sequence[int] = (), heads: Sequence[int] = (), *, all_heads: bool = False
) -> list[tuple[AttentionMap, int | None]]:
    """A panel for each attention of the layers (all, when left out) and each head; None is the mean of the heads.

    Raises:
        ConfigError: there is no such layer or head.
    """
    known_layers = sorted({each.layer for each in maps})
    num_heads = maps[0].weights_NTS.shape[0]
    for what, asked, known in (("layer", layers, known_layers), ("head", heads, range(num_heads))):
        if wrong := [number for number in asked if number not in known]:
            raise ConfigError(
                f"the model has no {what} {wrong[0]}",
                remedy=f"choose from {min(known)} to {max(known)}; they count from 0",
            )
    wanted = range(num_heads) if all_heads else heads or (None,)
    return [(each, head) for each in maps if not layers or each.layer in layers for head in wanted]


def draw_attention(panels: Sequence[tuple[AttentionMap, int | None]], path: Path) -> None:
    """Write a picture of the panels: a row for each query, a column for each key, dark where it looks.

    Raises:
        ConfigError: the file's name ends in neither .png nor .svg.
        OutputError: it cannot be written.
    """
    check_suffix(path)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    side = 1.4 + 0.16 * max(max(len(each.queries), len(each.keys)) for each, _ in panels)

    def draw(axes: Sequence[Axes]) -> None:
        for one, (each, head) in zip(axes, panels, strict=False):
            weights_TS = each.weights_NTS.mean(axis=0) if head is None else each.weights_NTS[head]
            one.imshow(weights_TS, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            one.set_xticks(range(len(each.keys)), each.keys, rotation=90, fontsize=7)
            one.set_yticks(range(len(each.queries)), each.queries, fontsize=7)
            one.set_title(f"{each.name}\n{'mean of the heads' if head is None else f'head {head}'}", fontsize=8)
        for one in axes[len(panels) :]:
            one.set_visible(False)

    _write(draw, rows, columns, (max(side, 2.4) * columns, side * rows), path)


def draw_norms(found: Norms, path: Path) -> None:
    """Write a picture of the norms of activations, gradients and weights, part by part.

    Raises:
        ConfigError: the file's name ends in neither .png nor .svg.
        OutputError: it cannot be written.
    """
    check_suffix(path)
    names = [layer.name for layer in found.layers]

    def draw(axes: Sequence[Axes]) -> None:
        for one, kind, colour in zip(axes, ("activation", "gradient", "weight"), (ACCENT, SECOND, ACCENT), strict=True):
            values = [getattr(layer, kind) for layer in found.layers]
            one.plot(range(len(names)), values, color=colour, marker="o", markersize=3, linewidth=1)
            _scale(one, values)
            one.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            one.set_title(f"norm of the {kind}s")

    _write(draw, 1, 3, (3 * max(3.0, 0.8 + 0.2 * len(names)), 4.2), path)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """From 0, or in powers of ten where the values differ by more than one."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > _POWER * min(finite):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif finite:
        axes.set_ylim(0, 1.1 * max(finite) or 1.0)
    # Tokens may hold dollar signs, so no text is read as mathematics, which the labels of powers would be.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _write(
    draw: Callable[[Sequence[Axes]], None], rows: int, columns: int, size: tuple[float, float], path: Path
) -> None:
    kind = path.suffix.lower().removeprefix(".")
    with matplotlib.rc_context({**STYLE, "text.parse_math": False}), warnings.catch_warnings():
        # A token may have signs that the font lacks; they are drawn as boxes, and the SVG holds them as text.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(rows, columns, squeeze=False).ravel().tolist())
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    write_file(path, buffer.getvalue())
