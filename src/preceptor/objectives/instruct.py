"""Question and answer examples with loss on the answers only."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from preceptor.core.errors import DataError
from preceptor.data.example_types import Conversation
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.causal import language_model_loss
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.tokenizer.chat import encode_example
from preceptor.tokenizer.tokenizer import Tokenizer


class InstructObjective:
    """Each example is a document of its own; the answer and the end of text that closes it are supervised.

    Examples that do not fit into the context are left out and counted in ``num_too_long``.

    Raises:
        DataError: no example fits, so nothing would be learned.
    """

    def __init__(self, examples: Sequence[Conversation], tokenizer: Tokenizer, context_length: int) -> None:
        tokens: list[int] = []
        supervised: list[bool] = []
        offsets = [0]
        self.num_too_long = 0
        for example in examples:
            ids, mask = encode_example(tokenizer, example.question, example.answer)
            # The first id is the end of text that precedes every document, so it is nobody's label.
            if len(ids) - 1 > context_length:
                self.num_too_long += 1
                continue
            tokens += ids[1:]
            supervised += mask[1:]
            offsets.append(len(tokens))
        if not any(supervised):
            raise DataError(
                f"none of the {len(examples)} examples leaves an answer to learn from in {context_length} tokens",
                remedy="raise finetuning.context_length, or shorten the questions and answers",
            )
        self.end_of_text_id = tokenizer.end_of_text_id
        self.tokens = np.array(tokens, np.uint32)
        self.supervised = np.array(supervised, np.bool_)
        self.num_examples = len(offsets) - 1
        self.num_supervised_tokens = int(self.supervised.sum())
        self.plan = plan_rows(np.array(offsets, np.int64), context_length)
        self.num_rows = self.plan.num_rows

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order."""
        return collate_rows(self.plan, rows, self.tokens, self.end_of_text_id, self.supervised)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss over the answers of a batch."""
        return language_model_loss(model, batch)
