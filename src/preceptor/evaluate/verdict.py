"""What the numbers say, in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from preceptor.evaluate.judged import Judged
from preceptor.evaluate.memorisation import Recitation, recitation_gap
from preceptor.evaluate.metrics import Score

_STILL_FALLING = 0.01
_RISEN = 0.01
_LARGE_GAP = 0.25
_FEW = 30
_TWO_DIGITS, _THREE_DIGITS = 10, 100


def on_fit(curve: Sequence[Mapping[str, Any]], gap: Score | None = None) -> str:
    """Whether a training curve shows under- or overfitting, with the figures that say so.

    The gap, as ``loss_gap`` measures it on the finished model, is better evidence than the curve, where the training
    loss is that of a model still changing.
    """
    checks = [
        (int(point["step"]), float(point["validation_loss"]))
        for point in curve
        if math.isfinite(point.get("validation_loss", math.nan))
    ]
    tail = [float(point["loss"]) for point in curve[-max(1, len(curve) // 10) :] if math.isfinite(point["loss"])]
    if len(checks) < 2 or not tail:
        return "There are too few validation points to tell under- from overfitting."
    best_step, best = min(checks, key=lambda check: check[1])
    (before_step, before), (last_step, last) = checks[-2:]
    train = sum(tail) / len(tail) if gap is None else last - gap.value
    figures = f"training loss {train:.3f}, validation loss {last:.3f}"
    if last > best * (1 + _RISEN) and best_step != last_step:
        return (
            f"Overfitting: validation was best at step {best_step} ({best:.3f}) and has risen to {last:.3f} since. "
            "Train for fewer steps, add data, or add dropout."
        )
    if last - train > _LARGE_GAP * train and (gap is None or gap.low > 0):
        return f"Leaning to overfitting: {figures}; more data or dropout would narrow the gap."
    if before - last > _STILL_FALLING * last:
        return (
            f"Underfitting: {figures}, still falling at the end (by {before - last:.3f} from step {before_step} to "
            f"{last_step}); train longer or use a larger model."
        )
    return f"Well fitted: {figures}, level at the end."


def on_gap(gap: Score) -> str:
    """Whether unseen documents cost more than those trained on, in words."""
    figures = f"{gap.value:+.3f} nats for a token (95%: {gap.low:+.3f} to {gap.high:+.3f})"
    if gap.low > 0:
        return f"The model knows what it was trained on better than what it never saw: {figures}."
    return f"No gap shows between documents trained on and unseen ones: {figures}."


def on_memorisation(train: Recitation | None, validation: Recitation | None, seed: int = 0) -> str:
    """Whether training documents are recited more than documents that were never seen."""
    if train is None or validation is None:
        return "The documents are too short for the memorisation check."
    figures = (
        f"{100 * train.exact.value:.1f}% of {train.exact.count} training documents and "
        f"{100 * validation.exact.value:.1f}% of {validation.exact.count} unseen ones are continued word for word, and "
        f"{train.matching_tokens.value:.1f} and {validation.matching_tokens.value:.1f} tokens are right on average "
        "before the first that differs"
    )
    gaps = recitation_gap(train, validation, seed)
    if gaps["exact"].low > 0 or gaps["matching_tokens"].low > 0:
        return f"Memorisation shows: {figures}."
    return f"No sign of memorisation beyond what unseen text shows: {figures}."


def on_judged(judged: Judged) -> str:
    """A score beside its best baseline, and whether the examples show that it is better."""
    score, best = judged.score, judged.best_baseline
    said = f"{judged.name} {_plainly(score)}"
    few = f"; there are only {score.count} examples" if score.count < _FEW else ""
    if best is None:
        return f"{said}{few}."
    name, baseline = best
    if judged.is_better:
        return f"{said}, {'above' if score.higher_is_better else 'below'} {name} ({_plainly(baseline)}){few}."
    if judged.is_worse:
        return f"{said}, worse than {name} ({_plainly(baseline)}){few}."
    return f"{said}, not shown to be better than {name} ({_plainly(baseline)}){few}."


def _plainly(score: Score) -> str:
    """A value with half the width of its interval, in as many digits as it is sure of."""
    half = (score.high - score.low) / 2
    least = 0 if abs(score.value) >= _THREE_DIGITS else 1 if abs(score.value) >= _TWO_DIGITS else 2
    digits = min(4, max(least, -math.floor(math.log10(half)))) if half > 0 else least
    return f"{score.value:.{digits}f}" + (f" ± {half:.{digits}f}" if half > 0 else "")
