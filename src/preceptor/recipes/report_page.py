"""The report as a page: plots as inline SVG, everything in one file, nothing fetched."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from preceptor.core.units import human_bytes, human_count, human_grams, human_joules, human_seconds
from preceptor.recipes.curves import as_svg
from preceptor.recipes.look import ACCENT, INK, STYLE
from preceptor.recipes.report import template_text
from preceptor.recipes.task_plots import draw_class_scores, draw_confusion


def render(report: Mapping[str, Any], run: Mapping[str, Any], curves: Mapping[str, str]) -> str:
    """The page of a report, with the curves of each training stage as SVG."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "seconds": human_seconds,
        "joules": human_joules,
        "grams": human_grams,
        "count": human_count,
        "bytes": human_bytes,
    }
    plots = {
        "pretraining": curves.get("pretrain", ""),
        "finetuning": curves.get("finetune", ""),
        "drops": _bars(report["data"]["drops_by_rule"], "documents dropped") if report["data"] else "",
        "task": task_pictures(report["evaluation"].get("task")),
        "energy": _bars(
            {stage: cost["joules"] for stage, cost in report["footprint"]["stages"].items()}, "energy in joules"
        ),
        "rulers": _bars(_bits(report["evaluation"]), "bits per byte (less is better)"),
    }
    return environment.from_string(template_text()).render(
        report=report, run=run, run_json=json.dumps(run, indent=2), plots=plots
    )


def _bits(evaluation: Mapping[str, Any]) -> dict[str, float]:
    if "language_model" not in evaluation:
        return {}
    rulers = evaluation["rulers"]
    return {
        "this model": evaluation["language_model"]["bits_per_byte"]["value"],
        "n-gram": rulers["ngram"]["bits_per_byte"],
        "xz -9e": rulers["xz"]["bits_per_byte"],
    }


def task_pictures(task: Mapping[str, Any] | None) -> str:
    """What a classifier confuses with what, and how well it tells each class; nothing for other tasks."""
    if task is None:
        return ""
    details, drawn = task["details"], []
    if details.get("confusion"):
        drawn.append(draw_confusion(details["confusion"]["names"], details["confusion"]["counts"]))
    if details.get("per_class"):
        drawn.append(draw_class_scores(details["per_class"]))
    return "".join(text[text.index("<svg") :] for text in map(as_svg, drawn))


def _svg(draw: Callable[[Sequence[Axes]], None], columns: int, height: float) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        for one in axes:
            one.patch.set_alpha(0)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _bars(values: Mapping[str, float], title: str) -> str:
    """Horizontal bars, the first on top, each with its value."""
    if not values:
        return ""

    def draw(axes: Sequence[Axes]) -> None:
        names = list(values)[::-1]
        bars = axes[0].barh(names, [values[name] for name in names], color=ACCENT, height=0.6)
        axes[0].bar_label(bars, fmt="{:,.4g}", padding=3, color=INK)
        axes[0].set(title=title)
        axes[0].margins(x=0.18)

    return _svg(draw, 1, 0.7 + 0.3 * len(values))
