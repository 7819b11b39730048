"""Sources with their targets, such as texts with translations or summaries, for encoder-decoders."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from preceptor.core.errors import DataError
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.causal import language_model_loss
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.packing import plan_rows
from preceptor.objectives.two_sided import TwoSided
from preceptor.tokenizer.tokenizer import Tokenizer


class PairObjective:
    """Each token of a target from the whole source and the target so far; the end of text closes both.

    ``prefix_ids`` are put in front of every source, such as the ids of a trained prompt. Pairs of which a side does not
    fit into the context are left out and counted in ``num_too_long``.

    Raises:
        DataError: no pair fits, so nothing would be learned.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        tokenizer: Tokenizer,
        context_length: int,
        *,
        start_id: int,
        config: ObjectiveConfig | None = None,
        prefix_ids: Sequence[int] = (),
    ) -> None:
        end = tokenizer.end_of_text_id
        ids = tokenizer.encode_many([text for pair in pairs for text in pair])
        closed = [np.append(each.astype(np.int64), end) for each in ids]
        both = [
            (np.concatenate((np.array(prefix_ids, np.int64), source)), target)
            for source, target in zip(closed[::2], closed[1::2], strict=True)
        ]
        self.pairs = [pair for pair in both if max(map(len, pair)) <= context_length]
        self.num_too_long = len(both) - len(self.pairs)
        if not self.pairs:
            raise DataError(
                f"none of the {len(pairs)} pairs fits into {context_length} tokens a side",
                remedy="raise the context length, or shorten the texts",
            )
        self.num_supervised_tokens = sum(len(target) for _, target in self.pairs)
        self.config = config or ObjectiveConfig()
        # Both sides of a row hold what its pairs need where each pair counts by its longer side.
        widths = [max(map(len, pair)) for pair in self.pairs]
        self.plan = plan_rows(np.cumsum([0, *widths]).astype(np.int64), context_length)
        self.num_rows = self.plan.num_rows
        self.sides = TwoSided(context_length, context_length, start_id, end)

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order."""
        return self.sides.batch([[self.pairs[piece] for piece in self.plan.row(row)] for row in rows])

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of the targets of a batch."""
        return language_model_loss(model, batch, self.config)
