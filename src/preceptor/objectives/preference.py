"""Preferences: of two answers the better one is made likelier than the other, measured from the model it started as."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.core.errors import DataError
from preceptor.data.example_types import PreferenceExample
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum, on_device, to_tensor
from preceptor.objectives.packing import PADDING_SEGMENT, plan_rows
from preceptor.objectives.preference_config import PreferenceConfig
from preceptor.tokenizer.chat import encode_chat
from preceptor.tokenizer.tokenizer import Tokenizer

MAX_REFUSED_SHARE = 0.05
_Answer = tuple[list[int], list[int]]
"""What is read of a conversation that ends in an answer, and for each token what is to be said there."""


class PreferenceObjective:
    """Each pair is two documents of one row, the preferred answer and the other; the loss is one of both together.

    A pair whose answers are alike, or that does not fit into a row, is refused and counted. The loss compares the model
    with a reference, whose log-probabilities ``with_reference`` takes once; ``prefix_ids`` stand before each document.

    Source: Rafailov et al. 2023, Direct Preference Optimization, eq. 7.

    Raises:
        DataError: more than one in twenty pairs is refused, or none is left.
    """

    def __init__(
        self,
        examples: Sequence[PreferenceExample],
        tokenizer: Tokenizer,
        context_length: int,
        config: PreferenceConfig | None = None,
        prefix_ids: Sequence[int] = (),
    ) -> None:
        self.config = config or PreferenceConfig()
        self.end_of_text_id = tokenizer.end_of_text_id
        pairs: list[tuple[_Answer, _Answer]] = []
        self.kept: list[PreferenceExample] = []
        """The examples that are not refused, in order."""
        self.num_alike = self.num_too_long = longest = 0
        for example in examples:
            chosen, rejected = (_encoded(tokenizer, example, said) for said in (example.chosen, example.rejected))
            size = len(chosen[0]) + len(rejected[0]) + 2 * len(prefix_ids)
            longest = max(longest, size)
            if chosen == rejected:
                self.num_alike += 1
            elif size > context_length:
                self.num_too_long += 1
            else:
                pairs.append((chosen, rejected))
                self.kept.append(example)
        self._require_enough(len(examples), len(pairs), longest, context_length)
        self.num_examples = len(pairs)
        self.prefix_ids = list(prefix_ids)
        documents = [document for pair in pairs for document in pair]
        self._tokens = [np.array(tokens, np.int64) for tokens, _ in documents]
        self._labels = [np.array(labels, np.int64) for _, labels in documents]
        self.num_supervised_tokens = sum(int((labels != IGNORED).sum()) for labels in self._labels)
        sizes = np.array([len(tokens) + len(prefix_ids) for tokens in self._tokens]).reshape(-1, 2).sum(axis=1)
        self.plan = plan_rows(np.cumsum([0, *sizes.tolist()]).astype(np.int64), context_length)
        self.num_rows = self.plan.num_rows
        self.reference: NDArray[np.float64] | None = None
        """For each pair the reference's log-probability of the preferred answer and of the other."""

    def _require_enough(self, num_examples: int, num_kept: int, longest: int, context_length: int) -> None:
        refused = num_examples - num_kept
        if num_kept and refused <= MAX_REFUSED_SHARE * num_examples:
            return
        raise DataError(
            f"{refused} of {num_examples} pairs are refused: {self.num_too_long} do not fit into {context_length} "
            f"tokens, and {self.num_alike} have two answers that are alike",
            remedy=f"set finetuning.context_length to up to {longest}, in which both answers of every pair stand side "
            "by side, or shorten or remove these pairs"
            if self.num_too_long
            else "remove pairs whose answers are alike: nothing can be learned from them",
        )

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order."""
        return self._batch(rows, self.prefix_ids)

    def _batch(self, rows: Sequence[int], prefix: Sequence[int]) -> Batch:
        shape = (len(rows), self.plan.row_length)
        tokens, labels = np.full(shape, self.end_of_text_id, np.int64), np.full(shape, IGNORED, np.int64)
        positions, segments = np.zeros(shape, np.int64), np.full(shape, PADDING_SEGMENT, np.int64)
        pairs = [pair for row in rows for pair in self.plan.row(row)]
        for line, row in enumerate(rows):
            place = 0
            documents = [document for pair in self.plan.row(row) for document in (2 * pair, 2 * pair + 1)]
            for segment, document in enumerate(documents):
                size = len(prefix) + len(self._tokens[document])
                here, said = slice(place, place + size), slice(place + len(prefix), place + size)
                tokens[line, here.start : said.start] = prefix
                tokens[line, said], labels[line, said] = self._tokens[document], self._labels[document]
                positions[line, here], segments[line, here] = np.arange(size), segment
                place += size
            positions[line, place:] = np.arange(shape[1] - place)
        inputs = Inputs(to_tensor(tokens), to_tensor(positions), to_tensor(segments))
        reference = None if self.reference is None else torch.from_numpy(self.reference[pairs])
        return Batch(inputs, to_tensor(labels), reference)

    def log_probabilities(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The log-probability of each answer, P 2: the preferred one first, and how many tokens it has."""
        losses_M, _ = model.supervised_losses(batch.inputs, batch.labels_BT)  # type: ignore[operator]
        lengths_P2 = _tokens_of_answers(batch)
        # Answers stand one behind the other, so that segments are summed in one fixed order on any device.
        sums = torch.segment_reduce(losses_M, "sum", lengths=lengths_P2.view(-1))
        return -sums.view(-1, 2), lengths_P2

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch's pairs, and in how many the preferred answer has gained more than the other.

        Raises:
            ValueError: the reference's log-probabilities were not taken.
        """
        if batch.targets is None:
            raise ValueError("a loss needs the log-probabilities of the reference: call with_reference first")
        config = self.config
        said_P2, lengths_P2 = self.log_probabilities(model, batch)
        gained_P2 = said_P2 - batch.targets.to(said_P2)
        if config.length_normalised:
            gained_P2 = gained_P2 / lengths_P2
        margin_P = gained_P2[:, 0] - gained_P2[:, 1]
        if config.kind == "ipo":
            losses_P = (margin_P - 1 / (2 * config.beta)).square()
        else:
            wrong = config.label_smoothing
            losses_P = -(1 - wrong) * F.logsigmoid(config.beta * margin_P)
            if wrong:
                losses_P = losses_P - wrong * F.logsigmoid(-config.beta * margin_P)
        if config.chosen_weight:
            losses_P = losses_P - config.chosen_weight * said_P2[:, 0] / lengths_P2[:, 0]
        return LossSum(losses_P.sum(), (margin_P > 0).sum(), len(margin_P))


def preference_objective(
    examples: Sequence[PreferenceExample],
    tokenizer: Tokenizer,
    context_length: int,
    config: PreferenceConfig,
    reference: nn.Module,
    *,
    prefix_ids: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
) -> PreferenceObjective:
    """The objective over these pairs, measured from a model as it is now: the base before anything is attached to it.

    Raises:
        DataError: more than one in twenty pairs is refused, or none is left.
    """
    objective = PreferenceObjective(examples, tokenizer, context_length, config, prefix_ids)
    return with_reference(objective, reference, dtype)


def with_reference(
    objective: PreferenceObjective, model: nn.Module, dtype: torch.dtype = torch.float32
) -> PreferenceObjective:
    """The objective, which now holds the log-probabilities that a model, as it is, gives to the answers of all pairs.

    They follow from the model and the pairs alone, so that a resumed training has the same. ``dtype`` is that of the
    products: the reference is best computed in the numbers of the training.
    """
    # A prompt that is trained is no part of the reference, so that nothing stands before its documents.
    objective.reference = _of_all(objective, model, (), dtype)
    return objective


def gains(objective: PreferenceObjective, model: nn.Module) -> NDArray[np.float64]:
    """By how much the log-probability of each answer has grown over the reference's, P 2: the preferred ones first.

    Raises:
        ValueError: the reference's log-probabilities were not taken.
    """
    if objective.reference is None:
        raise ValueError("a gain needs the log-probabilities of the reference: call with_reference first")
    return _of_all(objective, model, objective.prefix_ids, torch.float32) - objective.reference


@torch.no_grad()
def _of_all(
    objective: PreferenceObjective, model: nn.Module, prefix: Sequence[int], dtype: torch.dtype
) -> NDArray[np.float64]:
    """The log-probability of both answers of every pair behind a prefix, P 2."""
    device, was_training = next(model.parameters()).device, model.training
    found = np.zeros((objective.num_examples, 2), np.float64)
    model.eval()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for row in range(objective.num_rows):
            batch = on_device(objective._batch([row], prefix), device)
            found[objective.plan.row(row)] = objective.log_probabilities(model, batch)[0].cpu().numpy()
    model.train(was_training)
    return found


def _tokens_of_answers(batch: Batch) -> Tensor:
    """How many tokens each answer has, P 2."""
    segments_BT, supervised_BT = batch.inputs.segments_BT, batch.labels_BT != IGNORED
    assert segments_BT is not None
    documents_B = segments_BT.amax(dim=1, keepdim=True) + 1
    first_B = documents_B.cumsum(dim=0) - documents_B
    document_M = (segments_BT + first_B)[supervised_BT]
    return torch.bincount(document_M).view(-1, 2)


def _encoded(tokenizer: Tokenizer, example: PreferenceExample, answer: str) -> _Answer:
    """A conversation that ends in an answer; the answer and what closes it are supervised."""
    told = [{"role": message.role, "content": message.content} for message in example.messages]
    prompt = encode_chat(tokenizer, told, add_generation_prompt=True)
    whole = encode_chat(tokenizer, [*told, {"role": "assistant", "content": answer}], add_generation_prompt=False)
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise DataError(
            "the tokenizer's chat template does not write a conversation as its prompt followed by the answer",
            remedy="import the tokenizer with another chat template, or remove chat_template to use ours",
        )
    return whole[:-1], [IGNORED] * (len(prompt) - 1) + whole[len(prompt) :]
