"""How well a model does what it was trained to do, on text it never saw, beside what it would do by chance."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.core.progress import Progress
from preceptor.evaluate.metrics import accuracy, perplexity
from preceptor.models.language_model import LanguageModel
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, Objective
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer

_NUM_SAMPLES, _SHOWN_TOKENS = 3, 12


def score_objective(
    model: LanguageModel, objective: Objective, rows: Sequence[int], train: TokenStream, vocab_size: int
) -> dict[str, Any]:
    """Perplexity and accuracy on the supervised places of these rows, and those of always saying the commonest tokens.

    The chance level knows how often each token stands in the training text, and nothing of where it stands.
    """
    counts = train.token_counts(vocab_size) + 1.0
    log_shares = np.log(counts / counts.sum())
    commonest = int(counts.argmax())
    nats, hits, labels, chance_nats, chance_hits = (np.zeros(len(rows)) for _ in range(5))
    model.eval()
    with Progress("objective", total=len(rows), unit="rows") as progress:
        for place, row in enumerate(rows):
            batch = objective.collate([row])
            losses_BT, hits_BT = model.losses_and_hits(batch.inputs, batch.labels_BT)
            said = _labels(batch)
            nats[place], hits[place], labels[place] = float(losses_BT.sum()), float(hits_BT.sum()), len(said)
            chance_nats[place] = -float(log_shares[said].sum())
            chance_hits[place] = float((said == commonest).sum())
            progress.advance(1)
    return {
        "perplexity": perplexity(nats, labels.astype(np.int64)).facts(),
        "accuracy": accuracy(hits.astype(np.int64), labels.astype(np.int64)).facts(),
        "chance": {
            "perplexity": float(np.exp(chance_nats.sum() / max(1.0, labels.sum()))),
            "accuracy": float(chance_hits.sum() / max(1.0, labels.sum())),
            "what": "the shares of tokens in the training text, and always the commonest",
        },
        "tokens": int(labels.sum()),
        "rows": len(rows),
    }


def _labels(batch: Batch) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = batch.labels_BT[batch.labels_BT != IGNORED].numpy()
    return labels


@torch.no_grad()
def samples(
    model: LanguageModel, objective: Objective, rows: Sequence[int], tokenizer: Tokenizer
) -> list[Mapping[str, str]]:
    """For some rows the text before a supervised place, what stands there, and what the model says."""
    found: list[Mapping[str, str]] = []
    for row in rows[:_NUM_SAMPLES]:
        batch = objective.collate([row])
        places = torch.nonzero(batch.labels_BT[0] != IGNORED).flatten().tolist()
        if not places:
            continue
        place = places[len(places) // 2]
        said = model.most_likely(batch.inputs, batch.labels_BT)[len(places) // 2]
        shown = batch.inputs.source.tokens_BT[0] if batch.inputs.source is not None else batch.tokens_BT[0]
        around = shown[max(0, place - _SHOWN_TOKENS) : place + _SHOWN_TOKENS] if shown.dim() else shown
        found.append(
            {
                "text": _shown(tokenizer, around.tolist()),
                "expected": _shown(tokenizer, [int(batch.labels_BT[0, place])]),
                "said": _shown(tokenizer, [int(said)]),
            }
        )
    return found


def _shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids as text, with special tokens by their names."""
    names = {tokenizer.special_id(token): token for token in tokenizer.special_tokens}
    parts = groupby(ids, key=lambda each: names.get(each, ""))
    return " ".join(f"{name} " * len(list(run)) if name else tokenizer.decode(list(run)) for name, run in parts).strip()
