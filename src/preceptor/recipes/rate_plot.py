"""A learning-rate range test as a plot, as JSON, and as settings to write into a recipe."""

import io
import json
from pathlib import Path
from typing import TypedDict

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from preceptor.core.drafts import write_file
from preceptor.recipes.look import ACCENT, GRID, INK, SECOND, STYLE
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.rate_finder import RangeTest

NAME = "find-rate"
_TABLES = {"pretrain": "pretraining", "finetune": "finetuning"}
_ROOM = 0.12


class Suggestions(TypedDict):
    """The rates that a range test suggests, and how to set the first of them."""

    stage: str
    optimizer: str
    steepest: float
    minimum: float
    tenth_of_minimum: float
    settings: list[str]
    warnings: list[str]


def suggestions(found: RangeTest, config: OptimizerConfig, stage: str, *, has_teacher: bool = False) -> Suggestions:
    """What a range test suggests for a stage that is trained with this optimizer, and with a teacher or without."""
    path = f"{_TABLES[stage]}.optimizer"
    settings = [f"{path}.learning_rate={found.steepest:.2g}"]
    if config.kind == "muon":
        follows = found.steepest * config.adamw_learning_rate / config.learning_rate
        settings.append(f"{path}.adamw_learning_rate={follows:.2g}")
    warnings = []
    if not found.fell:
        warnings.append("the loss never fell, so that these rates mean nothing; start lower with --from")
    elif found.still_falling:
        warnings.append("the loss still fell at the last rate; raise --to, for the best rate may lie beyond")
    if has_teacher:
        warnings.append("the teacher was left out, so that the loss is that of the answers alone")
    return {
        "stage": stage,
        "optimizer": config.kind,
        "steepest": found.steepest,
        "minimum": found.minimum,
        "tenth_of_minimum": found.tenth,
        "settings": settings,
        "warnings": warnings,
    }


def write(found: RangeTest, said: Suggestions, folder: Path) -> list[Path]:
    """The files that now hold a range test: a PNG, an SVG, and a JSON object with every rate and loss.

    Raises:
        OutputError: they cannot be written.
    """
    table = {
        **said,
        "stopped": found.stopped,
        "rates": found.rates,
        "losses": found.losses,
        "smoothed": found.smoothed,
    }
    contents: dict[str, str | bytes] = {kind: _drawn(found, said, kind) for kind in ("png", "svg")}
    contents["json"] = json.dumps(table, indent=1) + "\n"
    paths = []
    for kind, content in contents.items():
        paths.append(folder / f"{NAME}.{kind}")
        write_file(paths[-1], content)
    return paths


def _drawn(found: RangeTest, said: Suggestions, kind: str) -> bytes:
    """The loss against the rate as a picture, with the suggestions marked."""
    low, high = min(found.losses), found.smoothed[0]
    room = max(high - low, 1e-3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.plot(found.rates, found.losses, color=GRID, linewidth=0.7, alpha=0.8, label="loss of each step")
        axes.plot(found.rates, found.smoothed, color=ACCENT, linewidth=1.8, label="running mean")
        # A loss that explodes would press the part that matters flat.
        axes.set_ylim(low - _ROOM * room, high + max(0.6 * room, _ROOM))
        for rate, name, colour, style in (
            (said["steepest"], "steepest", SECOND, "-"),
            (said["tenth_of_minimum"], "a tenth of the minimum", INK, "--"),
            (said["minimum"], "minimum", GRID, ":"),
        ):
            if found.rates[0] <= rate <= found.rates[-1]:
                axes.axvline(rate, color=colour, linestyle=style, linewidth=1.1, label=f"{name}: {rate:.2g}")
        place = found.rates.index(said["steepest"])
        axes.plot([found.rates[place]], [found.smoothed[place]], "o", color=SECOND, markersize=6, zorder=5)
        axes.set_xlim(found.rates[0], found.rates[-1])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, nats per token")
        axes.grid(axis="y", color=GRID, alpha=0.25, linewidth=0.6)
        what = "pre-training" if said["stage"] == "pretrain" else "fine-tuning"
        axes.set_title(f"Learning-rate range test: {what} with {said['optimizer']}", loc="left", fontsize=10)
        axes.legend(loc="lower left")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
