"""How long a run is: so many steps, or as many as fit into a number of seconds or joules."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from preceptor.core.errors import ConfigError
from preceptor.core.units import Duration
from preceptor.parallel.mesh import Mesh
from preceptor.train.run import TrainingConfig
from preceptor.train.state import TrainState

_UNKNOWN_STEPS = 1 << 30
_SECONDS_BETWEEN_READINGS = 2.0


@dataclass(frozen=True, slots=True)
class Length:
    """When training is over, and how many steps that will have taken.

    Seconds and joules are those of the whole run, earlier sessions included; how many steps they hold is estimated
    anew at every step from those behind, and the schedule of the learning rate follows the estimate.
    """

    duration: Duration
    steps: int = 0
    """The number of steps, where the duration tells it."""
    joules: Callable[[], float] = lambda: 0.0
    """The joules of this run so far."""

    @classmethod
    def of_steps(cls, steps: int) -> "Length":
        """The length of so many steps."""
        return cls(Duration("steps", steps), steps)

    def num_steps(self, state: TrainState) -> int:
        """How many steps the whole run takes, as far as is known."""
        if not self.duration.is_budget:
            return self.steps
        used = self._used(state)
        if not state.step or not used:
            return _UNKNOWN_STEPS
        return max(state.step, math.floor(state.step * self.duration.amount / used + 0.5))

    def is_over(self, state: TrainState) -> bool:
        """Whether training ends here; a budget ends where one more step would come less near to it."""
        return state.step >= self.num_steps(state)

    def _used(self, state: TrainState) -> float:
        return state.seconds if self.duration.kind == "seconds" else self.joules()


def joules_of(cost: Mapping[str, Any]) -> float:
    """The joules in the facts of a cost; 0 where none were measured."""
    return float(cost.get("joules", 0.0))


def length_of(config: TrainingConfig, num_steps: int, joules: Callable[[], float]) -> Length:
    """The length that the settings ask for, of which ``num_steps`` is known unless it is a budget.

    Raises:
        ConfigError: it is in joules, and none are measured.
    """
    duration = Duration.parse(config.duration)
    if duration.kind != "joules":
        return Length(duration, num_steps)
    # The first reading also finds out whether energy can be measured at all.
    time.sleep(_SECONDS_BETWEEN_READINGS / 4)
    if not joules():
        raise ConfigError(
            f"duration is {config.duration!r}, but energy is not measured",
            path="duration",
            remedy='give seconds, steps, tokens or epochs, or set footprint.method = "codecarbon"',
        )
    return Length(duration, 0, joules)


def agreed(read: Callable[[], float], mesh: Mesh, state: TrainState) -> Callable[[], float]:
    """A reading that is the first process's for all, taken anew after each step at most: nobody may end before others.

    With one process it is taken anew when the last one is some seconds old, as taking it takes time.
    """
    read = _now_and_then(read)
    if mesh.is_alone:
        return read
    known, taken = 0.0, -1

    def reading() -> float:
        nonlocal known, taken
        if taken != state.step:
            known, taken = mesh.of_first(read() if mesh.is_first else 0.0), state.step
        return known

    return reading


def _now_and_then(read: Callable[[], float]) -> Callable[[], float]:
    """A reading that is taken anew only when the last one is some seconds old, since taking it takes time."""
    known, taken = 0.0, -math.inf

    def reading() -> float:
        nonlocal known, taken
        now = time.monotonic()
        if now - taken >= _SECONDS_BETWEEN_READINGS or not known:
            known, taken = read(), now
        return known

    return reading
