"""Next-token prediction on packed, isolated documents."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.tokenizer.stream import TokenStream


class CausalObjective:
    """Every token of every document, its end of text included, is predicted once an epoch from those before it.

    With ``by_source`` the documents of each source are packed into rows of their own, so that sources can be blended.
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        end_of_text_id: int,
        config: ObjectiveConfig | None = None,
        *,
        by_source: bool = False,
    ) -> None:
        self.stream, self.config = stream, config
        self.end_of_text_id = end_of_text_id
        self.plan = plan_rows(stream.offsets, context_length, stream.sources if by_source else None)
        self.num_rows = self.plan.num_rows

    def source_ranges(self) -> tuple[tuple[int, int], ...]:
        """For each source of the stream its first row and how many rows it has, where they are packed by source."""
        first_pieces = self.plan.pieces[self.plan.row_offsets[:-1]]
        documents = np.searchsorted(self.stream.offsets, self.plan.starts[first_pieces], "right") - 1
        counts = np.bincount(self.stream.sources[documents], minlength=len(self.stream.collections))
        firsts = np.cumsum(counts) - counts
        return tuple(zip(firsts.tolist(), counts.tolist(), strict=True))

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order."""
        return collate_rows(self.plan, rows, self.stream.tokens, self.end_of_text_id)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed next-token loss of a batch."""
        return language_model_loss(model, batch, self.config)


def language_model_loss(model: nn.Module, batch: Batch, config: ObjectiveConfig | None = None) -> LossSum:
    """The summed loss of a language model over the supervised labels of a batch."""
    config = config or ObjectiveConfig()
    return LossSum(
        *model.loss_sum(  # type: ignore[operator]
            batch.inputs, batch.labels_BT, label_smoothing=config.label_smoothing, z_loss=config.z_loss
        )
    )
