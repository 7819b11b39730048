"""Conversations with loss on the assistant's answers only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from preceptor.core.errors import DataError
from preceptor.data.example_types import Conversation
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.causal import language_model_loss
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.tokenizer.chat import encode_conversation
from preceptor.tokenizer.tokenizer import Tokenizer

_MAX_DROPPED_SHARE = 0.05


class InstructObjective:
    """Each conversation is a document of its own; the answers and the token that closes each are supervised.

    Those that do not fit into the context are left out and counted in ``num_too_long``. In front of every document
    stand ``prefix_ids``, which are never to be predicted.

    Raises:
        DataError: no example fits, so nothing would be learned; or more than 5 % of them do not.
    """

    def __init__(
        self,
        examples: Sequence[Conversation],
        tokenizer: Tokenizer,
        context_length: int,
        *,
        prefix_ids: Sequence[int] = (),
    ) -> None:
        tokens: list[int] = []
        supervised: list[bool] = []
        offsets = [0]
        too_long = []
        lengths = []
        for example in examples:
            ids, mask = _encoded(tokenizer, example)
            # The first token of a document is only read, so that it takes no place.
            lengths.append(len(prefix_ids) + len(ids) - 1)
            if lengths[-1] > context_length:
                too_long.append(example)
                continue
            tokens += [*prefix_ids, *ids]
            supervised += [False] * len(prefix_ids) + mask
            offsets.append(len(tokens))
        if not any(supervised):
            raise DataError(
                f"none of the {len(examples)} examples leaves an answer to learn from in {context_length} tokens",
                remedy="raise finetuning.context_length, or shorten the questions and answers",
            )
        if len(too_long) > _MAX_DROPPED_SHARE * len(examples):
            _refuse(too_long, lengths, context_length)
        self.num_too_long = len(too_long)
        self.end_of_text_id = tokenizer.end_of_text_id
        self.tokens = np.array(tokens, np.uint32)
        self.supervised = np.array(supervised, np.bool_)
        self.num_examples = len(offsets) - 1
        self.num_supervised_tokens = int(self.supervised.sum())
        self._offsets = np.array(offsets, np.int64)
        firsts = np.arange(self.num_examples + 1)
        plan = plan_rows(self._offsets - firsts, context_length)
        # The labels of a document are all of its tokens but the first.
        self.plan = replace(plan, starts=plan.starts + firsts[1:])
        self.num_rows = self.plan.num_rows

    def document(self, number: int) -> tuple[list[int], list[bool]]:
        """The ids of a document as the model reads it, and which of them are supervised."""
        here = slice(int(self._offsets[number]), int(self._offsets[number + 1]))
        return self.tokens[here].tolist(), self.supervised[here].tolist()

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order."""
        return collate_rows(self.plan, rows, self.tokens, self.end_of_text_id, self.supervised)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss over the answers of a batch."""
        return language_model_loss(model, batch)


def _encoded(tokenizer: Tokenizer, example: Conversation) -> tuple[list[int], list[bool]]:
    try:
        return encode_conversation(tokenizer, example.messages)
    except DataError as error:
        if not example.place:
            raise
        raise DataError(f"{example.place}: {error.message}", remedy=error.remedy) from error


def _refuse(too_long: Sequence[Conversation], lengths: Sequence[int], context_length: int) -> None:
    longest = max(lengths)
    enough = sorted(lengths)[-int(_MAX_DROPPED_SHARE * len(lengths)) - 1]
    where = f", the first at {too_long[0].place}" if too_long[0].place else ""
    other = f", or to {enough:,} where the longest may be left out" if enough < longest else ""
    raise DataError(
        f"{len(too_long):,} of {len(lengths):,} examples do not fit into {context_length:,} tokens{where}; the longest "
        f"has {longest:,}",
        remedy=f"raise finetuning.context_length to {longest:,}{other}",
    )
