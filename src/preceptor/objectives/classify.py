"""Classes of documents, or of pairs of documents: one of several, or any number of them."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.labelled import Framing, LabelledDocument, LabelledObjective


class ClassifyObjective(LabelledObjective):
    """The class of each document, by cross-entropy; with several labels a document, by that of each label alone.

    ``class_weights`` multiplies the loss of documents of a class (with several labels: of its presence), so that rare
    classes count as much as common ones; the sum of the weights takes the place of the count of documents.
    """

    def __init__(
        self,
        examples: Sequence[LabelledDocument],
        head: str,
        context_length: int,
        framing: Framing,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(examples, head, context_length, framing)
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.label_smoothing = label_smoothing

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch, and how many documents are right in all."""
        scores_MC, labels_M = self.scores(model, batch)
        weights = None if self.class_weights is None else self.class_weights.to(scores_MC)
        if batch.targets is not None:
            targets_MC = batch.targets.to(scores_MC)
            total = F.binary_cross_entropy_with_logits(scores_MC, targets_MC, pos_weight=weights, reduction="sum")
            correct = ((scores_MC > 0) == (targets_MC > 0.5)).all(dim=1).sum()
        else:
            total = F.cross_entropy(scores_MC, labels_M, weights, reduction="sum", label_smoothing=self.label_smoothing)
            correct = (scores_MC.argmax(dim=1) == labels_M).sum()
        return LossSum(total, correct, len(labels_M))


def balanced_weights(labels: Sequence[int], num_classes: int) -> list[float]:
    """Weights under which all classes count alike, and the documents together as many as they are.

    Source: King and Zeng 2001; scikit-learn's ``class_weight="balanced"``.
    """
    counts = [max(1, labels.count(number)) for number in range(num_classes)]
    present = sum(1 for number in range(num_classes) if number in set(labels))
    return [len(labels) / (present * count) for count in counts]


def with_class(
    framing: Framing, text: Sequence[int], label: int | Sequence[float], second: Sequence[int] | None = None
) -> LabelledDocument:
    """A document, or a pair, with its class; with a row of 0 and 1 where it may have several."""
    tokens, types = framing.frame(text, second)
    labels = [IGNORED] * len(tokens)
    place = 0 if framing.speaks == "first" else len(tokens) - 1
    if isinstance(label, int):
        labels[place] = label
        return LabelledDocument(tokens, labels, types)
    labels[place] = 0
    return LabelledDocument(tokens, labels, types, tuple(label))
