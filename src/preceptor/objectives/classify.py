"""Classes of documents, or of pairs of documents: one of several, or any number of them."""

from collections.abc import Sequence
from copy import copy
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.labelled import Framing, LabelledDocument, LabelledObjective


class ClassifyObjective(LabelledObjective):
    """The class of each document, by cross-entropy; with several labels a document, by that of each label alone."""

    class_weights: Tensor | None = None
    """What the loss of each class is multiplied by (with several labels: that of its presence)."""
    label_smoothing = 0.0
    """The share of the target that is spread evenly over the classes (with several labels: over yes and no)."""

    def learned_by(self, class_weights: Literal["none", "balanced"], label_smoothing: float, num_classes: int) -> Self:
        """The same documents with another loss: rare classes count as much as common ones, or targets are smoothed."""
        objective = copy(self)
        objective.label_smoothing = label_smoothing
        if class_weights == "balanced":
            objective.class_weights = torch.tensor(self._balanced(num_classes), dtype=torch.float32)
        return objective

    def _balanced(self, num_classes: int) -> list[float]:
        """Weights under which all classes count alike, and the documents together as many as they are.

        With several labels a document, weights under which presence counts as much as absence.

        Source: King and Zeng 2001.
        """
        total = self.num_examples
        if self._targets is not None:
            present = np.clip(self._targets.sum(axis=0), 1, None)
            return [max(1, total - count) / count for count in present.tolist()]
        counts = np.bincount(self._labels[self._labels != IGNORED], minlength=num_classes)
        return (total / (np.count_nonzero(counts) * np.clip(counts, 1, None))).tolist()  # type: ignore[no-any-return]

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch, and how many documents are right in all."""
        scores_MC, labels_M = self.scores(model, batch)
        weights, smoothing = self.class_weights, self.label_smoothing
        weights = None if weights is None else weights.to(scores_MC)
        if batch.targets is not None:
            targets_MC = batch.targets.to(scores_MC)
            correct = ((scores_MC > 0) == (targets_MC > 0.5)).all(dim=1).sum()
            if smoothing:
                targets_MC = targets_MC * (1 - smoothing) + smoothing / 2
            total = F.binary_cross_entropy_with_logits(scores_MC, targets_MC, pos_weight=weights, reduction="sum")
        else:
            total = F.cross_entropy(scores_MC, labels_M, weights, reduction="sum", label_smoothing=smoothing)
            correct = (scores_MC.argmax(dim=1) == labels_M).sum()
        return LossSum(total, correct, len(labels_M))


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
