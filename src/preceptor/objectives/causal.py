"""Next-token prediction on packed, isolated documents."""

from collections.abc import Sequence

from torch import nn

from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.tokenizer.stream import TokenStream


class CausalObjective:
    """Every token of every document, its end of text included, is predicted once an epoch from those before it."""

    def __init__(self, stream: TokenStream, context_length: int, end_of_text_id: int) -> None:
        self.stream = stream
        self.end_of_text_id = end_of_text_id
        self.plan = plan_rows(stream.offsets, context_length)
        self.num_rows = len(self.plan.row_pieces)

    def collate(self, rows: Sequence[int]) -> Batch:
        """The batch that holds these rows, in this order."""
        return collate_rows(self.plan, rows, self.stream.tokens, self.end_of_text_id)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed next-token loss of a batch."""
        return language_model_loss(model, batch)


def language_model_loss(model: nn.Module, batch: Batch) -> LossSum:
    """The summed loss of a language model over the supervised labels of a batch."""
    total, correct, tokens = model.loss_sum(  # type: ignore[operator]
        batch.tokens_BT, batch.labels_BT, batch.positions_BT, batch.segments_BT
    )
    return LossSum(total, correct, tokens)
