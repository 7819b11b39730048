"""Hidden spans, predicted one after another: span corruption."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from preceptor.core.errors import ConfigError
from preceptor.core.seeds import numpy_generator
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.causal import language_model_loss
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.packing import plan_rows
from preceptor.objectives.two_sided import Pair, TwoSided
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer


class SpanObjective:
    """Spans of a text are replaced by sentinels; the target is each sentinel with its span, and the end of text.

    How many tokens and spans are hidden follows from a text's length alone, so texts can be packed before anything is
    drawn. Which ones follows from the seed and the number of the sample. For a model of one side, source and target
    stand in one row and the source is read both ways.

    Source: Raffel et al. 2020, T5, sections 3.1.4 and 3.3.4.

    Raises:
        ConfigError: the tokenizer has fewer sentinels than a row of text has spans.
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        tokenizer: Tokenizer,
        config: ObjectiveConfig,
        seed: int = 0,
        *,
        start_id: int,
        is_one_sided: bool = False,
    ) -> None:
        self.stream, self.config, self.seed = stream, config, seed
        self.is_one_sided = is_one_sided
        self.sentinels = np.array(tokenizer.sentinel_ids, np.int64)
        self.end_id = tokenizer.end_of_text_id
        longest = self._longest(context_length)
        spans = self._counts(longest)[1]
        if spans > len(self.sentinels):
            raise ConfigError(
                f"the tokenizer has {len(self.sentinels)} tokens for hidden spans; {spans} are needed",
                path="tokenizer.num_sentinels",
                remedy=f"set tokenizer.num_sentinels = {spans}",
            )
        pieces = plan_rows(stream.offsets, longest)
        # A piece of one token has nothing that could be hidden and something to see beside it.
        keep = pieces.lengths > 1
        self._starts, self._lengths = pieces.starts[keep], pieces.lengths[keep]
        sizes = [self._sizes(int(length)) for length in self._lengths]
        first = [sum(size) if is_one_sided else size[0] for size in sizes]
        packed = plan_rows(np.cumsum([0, *first]).astype(np.int64), context_length)
        self.row_fill = packed.fill
        # The same rows, said of the stream.
        self.plan = replace(packed, starts=self._starts, lengths=self._lengths)
        self.num_rows = self.plan.num_rows
        targets = [sum(sizes[piece][1] for piece in self.plan.row(row)) for row in range(self.num_rows)]
        self.sides = TwoSided(context_length, max(targets, default=1), start_id, self.end_id)

    def _counts(self, length: int) -> tuple[int, int]:
        """How many tokens of a text are hidden, in how many spans."""
        hidden = min(max(1, round(length * self.config.share)), length - 1)
        spans = min(max(1, round(hidden / self.config.mean_span_tokens)), hidden, length - hidden)
        return hidden, spans

    def _sizes(self, length: int) -> tuple[int, int]:
        """The lengths of the source and of the target of a text."""
        hidden, spans = self._counts(length)
        return length - hidden + spans, hidden + spans + 1

    def _longest(self, context_length: int) -> int:
        """The length of the longest text that fits into a row."""
        longest = 2
        while self._needs(longest + 1) <= context_length:
            longest += 1
        return longest

    def _needs(self, length: int) -> int:
        return sum(self._sizes(length)) if self.is_one_sided else self._sizes(length)[0]

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order, with spans hidden."""
        numbered = zip(rows, rows if samples is None or not self.config.dynamic else samples, strict=True)
        pairs = [self._pairs(row, numpy_generator(self.seed, "spans", number)) for row, number in numbered]
        return self.sides.prefixed(pairs) if self.is_one_sided else self.sides.batch(pairs)

    def _pairs(self, row: int, draw: np.random.Generator) -> list[Pair]:
        pairs = []
        for piece in self.plan.row(row):
            start = int(self._starts[piece])
            tokens = self.stream.tokens[start : start + int(self._lengths[piece])].astype(np.int64)
            pairs.append(self.hide(tokens, draw))
        return pairs

    def hide(self, tokens: NDArray[np.int64], draw: np.random.Generator) -> Pair:
        """The source and the target of a text, with spans drawn so that every choice of them is as likely."""
        hidden, spans = self._counts(len(tokens))
        # There is something to see between two spans, but there need be nothing before the first or after the last,
        # except the end of a text, which is never hidden.
        closes = int(tokens[-1] == self.end_id)
        gaps, lengths = _parts(len(tokens) - hidden + 2 - closes, spans + 1, draw), _parts(hidden, spans, draw)
        gaps[0] -= 1
        source: list[NDArray[np.int64]] = []
        target: list[NDArray[np.int64]] = []
        place = 0
        for number, (gap, length) in enumerate(zip(gaps, lengths, strict=False)):
            sentinel = self.sentinels[number : number + 1]
            source += [tokens[place : place + gap], sentinel]
            target += [sentinel, tokens[place + gap : place + gap + length]]
            place += gap + length
        return np.concatenate([*source, tokens[place:]]), np.concatenate([*target, [self.end_id]])

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of the targets of a batch."""
        return language_model_loss(model, batch, self.config)


def _parts(total: int, count: int, draw: np.random.Generator) -> list[int]:
    """So many whole numbers of at least one that add up to a total, each way to do so as likely as any other."""
    cuts = np.sort(draw.choice(total - 1, count - 1, replace=False) + 1) if count > 1 else np.empty(0, np.int64)
    return [int(part) for part in np.diff(np.concatenate(([0], cuts, [total])))]
