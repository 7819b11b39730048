"""A vocabulary that is dealt over processes: what a loss needs of the others to be that of the whole vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class VocabularyShare(Protocol):
    """The tokens whose weights this process holds, and how it speaks with those that hold the others."""

    @property
    def size(self) -> int:
        """The number of tokens of the whole vocabulary."""
        ...

    @property
    def start(self) -> int:
        """The first token that is held here."""
        ...

    @property
    def length(self) -> int:
        """How many are held here."""
        ...

    @property
    def most(self) -> int:
        """The most that any process holds."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the processes, without gradients."""
        ...

    def highest(self, x: Tensor) -> Tensor:
        """The highest of each element over the processes, without gradients."""
        ...

    def enter(self, hidden: Tensor) -> Tensor:
        """The states as they are; their gradients are summed over the processes."""
        ...

    def gathered(self, logits: Tensor) -> Tensor:
        """The logits of the whole vocabulary, of shape ... V, with their gradients."""
        ...

    def look_up(self, ids: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """The rows of any tokens, where ``rows`` gives those that are held here, counted from 0."""
        ...

    def own(self, bias_V: Tensor) -> Tensor:
        """The part of a bias of the whole vocabulary that is of the tokens held here."""
        ...


class WholeVocabulary:
    """What a loss reads off a chunk's logits, of shape C V, where every token's are here."""

    def of_labels(self, logits: Tensor, labels_C1: Tensor) -> Tensor:
        """The logit of each label, of shape C 1."""
        return logits.gather(1, labels_C1)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all who hold a part."""
        return x

    def highest(self, logits: Tensor) -> Tensor:
        """The highest logit of each row, of shape C 1."""
        return logits.amax(dim=1, keepdim=True)

    def first_highest(self, logits: Tensor, highest_C1: Tensor) -> Tensor:
        """The first token that has the highest logit, of shape C."""
        return logits.argmax(dim=1)

    def mean(self, logits: Tensor) -> Tensor:
        """The mean logit of each row, of shape C 1."""
        return logits.mean(dim=1, keepdim=True)

    def size(self, logits: Tensor) -> int:
        """The number of tokens of the vocabulary."""
        return logits.shape[1]

    def add_to_labels(self, gradient: Tensor, labels_C1: Tensor, value: float) -> None:
        """Add a number to the place of each label, in place."""
        gradient.scatter_add_(1, labels_C1, gradient.new_full((1, 1), value).expand_as(labels_C1))


@dataclass(frozen=True, slots=True)
class SharedVocabulary(WholeVocabulary):
    """The same where others hold the logits of the other tokens; all are told the same bits.

    Source: Shoeybi et al. 2019, Megatron-LM, section 3, for the loss of logits that are never gathered.
    """

    share: VocabularyShare

    def of_labels(self, logits: Tensor, labels_C1: Tensor) -> Tensor:
        """The logit of each label, of shape C 1."""
        places_C1, own_C1 = self._here(labels_C1)
        return self.share.sum(logits.gather(1, places_C1).masked_fill_(~own_C1, 0.0))

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all who hold a part."""
        return self.share.sum(x)

    def highest(self, logits: Tensor) -> Tensor:
        """The highest logit of each row, of shape C 1."""
        return self.share.highest(logits.amax(dim=1, keepdim=True))

    def first_highest(self, logits: Tensor, highest_C1: Tensor) -> Tensor:
        """The first token that has the highest logit, of shape C."""
        found_C1, first_C1 = logits.max(dim=1, keepdim=True)
        first_C1 = torch.where(found_C1 == highest_C1, first_C1 + self.share.start, self.share.size)
        return -self.share.highest(-first_C1).squeeze(1)

    def mean(self, logits: Tensor) -> Tensor:
        """The mean logit of each row, of shape C 1."""
        return self.share.sum(logits.sum(dim=1, keepdim=True)).div_(self.share.size)

    def size(self, logits: Tensor) -> int:
        """The number of tokens of the vocabulary."""
        return self.share.size

    def add_to_labels(self, gradient: Tensor, labels_C1: Tensor, value: float) -> None:
        """Add a number to the place of each label that is here, in place."""
        places_C1, own_C1 = self._here(labels_C1)
        gradient.scatter_add_(1, places_C1, own_C1.to(gradient.dtype) * value)

    def _here(self, labels_C1: Tensor) -> tuple[Tensor, Tensor]:
        """Where labels stand among the tokens that are here, and whether they do."""
        places_C1 = labels_C1 - self.share.start
        own_C1 = (places_C1 >= 0) & (places_C1 < self.share.length)
        return places_C1.where(own_C1, 0), own_C1
