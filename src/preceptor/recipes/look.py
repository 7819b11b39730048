"""How plots look."""

from pathlib import Path
from typing import Any

from preceptor.core.errors import ConfigError

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4b5563")
"""Colours that people who are blind to some can tell apart. Source: Okabe and Ito 2008; their black is our ink."""
ACCENT, SECOND, *_, INK = PALETTE
GRID = "#9ca3af"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "preceptor",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
SUFFIXES = (".png", ".svg")


def check_suffix(path: Path) -> None:
    """Refuse a file that is neither PNG nor SVG.

    Raises:
        ConfigError: it is not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path} ends in {path.suffix or 'nothing'!r}, and plots are written as PNG or SVG",
            remedy=f"name a file such as {path.with_suffix('.png').name} or {path.with_suffix('.svg').name}",
        )
