"""The rest of a text, predicted from its beginning, which is read both ways."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from preceptor.core.seeds import numpy_generator
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum, to_tensor
from preceptor.objectives.causal import CausalObjective, language_model_loss
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.two_sided import TwoSided
from preceptor.tokenizer.stream import TokenStream


class PrefixObjective:
    """Each text is split at a drawn place; with ``start_id`` what comes before is the source of an encoder-decoder.

    Source: Dong et al. 2019, UniLM; Raffel et al. 2020, T5, section 3.2.3.
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        end_of_text_id: int,
        config: ObjectiveConfig,
        seed: int = 0,
        *,
        start_id: int | None = None,
    ) -> None:
        self.packed = CausalObjective(stream, context_length, end_of_text_id)
        self.plan, self.num_rows = self.packed.plan, self.packed.num_rows
        self.config, self.seed = config, seed
        is_two_sided = start_id is not None
        self.sides = TwoSided(context_length, context_length, start_id, end_of_text_id) if is_two_sided else None  # type: ignore[arg-type]

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order, each text split."""
        numbered = list(zip(rows, rows if samples is None or not self.config.dynamic else samples, strict=True))
        splits = [self._splits(row, number) for row, number in numbered]
        if self.sides is not None:
            return self.sides.batch(
                [
                    [(text[:split], text[split:]) for text, split in zip(self._texts(row), at, strict=True)]
                    for row, at in zip(rows, splits, strict=True)
                ]
            )
        batch = self.packed.collate(rows)
        prefix, labels = np.zeros(batch.labels_BT.shape, np.bool_), batch.labels_BT.numpy().copy()
        for line, (row, at) in enumerate(zip(rows, splits, strict=True)):
            place = 0
            for piece, split in zip(self.plan.row(row), at, strict=True):
                # A place holds the token before its label, so the last place of the prefix says what comes after it.
                prefix[line, place : place + split] = True
                labels[line, place : place + split - 1] = IGNORED
                place += int(self.plan.lengths[piece])
        return Batch(batch.inputs._replace(prefix_BT=to_tensor(prefix).bool()), to_tensor(labels))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of what follows the prefixes of a batch."""
        return language_model_loss(model, batch, self.config)

    def _splits(self, row: int, number: int) -> list[int]:
        """For each text of a row how many of its places are the prefix: at least one, and all but one at most."""
        draw = numpy_generator(self.seed, "prefix", number)
        lengths = self.plan.lengths[self.plan.row(row)]
        return [int(draw.integers(1, max(2, length))) for length in lengths]

    def _texts(self, row: int) -> list[np.ndarray]:
        found = []
        for piece in self.plan.row(row):
            start = int(self.plan.starts[piece])
            found.append(self.packed.stream.tokens[start : start + int(self.plan.lengths[piece])].astype(np.int64))
        return found
