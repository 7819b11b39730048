"""Documents with labels: classes, numbers, a class for each token, or where an answer stands; packed and isolated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.core.errors import DataError
from preceptor.models.heads import SpeakingPlace
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum, to_tensor
from preceptor.objectives.packing import PADDING_SEGMENT, plan_rows
from preceptor.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LabelledDocument:
    """A document as a model reads it, and what is to be said of it."""

    tokens: Sequence[int]
    labels: Sequence[int]
    """For each token what is to be said there, or ``IGNORED``."""
    token_types: Sequence[int] | None = None
    """For each token of which text of a pair it is."""
    targets: Sequence[float] = ()
    """The numbers to be said at the one place that has a label, where a number of a class is not enough."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How texts are framed for a model: what stands first, between and last, and which of it speaks for the whole."""

    first: int
    between: int
    last: int
    speaks: SpeakingPlace
    is_encoder_decoder: bool = False
    """Whether the text is the source, and one token of a target speaks."""
    prefix_ids: tuple[int, ...] = ()
    """What stands in front of every document, such as the ids of a trained prompt. Where the first token speaks, it is
    the first of these, as in peft."""

    def frame(self, text: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """The tokens of a text, or of a pair of them, and of which text each is."""
        tokens = [*self.prefix_ids, self.first, *text, self.between if second is not None else self.last]
        types = [0] * len(tokens)
        if second is not None:
            tokens += [*second, self.last]
            types += [1] * (len(second) + 1)
        return tokens, types


def framing_of(tokenizer: Tokenizer, config: Any, prefix_ids: Sequence[int] = ()) -> Framing:
    """The framing of a tokenizer for a model of this configuration: [CLS] and [SEP] where it has them.

    ``prefix_ids`` are put in front of every document.
    """
    end = tokenizer.end_of_text_id
    first, separator = (tokenizer.set_id(name, end) for name in ("cls_token", "sep_token"))
    is_pair = config.family == "encoder_decoder"
    speaks: SpeakingPlace = "first" if config.family in ("encoder", "encoder_decoder") else "last"
    return Framing(first, separator, separator, speaks, is_pair, tuple(prefix_ids))


class LabelledObjective:
    """Documents with labels, and what a head of the model says of them.

    Documents that do not fit into the context are left out and counted in ``num_too_long``.

    Raises:
        DataError: none is left, or none says anything.
    """

    def __init__(self, examples: Sequence[LabelledDocument], head: str, context_length: int, framing: Framing) -> None:
        self.kept = [place for place, example in enumerate(examples) if len(example.tokens) <= context_length]
        """The places, among all examples, of those that fit; piece n of the plan is the n-th of them."""
        kept = [examples[place] for place in self.kept]
        self.num_too_long = len(examples) - len(kept)
        if not any(label != IGNORED for example in kept for label in example.labels):
            raise DataError(
                f"none of the {len(examples)} examples leaves a label to learn from in {context_length} tokens",
                remedy="raise the context length, or shorten the texts",
            )
        self.head, self.framing = head, framing
        self.num_examples = len(kept)
        self._tokens = _flat([example.tokens for example in kept])
        self._labels = _flat([example.labels for example in kept])
        self._types = _flat([example.token_types or [0] * len(example.tokens) for example in kept])
        width = max(len(example.targets) for example in kept)
        self._targets = np.array([example.targets for example in kept], np.float32) if width else None
        offsets = np.cumsum([0, *(len(example.tokens) for example in kept)])
        self.plan = plan_rows(offsets.astype(np.int64), context_length)
        self.num_rows = self.plan.num_rows

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order."""
        shape = (len(rows), self.plan.row_length)
        tokens, types = np.full(shape, self.framing.last, np.int64), np.zeros(shape, np.int64)
        labels, segments = np.full(shape, IGNORED, np.int64), np.full(shape, PADDING_SEGMENT, np.int64)
        positions = np.zeros(shape, np.int64)
        documents: list[list[int]] = []
        for line, row in enumerate(rows):
            place = 0
            documents.append(self.plan.row(row))
            for segment, piece in enumerate(documents[-1]):
                start, length = int(self.plan.starts[piece]), int(self.plan.lengths[piece])
                here, there = slice(place, place + length), slice(start, start + length)
                tokens[line, here], labels[line, here] = self._tokens[there], self._labels[there]
                types[line, here], segments[line, here] = self._types[there], segment
                positions[line, here] = np.arange(length)
                place += length
            positions[line, place:] = np.arange(shape[1] - place)
        inputs = Inputs(to_tensor(tokens), to_tensor(positions), to_tensor(segments), to_tensor(types))
        if self.framing.is_encoder_decoder:
            return self._for_encoder_decoder(inputs, labels, documents)
        order = [piece for row in documents for piece in row]
        return Batch(inputs, to_tensor(labels), self._targets_of(order))

    def _for_encoder_decoder(self, source: Inputs, labels: NDArray[np.int64], documents: list[list[int]]) -> Batch:
        """The documents as the source, and for each one token of a target, which speaks for it."""
        shape = (len(documents), max(map(len, documents)))
        said, segments = np.full(shape, IGNORED, np.int64), np.full(shape, PADDING_SEGMENT, np.int64)
        for line, row in enumerate(documents):
            (places,) = np.nonzero(labels[line] != IGNORED)
            segments[line, : len(row)] = np.arange(len(row))
            said[line, : len(places)] = labels[line, places]
        tokens = torch.full(shape, self.framing.first)
        target = Inputs(tokens, torch.zeros(shape, dtype=torch.int64), to_tensor(segments), source=source)
        return Batch(target, to_tensor(said), self._targets_of([piece for row in documents for piece in row]))

    def _targets_of(self, pieces: Sequence[int]) -> Tensor | None:
        return None if self._targets is None else torch.from_numpy(self._targets[list(pieces)])

    def scores(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The scores of the head at the supervised places, of shape M C, and the labels there, of shape M."""
        supervised_BT = batch.labels_BT != IGNORED
        hidden_MD = model.hidden(batch.inputs)[supervised_BT]  # type: ignore[operator]
        return model.heads[self.head](hidden_MD), batch.labels_BT[supervised_BT]  # type: ignore[index,operator]

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        raise NotImplementedError


def _flat(parts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.array([number for part in parts for number in part], np.int64)
