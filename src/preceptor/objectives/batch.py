"""What an objective hands to a model, what it gets back, and the order in which samples come."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from preceptor.core.dealing import even_part
from preceptor.core.seeds import KeyedPermutation, derive
from preceptor.data.mixture import Mixture
from preceptor.nn.inputs import Inputs
from preceptor.objectives.warmup import RowLengths, StepSizes


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything a model needs for one forward pass, and what it should say.

    ``labels_BT[b, t]`` is what should be said at ``inputs.tokens_BT[b, t]`` (the next token, the masked one, the class
    of the document that the place speaks for, ...), or ``IGNORED``. Positions restart with every document, and tokens
    see only their own segment.
    """

    inputs: Inputs
    labels_BT: Tensor
    targets: Tensor | None = None
    """What cannot be said by a number a place: for each supervised place, in reading order, a row of numbers."""

    @property
    def tokens_BT(self) -> Tensor:
        """The tokens that are read."""
        return self.inputs.tokens_BT


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss as a sum in nats with its count of supervised tokens, never a mean, so that sums of sums stay right."""

    total: Tensor
    correct: Tensor
    tokens: int


class Objective(Protocol):
    """Data, attention pattern and loss of one way to train."""

    num_rows: int

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order.

        ``samples`` are the numbers of these rows among all that the run draws; what is random about a row follows from
        its number. Left out, it follows from the row, so that it is the same each time.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch, ready for ``backward``."""
        ...


