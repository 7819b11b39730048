"""How many rows a step has and how long they are while a run warms up: closed forms of the step, without torch."""

from bisect import bisect_right
from dataclasses import dataclass
from math import gcd


def floor_sum(count: int, slope: int, divisor: int) -> int:
    """The sum of ``slope * i // divisor`` over i from 0 to count - 1, in as many rounds as Euclid's algorithm takes.

    It counts the whole points under a line. Where the line is steep, the part under it that is a multiple of the
    divisor is an arithmetic series; what is left is counted along the other axis.
    """
    total, offset = 0, 0
    while count > 0:
        total += count * (count - 1) // 2 * (slope // divisor) + count * (offset // divisor)
        slope, offset = slope % divisor, offset % divisor
        height = slope * count + offset
        count, offset = height // divisor, height % divisor
        slope, divisor = divisor, slope
        if not divisor:
            break
    return total


@dataclass(frozen=True, slots=True)
class StepSizes:
    """How many rows each step has: ``full``, but fewer in the first ``steps``."""

    full: int
    start: int = 0
    """Rows of the first step."""
    steps: int = 0
    kind: str = "linear"

    @property
    def is_constant(self) -> bool:
        """Whether all steps are alike."""
        return self.steps == 0 or self.start >= self.full

    def rows(self, step: int) -> int:
        """The rows of a step."""
        if self.is_constant or step >= self.steps:
            return self.full
        if self.kind == "doubling":
            return min(self.full, self.start << step * self._doublings // self.steps)
        return self.start + self._unit * ((self.full - self.start) // self._unit * step // self.steps)

    def first(self, step: int) -> int:
        """The rows of all steps before a step, which is the number of its first sample."""
        if self.is_constant:
            return step * self.full
        inside = min(step, self.steps)
        beyond = (step - inside) * self.full
        if self.kind == "doubling":
            # A stage begins at the first step at which the doublings so far are a whole number.
            edges = [min(inside, -(-stage * self.steps // self._doublings)) for stage in range(self._doublings + 1)]
            return beyond + sum(
                min(self.full, self.start << stage) * (edges[stage + 1] - edges[stage])
                for stage in range(self._doublings)
            )
        rises = floor_sum(inside, (self.full - self.start) // self._unit, self.steps)
        return beyond + inside * self.start + self._unit * rises

    def step_of(self, sample: int) -> int:
        """The step that holds a sample."""
        if self.is_constant:
            return sample // self.full
        if sample >= (warm := self.first(self.steps)):
            return self.steps + (sample - warm) // self.full
        return bisect_right(range(self.steps), sample, key=self.first) - 1

    def steps_for(self, rows: int) -> int:
        """The number of steps, at least 1, whose rows together come nearest to so many."""
        fewer = self.step_of(rows)
        return max(1, fewer + (self.first(fewer + 1) - rows < rows - self.first(fewer)))

    @property
    def _unit(self) -> int:
        # Where both ends are whole micro-batches, so is everything in between.
        return gcd(self.full, self.start)

    @property
    def _doublings(self) -> int:
        """How often the first step's rows are doubled until they are enough."""
        return (-(-self.full // self.start) - 1).bit_length()


@dataclass(frozen=True, slots=True)
class RowLengths:
    """How long the rows of each step are: ``full``, but shorter in the first ``steps``."""

    full: int
    start: int
    steps: int

    def at(self, step: int) -> int:
        """The length of the rows of a step, of which those of the full length are a multiple."""
        if step >= self.steps:
            return self.full
        return self.full >> self._halvings - step * self._halvings // self.steps

    @property
    def _halvings(self) -> int:
        length, halvings = self.full, 0
        while length % 2 == 0 and length // 2 >= self.start:
            length, halvings = length // 2, halvings + 1
        return halvings
