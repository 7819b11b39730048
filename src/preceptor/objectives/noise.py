"""Noise on what a model reads while it trains; what it is to predict stays as it was."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.core.seeds import numpy_generator
from preceptor.objectives.batch import Batch
from preceptor.objectives.noise_config import InputNoiseConfig


@dataclass(frozen=True, slots=True)
class InputNoise:
    """The noise of one run: a function of the seed, the step and the row, whatever the micro-batches."""

    config: InputNoiseConfig
    seed: int
    vocab_size: int
    blank_id: int

    def __call__(self, batch: Batch, step: int, first_row: int) -> Batch:
        """The batch with noise on its inputs; labels, positions and segments are untouched."""
        rows = [self._row(row, step, first_row + place) for place, row in enumerate(batch.tokens_BT.numpy())]
        return replace(batch, inputs=batch.inputs._replace(tokens_BT=torch.from_numpy(np.stack(rows))))

    def _row(self, tokens: NDArray[np.int64], step: int, row: int) -> NDArray[np.int64]:
        draw = numpy_generator(self.seed, "input-noise", step, row)
        # The ids of a trained prompt are no words: they stay.
        chance = np.where(tokens < self.vocab_size, draw.random(tokens.shape), 1.0)
        others = draw.integers(0, self.vocab_size, tokens.shape)
        is_dropped = chance < self.config.dropout
        is_replaced = ~is_dropped & (chance < self.config.dropout + self.config.replacement)
        return np.where(is_dropped, self.blank_id, np.where(is_replaced, others, tokens))
