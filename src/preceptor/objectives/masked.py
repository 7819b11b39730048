"""Hidden tokens, predicted from all others of their document."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from preceptor.core.seeds import numpy_generator
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum, to_tensor
from preceptor.objectives.causal import CausalObjective, language_model_loss
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer

_BECOMES_MASK, _BECOMES_RANDOM = 0.8, 0.1
_SPAN_LENGTHS = np.arange(1, 11)
_SPAN_CHANCES = 0.8**_SPAN_LENGTHS / (0.8**_SPAN_LENGTHS).sum()


class MaskedObjective:
    """A share of the tokens is hidden and predicted: most stand as the mask, some as any other token, some as they are.

    Special tokens are never hidden. What is hidden follows from the seed and the number of the sample, so that it is
    another each time a row comes, or from the row alone.

    Source: Devlin et al. 2019, section 3.1, for the share and the 80, 10 and 10 in a hundred; Liu et al. 2019, RoBERTa,
    section 4.1, for masks that change; Joshi et al. 2020, SpanBERT, section 3.1, for spans.
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        tokenizer: Tokenizer,
        config: ObjectiveConfig,
        seed: int = 0,
        *,
        by_source: bool = False,
    ) -> None:
        self.packed = CausalObjective(stream, context_length, tokenizer.end_of_text_id, by_source=by_source)
        self.plan, self.num_rows = self.packed.plan, self.packed.num_rows
        self.config, self.seed = config, seed
        self.mask_id = tokenizer.mask_id
        special = [tokenizer.special_id(token) for token in tokenizer.special_tokens]
        self._is_special = np.zeros(tokenizer.vocab_size, np.bool_)
        self._is_special[special] = True
        self._ordinary = np.flatnonzero(~self._is_special)
        is_by_word = config.unit == "word"
        edges = [tokenizer.word_edges(token) for token in range(tokenizer.vocab_size if is_by_word else 0)]
        self._starts_word, self._ends_word = np.array(edges, np.bool_).reshape(-1, 2).T

    def source_ranges(self) -> tuple[tuple[int, int], ...]:
        """For each source of the stream its first row and how many rows it has, where they are packed by source."""
        return self.packed.source_ranges()

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order, with tokens hidden."""
        batch = self.packed.collate(rows)
        # The labels of next-token prediction are the tokens of the documents, each in its own place.
        labels = batch.labels_BT.numpy()
        tokens, hidden = np.where(labels == IGNORED, self.packed.end_of_text_id, labels), np.full_like(labels, IGNORED)
        assert batch.inputs.segments_BT is not None
        segments = batch.inputs.segments_BT.numpy()
        for line, number in enumerate(rows if samples is None or not self.config.dynamic else samples):
            draw = numpy_generator(self.seed, "masked", number)
            may = (labels[line] != IGNORED) & ~self._is_special[tokens[line]]
            chosen = self._chosen(tokens[line], segments[line], may, draw)
            hidden[line, chosen] = tokens[line, chosen]
            tokens[line, chosen] = self._shown(tokens[line, chosen], draw)
        return Batch(batch.inputs._replace(tokens_BT=to_tensor(tokens)), to_tensor(hidden))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of the hidden tokens of a batch."""
        return language_model_loss(model, batch, self.config)

    def _chosen(
        self, tokens: NDArray[np.int64], segments: NDArray[np.int64], may: NDArray[np.bool_], draw: np.random.Generator
    ) -> NDArray[np.int64]:
        """The places of a row that are hidden, in increasing order."""
        places = np.flatnonzero(may)
        wanted = max(1, round(self.config.share * len(places))) if len(places) else 0
        if self.config.unit == "token" or not wanted:
            return np.sort(draw.choice(places, wanted, replace=False))
        if self.config.unit == "word":
            return self._whole_words(tokens, segments, may, wanted, draw)
        return _spans(places, segments, wanted, draw)

    def _whole_words(
        self,
        tokens: NDArray[np.int64],
        segments: NDArray[np.int64],
        may: NDArray[np.bool_],
        wanted: int,
        draw: np.random.Generator,
    ) -> NDArray[np.int64]:
        """The places of words drawn one by one until they are as many as wanted; of one word at least.

        The last word that is drawn mostly makes them too many. It is taken by as much chance as it takes for their
        number to be right on the average.
        """
        begins = self._starts_word[tokens] | ~may
        begins[1:] |= self._ends_word[tokens[:-1]] | (segments[1:] != segments[:-1]) | ~may[:-1]
        begins[0] = True
        word = np.cumsum(begins) - 1
        lengths = np.bincount(word[may], minlength=int(word[-1]) + 1)
        order = draw.permutation(np.flatnonzero(lengths))
        together = np.cumsum(lengths[order])
        count = int(np.searchsorted(together, wanted, "right"))
        lacking = wanted - (together[count - 1] if count else 0)
        if count == 0 or (count < len(order) and draw.random() * lengths[order[count]] < lacking):
            count += 1
        return np.flatnonzero(may & np.isin(word, order[:count]))

    def _shown(self, hidden: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        """What stands in the place of hidden tokens."""
        chance = draw.random(len(hidden))
        others = draw.choice(self._ordinary, len(hidden))
        is_random = (chance >= _BECOMES_MASK) & (chance < _BECOMES_MASK + _BECOMES_RANDOM)
        return np.where(chance < _BECOMES_MASK, self.mask_id, np.where(is_random, others, hidden))


def _spans(
    places: NDArray[np.int64], segments: NDArray[np.int64], wanted: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Places of spans with lengths of a geometric distribution that ends, which are 3.8 tokens long on the average.

    They are drawn until there are enough; none crosses a document or a gap.
    """
    chosen: set[int] = set()
    allowed = set(places.tolist())
    while len(chosen) < wanted:
        length = min(int(draw.choice(_SPAN_LENGTHS, p=_SPAN_CHANCES)), wanted - len(chosen))
        first = int(draw.choice(places))
        span = [place for place in range(first, first + length) if place in allowed]
        if len(span) == length and segments[first] == segments[span[-1]]:
            chosen.update(span)
    return np.array(sorted(chosen), np.int64)
