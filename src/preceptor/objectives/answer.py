"""Where in a text the answer to a question stands: its first and its last token."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum
from preceptor.objectives.labelled import Framing, LabelledDocument, LabelledObjective

NOTHING, START, END = 0, 1, 2
"""What is to be said at a token; at the only token of an answer both. ``IGNORED`` is where no answer can stand."""


class AnswerObjective(LabelledObjective):
    """The negative log-probability of the token that begins the answer, and of that which ends it.

    Each is one choice among the tokens of the document at which an answer can stand: those of the text, and the first,
    which stands for "no answer". Both choices of a document count one together.

    Source: Devlin et al. 2019, section 4.2 and 4.3.
    """

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch: half of each choice's; right is a document whose both choices are."""
        scores_M2, labels_M = self.scores(model, batch)
        documents_M = _documents(batch)
        count = int(documents_M.max()) + 1
        total, right_D = scores_M2.new_zeros(()), torch.ones(count, dtype=torch.bool, device=scores_M2.device)
        for column, bit in enumerate((START, END)):
            scores_M, chosen_M = scores_M2[:, column], (labels_M & bit) != 0
            best_D = scores_M.new_full((count,), -torch.inf).scatter_reduce(0, documents_M, scores_M, "amax").detach()
            sums_D = scores_M.new_zeros(count).index_add(0, documents_M, (scores_M - best_D[documents_M]).exp())
            normaliser_D = best_D + sums_D.log()
            total = total + 0.5 * (normaliser_D[documents_M] - scores_M)[chosen_M].sum()
            right_D[documents_M[chosen_M & (scores_M < best_D[documents_M])]] = False
        return LossSum(total, right_D.sum(), count)


def _documents(batch: Batch) -> Tensor:
    """For each supervised place the number of its document, counted over the batch, of shape M."""
    segments_BT = batch.inputs.segments_BT
    assert segments_BT is not None
    rows_B1 = torch.arange(len(segments_BT), device=segments_BT.device).unsqueeze(1)
    numbers = (rows_B1 * (int(segments_BT.max()) + 1) + segments_BT)[batch.labels_BT != IGNORED]
    documents: Tensor = torch.unique(numbers, return_inverse=True)[1]
    return documents


def with_answer(
    framing: Framing, question: Sequence[int], text: Sequence[int], answer: tuple[int, int] | None
) -> LabelledDocument:
    """A question and a text, with the places in the text of the answer's first and last token; None for no answer.

    Raises:
        ValueError: the places are not in the text, or the model has no states of what it reads.
    """
    if framing.is_encoder_decoder:
        raise ValueError("an encoder-decoder gives no states of what it reads; answer with an encoder or a decoder")
    if answer is not None and not 0 <= answer[0] <= answer[1] < len(text):
        raise ValueError(f"an answer from {answer[0]} to {answer[1]} is not in a text of {len(text)} tokens")
    tokens, types = framing.frame(question, text)
    before = len(tokens) - len(text) - 1
    labels = [NOTHING, *[IGNORED] * (before - 1), *[NOTHING] * len(text), IGNORED]
    first, last = (0, 0) if answer is None else (place + before for place in answer)
    labels[first] |= START
    labels[last] |= END
    return LabelledDocument(tokens, labels, types)


def best_answer(scores_T2: Tensor, can_stand_T: Tensor, max_tokens: int) -> tuple[int, int] | None:
    """The places of the likeliest answer of one document, both included; None where no answer is likelier.

    ``can_stand_T`` says where an answer can stand; place 0 stands for none. An answer is at most ``max_tokens`` long.
    """
    starts_T, ends_T = scores_T2.unbind(1)
    together_TT = starts_T.unsqueeze(1) + ends_T
    places = torch.arange(len(starts_T), device=scores_T2.device)
    lengths_TT = places - places.unsqueeze(1)
    allowed_TT = (lengths_TT >= 0) & (lengths_TT < max_tokens) & can_stand_T.unsqueeze(1) & can_stand_T
    allowed_TT[0], allowed_TT[:, 0] = False, False
    allowed_TT[0, 0] = True
    best = int(together_TT.masked_fill(~allowed_TT, -torch.inf).argmax())
    first, last = divmod(best, len(starts_T))
    return None if first == last == 0 else (first, last)
