"""How plots look."""

from typing import Any

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
