"""What the numbers say, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from preceptor.evaluate.memorisation import Recitation

_STILL_FALLING = 0.01
_LARGE_GAP = 0.25


def on_fit(curve: Sequence[Mapping[str, Any]]) -> str:
    """Whether a training curve shows under- or overfitting, with the figures that say so."""
    checks = [(point["step"], point["validation_loss"]) for point in curve if "validation_loss" in point]
    if len(checks) < 2:
        return "There are too few validation points to tell under- from overfitting."
    best_step, best = min(checks, key=lambda check: check[1])
    (_, before), (last_step, last) = checks[-2:]
    tail = [point["loss"] for point in curve[-max(1, len(curve) // 10) :]]
    train = sum(tail) / len(tail)
    figures = f"training loss {train:.3f}, validation loss {last:.3f}"
    if last > best * (1 + _STILL_FALLING) and best_step != last_step:
        return (
            f"Overfitting: validation was best at step {best_step} ({best:.3f}) and has risen to {last:.3f} since. "
            "Train for fewer steps, add data, or add dropout."
        )
    if last - train > _LARGE_GAP * train:
        return f"Leaning to overfitting: {figures}; more data or dropout would narrow the gap."
    if before - last > _STILL_FALLING * last:
        return f"Underfitting: {figures}, still falling at the end; train longer or use a larger model."
    return f"Well fitted: {figures}, level at the end."


def on_memorisation(train: Recitation | None, validation: Recitation | None) -> str:
    """Whether training documents are recited more than documents that were never seen."""
    if train is None or validation is None:
        return "The documents are too short for the memorisation check."
    figures = (
        f"{100 * train.exact.value:.1f}% of {train.exact.count} training documents and "
        f"{100 * validation.exact.value:.1f}% of {validation.exact.count} unseen ones are continued word for word"
    )
    if train.exact.low > validation.exact.high:
        return f"Memorisation shows: {figures}."
    return f"No sign of memorisation beyond what unseen text shows: {figures}."
