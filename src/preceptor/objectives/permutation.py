"""Prediction of spans in a drawn order, each token from its context and from the targets before it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from preceptor.core.seeds import numpy_generator
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum, to_tensor
from preceptor.objectives.causal import CausalObjective, language_model_loss
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.packing import PADDING_SEGMENT
from preceptor.tokenizer.stream import TokenStream

CONTEXT = 0
"""The place in the order of every token that is not predicted; targets have the places from 1 on."""


class PermutationObjective:
    """Spans of each document are predicted in an order that is drawn anew for every visit; the rest is their context.

    A document is walked through in windows of ``context_factor`` times a span's length, and one span of each window is
    a target, so one token in ``context_factor`` is predicted. Context tokens see each other; the targets of a document
    are predicted in an order in which every permutation of them is as likely.

    Source: Yang et al. 2019, XLNet, eq. 5 (partial prediction) and section 3.1 (spans of one to five tokens, K = 6).
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        end_of_text_id: int,
        *,
        config: ObjectiveConfig | None = None,
        seed: int = 0,
        context_factor: int = 6,
        max_span_tokens: int = 5,
        by_source: bool = False,
    ) -> None:
        if context_factor < 2:
            raise ValueError(f"context_factor must be at least 2, got {context_factor}")
        if max_span_tokens < 1:
            raise ValueError(f"max_span_tokens must be at least 1, got {max_span_tokens}")
        self.packed = CausalObjective(stream, context_length, end_of_text_id, by_source=by_source)
        self.plan, self.num_rows = self.packed.plan, self.packed.num_rows
        self.config = config
        self.seed = seed
        self.context_factor = context_factor
        self.max_span_tokens = max_span_tokens

    def source_ranges(self) -> tuple[tuple[int, int], ...]:
        """For each source of the stream its first row and how many rows it has, where they are packed by source."""
        return self.packed.source_ranges()

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order, with targets and orders that follow from seed and sample.

        The tokens stay as they are: who predicts a token does not see it, by the order. Where no samples are given a
        row is the same each time.
        """
        batch = self.packed.collate(rows)
        # The labels of next-token prediction are the tokens of the documents, each in its own place.
        numbered = zip(rows, rows if samples is None else samples, strict=True)
        order_BT = to_tensor(np.stack([self._order(row, sample) for row, sample in numbered]))
        tokens_BT = batch.labels_BT.masked_fill(batch.labels_BT == IGNORED, self.packed.end_of_text_id)
        labels_BT = tokens_BT.masked_fill(order_BT == CONTEXT, IGNORED)
        inputs = batch.inputs._replace(tokens_BT=tokens_BT, order_BT=order_BT, before=self._before(rows))
        return Batch(inputs, labels_BT)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of the targets of a batch."""
        return language_model_loss(model, batch, self.config)

    def _before(self, rows: Sequence[int]) -> Inputs | None:
        """What stands in the text before the first piece of each row, on the right; None where no row has anything.

        A row's memory is read anew each time, so that it follows from the row alone, whatever came before in training.
        """
        most = self.config.memory_tokens if self.config else 0
        stream = self.packed.stream
        starts = [int(self.plan.starts[self.plan.row(row)[0]]) for row in rows]
        begins = [int(stream.offsets[np.searchsorted(stream.offsets, start, "right") - 1]) for start in starts]
        lengths = [min(most, start - begin) for start, begin in zip(starts, begins, strict=True)]
        if not any(lengths):
            return None
        shape = (len(rows), max(lengths))
        tokens, segments = np.full(shape, self.packed.end_of_text_id), np.full(shape, PADDING_SEGMENT)
        for line, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            if length:
                tokens[line, -length:] = stream.tokens[start - length : start]
                segments[line, -length:] = 0
        return Inputs(to_tensor(tokens), segments_BT=to_tensor(segments))

    def _order(self, row: int, sample: int) -> NDArray[np.int64]:
        """The place of each token of a row in the order of its document."""
        generator = numpy_generator(self.seed, "permutation", sample)
        plan = self.packed.plan
        order = np.full(plan.row_length, CONTEXT, np.int64)
        lengths = plan.lengths[plan.row(row)].tolist()
        starts = np.cumsum([0, *lengths]).tolist()
        targets = [start + self._targets(length, generator) for start, length in zip(starts, lengths, strict=False)]
        if not any(map(len, targets)):
            # Short documents may go without a target, but a row with none would be read for nothing.
            targets = [generator.integers(0, starts[-1], 1)]
        for places in targets:
            order[places] = CONTEXT + 1 + generator.permutation(len(places))
        return order

    def _targets(self, length: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """The places of a document's targets, in increasing order."""
        spans: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        window = 0
        while window < length:
            size = int(generator.integers(1, self.max_span_tokens, endpoint=True))
            start = window + int(generator.integers(0, (self.context_factor - 1) * size, endpoint=True))
            spans.append(np.arange(start, start + size))
            window += self.context_factor * size
        places = np.concatenate(spans)
        return places[places < length]
