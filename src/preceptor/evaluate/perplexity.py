"""The loss of a model on every token of a stream, each predicted exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.core.progress import Progress
from preceptor.models.language_model import LanguageModel
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.tokenizer.stream import TokenStream

_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True, slots=True)
class DocumentLosses:
    """Per document: summed loss in nats, tokens, likeliest tokens that were right."""

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    correct: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Window:
    """Labels ``first`` to ``end`` of a document, read with the context from ``start`` on; counted in ``row``."""

    document: int
    row: int
    start: int
    first: int
    end: int


def windows(length: int, context: int, document: int = 0, row: int = 0) -> list[_Window]:
    """How a document of that many labels is read.

    The first window fills the context; each further one moves on by half of it and scores its second half only, so that
    every label is scored once, and with at least half a context before it where the document has that much.

    Source: the strided evaluation of fixed-length models in the documentation of transformers.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    spans = [_Window(document, row, 0, 0, min(context, length))]
    stride = max(1, context // 2)
    while spans[-1].end < length:
        first = spans[-1].end
        end = min(first + stride, length)
        spans.append(_Window(document, row, end - context, first, end))
    return spans


def document_losses(
    model: LanguageModel,
    stream: TokenStream,
    end_of_text_id: int,
    context: int,
    documents: Sequence[int] | None = None,
) -> DocumentLosses:
    """The losses of a model over documents of a stream, all of them if none are named, each with its end of text.

    The first token of a document is predicted from the end of text alone. Memory does not grow with the stream. The
    model is in evaluation mode meanwhile, so that nothing is dropped out.
    """
    was_training = model.training
    model.eval()
    try:
        chosen = range(stream.num_documents) if documents is None else documents
        return _document_losses(model, stream, end_of_text_id, context, chosen)
    finally:
        model.train(was_training)


def _document_losses(
    model: LanguageModel, stream: TokenStream, end_of_text_id: int, context: int, documents: Sequence[int]
) -> DocumentLosses:
    spans = [
        window
        for row, document in enumerate(documents)
        for window in windows(len(stream.document(document)), context, document, row)
    ]
    spans.sort(key=lambda window: window.start - window.end)
    nats = np.zeros(len(documents), np.float64)
    tokens, correct = np.zeros(len(documents), np.int64), np.zeros(len(documents), np.int64)
    with Progress("perplexity", total=len(spans), unit="windows") as progress:
        start = 0
        while start < len(spans):
            # Windows come longest first, so the first of a batch is as wide as the batch will be.
            rows = max(1, _TOKENS_PER_BATCH // (spans[start].end - spans[start].start))
            batch = spans[start : start + rows]
            losses_BT, hits_BT, scored_BT = _score(model, batch, stream, end_of_text_id)
            to = [window.row for window in batch]
            # A document may have several windows in a batch.
            np.add.at(nats, to, losses_BT.double().sum(1).cpu().numpy())
            np.add.at(correct, to, hits_BT.sum(1).cpu().numpy())
            np.add.at(tokens, to, scored_BT.sum(1).cpu().numpy())
            start += len(batch)
            progress.advance(len(batch))
    return DocumentLosses(nats, tokens, correct)


def sample_documents(stream: TokenStream, num_tokens: int, seed: int) -> list[int]:
    """Documents of a stream in random order, as many as give that many tokens."""
    order = np.random.default_rng(seed).permutation(stream.num_documents)
    totals = np.cumsum(np.diff(stream.offsets)[order])
    return sorted(order[: int(np.searchsorted(totals, num_tokens)) + 1].tolist())


def _score(
    model: LanguageModel, batch: list[_Window], stream: TokenStream, end_of_text_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(window.end - window.start for window in batch)
    inputs = np.full((len(batch), width), end_of_text_id, np.int64)
    labels = np.full((len(batch), width), IGNORED, np.int64)
    for row, window in enumerate(batch):
        document = stream.document(window.document).astype(np.int64)
        length = window.end - window.start
        inputs[row, 1:length] = document[window.start : window.end - 1]
        if window.start:
            inputs[row, 0] = document[window.start - 1]
        labels[row, window.first - window.start : length] = document[window.first : window.end]
    device = model.output_weight_VD.device
    labels_BT = torch.from_numpy(labels).to(device)
    losses_BT, hits_BT = model.losses_and_hits(Inputs(torch.from_numpy(inputs).to(device)), labels_BT)
    return losses_BT, hits_BT, labels_BT != IGNORED
