"""The guard: which steps are kept from the weights, and what is said of gradients that vanish or explode."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Any

from preceptor.train.guard_config import GuardConfig
from preceptor.train.state import TrainState

# Steps differ by more than their recent spread where that happens to be small: no loss counts as a spike that is less
# than a tenth above the mean, no norm that is not two and a half times it, at six deviations.
_LEAST_SPREAD = {"loss": 0.02, "gradient norm": 0.25}
_VANISHING, _EXPLODING, _GROWTH = 1e-4, 1e4, 100.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a step does not reach the weights."""

    kind: str
    measure: str
    value: float
    limit: float | None = None

    def facts(self) -> dict[str, Any]:
        """The fault for a line of JSON, which has no number for what is not finite."""
        return asdict(self) | {"value": self.value if math.isfinite(self.value) else str(self.value)}

    def __str__(self) -> str:
        if self.limit is None:
            return f"the {self.measure} is {self.value}"
        return f"the {self.measure} of {self.value:.4g} is a spike: the recent steps allow {self.limit:.4g}"


class Guard:
    """Judges each step by those before it that reached the weights; what it knows is in the run's state."""

    def __init__(self, config: GuardConfig, state: TrainState) -> None:
        self.config, self.state = config, state

    def fault(self, loss: float, grad_norm: float) -> Fault | None:
        """What is wrong with a step, or None."""
        measured = {"loss": loss, "gradient norm": grad_norm}
        for measure, value in measured.items():
            if not math.isfinite(value):
                return Fault("non-finite", measure, value)
        for measure, known in (("loss", self.state.recent_losses), ("gradient norm", self.state.recent_norms)):
            limit = self._limit(known, _LEAST_SPREAD[measure])
            if limit is not None and measured[measure] > limit:
                return Fault("spike", measure, measured[measure], limit)
        return None

    def _limit(self, known: Sequence[float], least_spread: float) -> float | None:
        if not self.config.spike_deviations or len(known) < self.config.min_steps:
            return None
        mean = fmean(known)
        return mean + self.config.spike_deviations * max(pstdev(known, mean), least_spread * abs(mean))

    def take_in(self, loss: float, grad_norm: float) -> None:
        """Remember a step that reached the weights."""
        for known, value in ((self.state.recent_losses, loss), (self.state.recent_norms, grad_norm)):
            known.append(value)
            del known[: -self.config.window_steps]


def gradient_health(root_mean_squares: Mapping[str, float], norms: Sequence[float]) -> str:
    """In words, whether gradients vanish or explode on their way down through the layers or over time; "" if neither.

    ``root_mean_squares`` are of the gradients of each part, the lowest layer first; ``norms`` those of recent steps.
    The limits are rules of thumb: a factor of 10,000 between layers, of 100 over the recent steps.
    """
    parts = [(name, value) for name, value in root_mean_squares.items() if math.isfinite(value)]
    if len(parts) > 1:
        (low, lowest), (high, highest) = parts[0], parts[-1]
        if highest > 0 and lowest < _VANISHING * highest:
            times = "nothing is left" if lowest == 0 else f"{highest / lowest:,.0f} times smaller"
            return f"gradients vanish on the way down: at {low} {times} of what they are at {high}"
        if highest > 0 and lowest > _EXPLODING * highest:
            return f"gradients explode on the way down: at {low} they are {lowest / highest:,.0f} times those at {high}"
    half = len(norms) // 2
    if half >= 8:
        before, after = fmean(norms[:half]), fmean(norms[half:])
        if before > 0 and after > _GROWTH * before:
            return f"gradients explode over time: their norm is {after / before:,.0f} times what it was"
        if after * _GROWTH < before:
            return f"gradients vanish over time: their norm is a {before / max(after, 1e-300):,.0f}th of what it was"
    return ""
