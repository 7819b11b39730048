"""A class for each word of a document: parts of speech, names, and the like."""

from collections.abc import Sequence

from torch import nn
from torch.nn import functional as F

from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.labelled import Framing, LabelledDocument, LabelledObjective


class TagObjective(LabelledObjective):
    """The class of each word, said at its first token, or where a model reads left to right at its last."""

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        scores_MC, labels_M = self.scores(model, batch)
        total = F.cross_entropy(scores_MC, labels_M, reduction="sum")
        return LossSum(total, (scores_MC.argmax(dim=1) == labels_M).sum(), len(labels_M))


def with_tags(framing: Framing, words: Sequence[Sequence[int]], tags: Sequence[int]) -> LabelledDocument:
    """A document of words, each as its tokens, with a tag for each; a word without tokens has no place to be tagged.

    Raises:
        ValueError: there are not as many tags as words, or the model has no states of what it reads.
    """
    if framing.is_encoder_decoder:
        raise ValueError("an encoder-decoder gives no states of what it reads; tag with an encoder or a decoder")
    if len(words) != len(tags):
        raise ValueError(f"there are {len(words)} words and {len(tags)} tags")
    labels = [IGNORED] * (len(framing.prefix_ids) + 1)
    for word, tag in zip(words, tags, strict=True):
        inside = [IGNORED] * (len(word) - 1)
        labels += ([tag, *inside] if framing.speaks == "first" else [*inside, tag]) if word else []
    tokens, types = framing.frame([token for word in words for token in word])
    return LabelledDocument(tokens, [*labels, IGNORED], types)
