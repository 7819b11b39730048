"""What a model with a head says of each example.

Predictions are in the order of the examples, however rows are packed. Examples that were too long for the objective are
left unanswered: they have no prediction, and scores count them wrong.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.core.progress import Progress
from preceptor.models.language_model import LanguageModel
from preceptor.nn.losses import IGNORED
from preceptor.objectives.answer import best_answer
from preceptor.objectives.batch import Batch
from preceptor.objectives.labelled import LabelledObjective
from preceptor.parallel.engine import moved
from preceptor.tokenizer.tokenizer import Tokenizer

ROWS_AT_ONCE = 8
MAX_ANSWER_TOKENS = 30
Span = tuple[int, int]


def predict_classes(
    model: LanguageModel, objective: LabelledObjective, *, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[list[str | None], NDArray[np.float64]]:
    """The likeliest class of each example, and the probabilities of all of them, of shape N C.

    None, and a row of NaN, stand for an example that was too long.
    """
    names = _labels(model, objective)
    probabilities_NC = _filled(model, objective, len(names), rows_at_once, lambda scores: scores.softmax(dim=-1))
    answered_N = np.asarray(np.isfinite(probabilities_NC).all(axis=1))
    best_N = np.where(np.isnan(probabilities_NC), -1.0, probabilities_NC).argmax(axis=1)
    said = [
        names[best] if answered else None for best, answered in zip(best_N.tolist(), answered_N.tolist(), strict=True)
    ]
    return said, probabilities_NC


def predict_label_sets(
    model: LanguageModel, objective: LabelledObjective, *, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[list[tuple[str, ...] | None], NDArray[np.float64]]:
    """The classes of each example that are likelier than not, and the probability of each class, of shape N C."""
    names = _labels(model, objective)
    probabilities_NC = _filled(model, objective, len(names), rows_at_once, torch.sigmoid)
    said: list[tuple[str, ...] | None] = []
    for row_C in probabilities_NC:
        likely = tuple(name for name, probability in zip(names, row_C, strict=True) if probability > 0.5)
        said.append(likely if np.isfinite(row_C).all() else None)
    return said, probabilities_NC


def predict_numbers(
    model: LanguageModel, objective: LabelledObjective, *, rows_at_once: int = ROWS_AT_ONCE
) -> NDArray[np.float64]:
    """The numbers of each example, of shape N C; a row of NaN for one that was too long."""
    return _filled(model, objective, len(_labels(model, objective)), rows_at_once, lambda scores: scores)


def predict_tags(
    model: LanguageModel, objective: LabelledObjective, *, rows_at_once: int = ROWS_AT_ONCE
) -> list[list[str] | None]:
    """The tags of the words of each example that have tokens; None for one that was too long."""
    names = _labels(model, objective)
    found: list[list[str] | None] = [None] * _count(objective)
    for place, scores_MC in _documents(model, objective, rows_at_once):
        found[place] = [names[best] for best in scores_MC.argmax(dim=-1).tolist()]
    return found


def best_of_windows(
    model: LanguageModel,
    objective: LabelledObjective,
    owners: Sequence[int],
    offsets: Sequence[int],
    count: int,
    *,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    rows_at_once: int = ROWS_AT_ONCE,
) -> list[Span | tuple[()] | None]:
    """For each of ``count`` texts the first and the last token of the answer, found in the surest of its windows.

    Document n of the objective is a window of text ``owners[n]`` that begins at its token ``offsets[n]``. A window is
    the surer the more likely its answer is than none; () is said where no window has one. None stands for a text of
    which no window fits.
    """
    found: list[Span | tuple[()] | None] = [None] * count
    surest = np.full(count, -np.inf)
    for place, scores_M2 in _documents(model, objective, rows_at_once):
        owner = owners[place]
        span = best_answer(scores_M2, torch.ones(len(scores_M2), dtype=torch.bool), max_answer_tokens)
        if span is None:
            found[owner] = () if found[owner] is None else found[owner]
            continue
        margin = float(scores_M2[span[0], 0] + scores_M2[span[1], 1] - scores_M2[0].sum())
        if margin > surest[owner]:
            surest[owner] = margin
            found[owner] = (span[0] - 1 + offsets[place], span[1] - 1 + offsets[place])
    return found


def span_text(span: Span | tuple[()], context: str, tokenizer: Tokenizer) -> str:
    """The characters of a text that the tokens of a span stand for, without white space around them."""
    if not span:
        return ""
    places = tokenizer.encode_with_places(context)[1]
    return context[places[span[0]][0] : places[span[1]][1]].strip()


def _labels(model: LanguageModel, objective: LabelledObjective) -> tuple[str, ...]:
    labels: tuple[str, ...] = model.heads[objective.head].config.labels  # type: ignore[union-attr,assignment]
    return labels


def _count(objective: LabelledObjective) -> int:
    """How many examples there were before those that are too long were left out."""
    return objective.num_examples + objective.num_too_long


def _filled(
    model: LanguageModel,
    objective: LabelledObjective,
    width: int,
    rows_at_once: int,
    transform: Callable[[Tensor], Tensor],
) -> NDArray[np.float64]:
    """What the head says of each example, transformed, of shape N C; NaN where it was too long."""
    found_NC = np.full((_count(objective), width), np.nan)
    for place, scores_1C in _documents(model, objective, rows_at_once):
        found_NC[place] = transform(scores_1C[0].double()).numpy()
    return found_NC


def _documents(model: LanguageModel, objective: LabelledObjective, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
    """The place of each example that fits, and the scores at its places, of shape M C, in 32 bits on the CPU.

    No more than the scores of one batch of rows is held.
    """
    device = model.input_embedding.weight.device
    was_training = model.training
    model.eval()
    try:
        with Progress("predictions", total=objective.num_rows, unit="rows") as progress:
            for first in range(0, objective.num_rows, rows_at_once):
                rows = range(first, min(first + rows_at_once, objective.num_rows))
                batch = objective.collate(rows)
                with torch.inference_mode():
                    scores_MC = objective.scores(model, moved(batch, device))[0].float().cpu()
                pieces = [piece for row in rows for piece in objective.plan.row(row)]
                parts = torch.split(scores_MC, _num_places(batch))
                for piece, part_MC in zip(pieces, parts, strict=True):
                    yield objective.kept[piece], part_MC
                progress.advance(len(rows))
    finally:
        model.train(was_training)


def _num_places(batch: Batch) -> list[int]:
    """How many supervised places each document of a batch has, in reading order."""
    segments_BT = batch.inputs.segments_BT
    assert segments_BT is not None
    counts = []
    for segments_T, labels_T in zip(segments_BT, batch.labels_BT, strict=True):
        held = torch.bincount(segments_T[labels_T != IGNORED], minlength=int(segments_T.max()) + 1)
        counts += held.tolist()
    return counts
