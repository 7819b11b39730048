"""How plots look."""

from typing import Any

INK, ACCENT, SECOND, GRID = "#4b5563", "#2563eb", "#d97706", "#9ca3af"
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
