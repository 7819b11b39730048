"""What an objective hands to a model, what it gets back, and the order in which samples come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from preceptor.core.seeds import KeyedPermutation, derive


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything a model needs for one forward pass; all of shape B T.

    ``labels_BT[b, t]`` is what should follow ``tokens_BT[b, t]``, or ``IGNORED``. Positions restart with every
    document, and tokens see only their own segment.
    """

    tokens_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss as a sum in nats with its count of supervised tokens, never a mean, so that sums of sums stay right."""

    total: Tensor
    correct: Tensor
    tokens: int


class Objective(Protocol):
    """Data, attention pattern and loss of one way to train."""

    num_rows: int

    def collate(self, rows: Sequence[int]) -> Batch:
        """The batch that holds these rows, in this order."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch, ready for ``backward``."""
        ...


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of every step: a function of (seed, step), so that resuming needs nothing but the step.

    Each epoch visits every row once, in an order of its own. A step may straddle two epochs.
    """

    objective: Objective
    seed: int
    rows_per_step: int
    rows_per_microbatch: int

    def rows(self, step: int) -> list[int]:
        """The rows of a step in order."""
        num_rows = self.objective.num_rows
        samples = range(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        orders: dict[int, KeyedPermutation] = {}
        rows = []
        for sample in samples:
            epoch, place = divmod(sample, num_rows)
            if epoch not in orders:
                orders[epoch] = KeyedPermutation(num_rows, derive(self.seed, "order", epoch))
            rows.append(orders[epoch](place))
        return rows

    def at(self, step: int) -> list[Batch]:
        """The micro-batches of a step."""
        rows, size = self.rows(step), self.rows_per_microbatch
        return [self.objective.collate(rows[start : start + size]) for start in range(0, len(rows), size)]

    def epochs(self, steps: int) -> float:
        """How many times the data is seen in that many steps."""
        return steps * self.rows_per_step / self.objective.num_rows


def to_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor of 64-bit integers."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
