"""Numbers for documents, or for pairs of documents, by mean squared error."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.classify import with_class
from preceptor.objectives.labelled import Framing, LabelledDocument, LabelledObjective

_CLOSE = 0.5
"""How near a number must be to count as right, in standard deviations of the targets."""


class RegressObjective(LabelledObjective):
    """The squared difference between what the head says and the numbers, summed; a number is right where it is near."""

    def __init__(self, examples: Sequence[LabelledDocument], head: str, context_length: int, framing: Framing) -> None:
        super().__init__(examples, head, context_length, framing)
        targets = torch.tensor([example.targets for example in examples])
        self.near = _CLOSE * targets.std(dim=0, correction=0).clamp_min(1e-12)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed squared error of a batch; with several numbers a document, their mean."""
        scores_MC, labels_M = self.scores(model, batch)
        assert batch.targets is not None
        targets_MC = batch.targets.to(scores_MC)
        total = F.mse_loss(scores_MC, targets_MC, reduction="sum") / targets_MC.shape[1]
        correct = ((scores_MC - targets_MC).abs() <= self.near.to(scores_MC)).all(dim=1).sum()
        return LossSum(total, correct, len(labels_M))


def with_numbers(
    framing: Framing, text: Sequence[int], numbers: Sequence[float], second: Sequence[int] | None = None
) -> LabelledDocument:
    """A document, or a pair, with its numbers."""
    return with_class(framing, text, numbers, second)