@dataclass(frozen=True, slots=True)
class Blend:
    """Sources of rows that are blended: the mixture, and for each source its first row and how many it has."""

    mixture: Mixture
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of every step: a function of (seed, step), so that resuming needs nothing but the step.

    Each epoch visits every row once, in an order of its own; where sources are blended, each has epochs of its own. A
    step may straddle two epochs, and the first steps may be smaller, or of shorter rows, than the others.
    """

    objective: Objective
    seed: int
    rows_per_step: int
    rows_per_microbatch: int
    blend: Blend | None = None
    noise: Callable[[Batch, int, int], Batch] | None = None
    """Changes a micro-batch, given the step and the place of its first row in the step."""
    growth: StepSizes | None = None
    """How many rows each step has, where they are not all alike."""
    row_lengths: RowLengths | None = None
    """How long the pieces are into which the rows of each step are cut."""
    scales_rate: bool = False
    """Whether a step of fewer rows learns at a lower rate."""

    @property
    def sizes(self) -> StepSizes:
        """How many rows each step has."""
        return self.growth or StepSizes(self.rows_per_step)

    def rows(self, step: int) -> list[int]:
        """The rows of a step in order."""
        orders: dict[tuple[int, ...], KeyedPermutation] = {}
        rows = []
        first_sample = self.sizes.first(step)
        for sample in range(first_sample, first_sample + self.sizes.rows(step)):
            first, count, epoch, place = self._place(sample)
            if epoch not in orders:
                orders[epoch] = self._order(count, epoch)
            rows.append(first + orders[epoch](place))
        return rows

    def _place(self, sample: int) -> tuple[int, int, tuple[int, ...], int]:
        """First row and number of rows of the source of a sample, its epoch as a name, and the place in the epoch."""
        if self.blend is None:
            epoch, place = divmod(sample, self.objective.num_rows)
            return 0, self.objective.num_rows, (epoch,), place
        source, drawn = self.blend.mixture.at(sample)
        first, count = self.blend.ranges[source]
        epoch, place = divmod(drawn, count)
        return first, count, (epoch, source), place

    def _order(self, count: int, epoch: tuple[int, ...]) -> KeyedPermutation:
        return KeyedPermutation(count, derive(self.seed, "order", *epoch))

    def steps_of(self, row: int, num_steps: int) -> list[int]:
        """The steps before ``num_steps`` whose batch holds a row, in increasing order; found without drawing them."""
        num_samples = self.sizes.first(num_steps)
        steps = []
        epoch = 0
        while (sample := self._sample_of(row, epoch)) is not None and sample[0] < num_samples:
            if sample[1] < num_samples:
                steps.append(self.sizes.step_of(sample[1]))
            epoch += 1
        # Inside a block of the mixture a later epoch of a small source may come first.
        return sorted(steps)

    def _sample_of(self, row: int, epoch: int) -> tuple[int, int] | None:
        """A sample before which no row of the epoch stands, and the one that holds the row; None if none ever does."""
        if self.blend is None:
            first = epoch * self.objective.num_rows
            return first, first + self._order(self.objective.num_rows, (epoch,)).inverse(row)
        for source, (start, count) in enumerate(self.blend.ranges):
            if start <= row < start + count:
                place = self._order(count, (epoch, source)).inverse(row - start)
                try:
                    mixture = self.blend.mixture
                    return mixture.earliest(source, epoch * count), mixture.place_of(source, epoch * count + place)
                except IndexError:
                    return None
        raise IndexError(f"there is no row {row}")

    def at(self, step: int, share: tuple[int, int] = (0, 1)) -> list[Batch]:
        """The micro-batches of a step; or of one share of its rows, of so many.

        Every share has as many micro-batches.

        Raises:
            ValueError: there are fewer rows than shares.
        """
        rows, first = self.rows(step), self.sizes.first(step)
        batches = [
            self._microbatch(rows[start:end], step, start, first + start)
            for start, end in microbatches_of(len(rows), self.rows_per_microbatch, share)
        ]
        if self.row_lengths is None:
            return batches
        return [cut(batch, self.row_lengths.at(step)) for batch in batches]

    def _microbatch(self, rows: list[int], step: int, place: int, sample: int) -> Batch:
        """Some rows of a step, which begin at a place in it and are drawn from that sample on."""
        batch = self.objective.collate(rows, range(sample, sample + len(rows)))
        return batch if self.noise is None else self.noise(batch, step, place)

    def rate_scale(self, step: int) -> float:
        """What the learning rate of a step is multiplied by for its size."""
        return math.sqrt(self.sizes.rows(step) / self.sizes.full) if self.scales_rate else 1.0

    def epochs(self, steps: int) -> float:
        """How many times the data is seen in that many steps; with blended sources, on the average."""
        return self.sizes.first(steps) / self.objective.num_rows


def microbatches_of(num_rows: int, most: int, share: tuple[int, int] = (0, 1)) -> list[tuple[int, int]]:
    """First row and one past the last of each micro-batch of at most so many rows, in one of several shares.

    Every share has as many micro-batches. Where shares are not alike, it may take one row more to make that so.

    Raises:
        ValueError: there are fewer rows than shares.
    """
    number, shares = share
    if num_rows < shares:
        raise ValueError(f"a step of {num_rows} rows cannot be dealt to {shares} processes")
    if shares == 1:
        return [(start, min(start + most, num_rows)) for start in range(0, num_rows, most)]
    start, mine = even_part(num_rows, shares, number)
    largest = even_part(num_rows, shares, 0)[1]
    count = min(math.ceil(largest / most), num_rows // shares)
    parts = (even_part(mine, count, each) for each in range(count))
    return [(start + first, start + first + length) for first, length in parts]


def cut(batch: Batch, length: int) -> Batch:
    """The batch whose rows are the pieces of so many tokens of its rows, in order; what is said stays as it was.

    Positions are kept, so that every one of them is trained, and a piece sees nothing of the others.
    """
    if batch.tokens_BT.shape[1] == length:
        return batch
    tokens_BT, places_BT, segments_BT, *others = batch.inputs
    # Whatever else a model reads (a prefix, a memory, a source) belongs to the row as a whole.
    assert not any(each is not None for each in others)
    cut_inputs = Inputs(
        tokens_BT.reshape(-1, length),
        None if places_BT is None else places_BT.reshape(-1, length),
        None if segments_BT is None else segments_BT.reshape(-1, length),
    )
    return replace(batch, inputs=cut_inputs, labels_BT=batch.labels_BT.reshape(-1, length))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device; its inputs are those of one text, without another before or behind."""
    assert batch.inputs.before is None and batch.inputs.source is None
    named = batch.inputs._asdict()
    inputs = Inputs(**{name: each.to(device) for name, each in named.items() if each is not None})
    targets = None if batch.targets is None else batch.targets.to(device)
    return Batch(inputs, batch.labels_BT.to(device), targets)


def to_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor of 64-bit integers."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
