"""A first memorisation check: does the model recite what it was trained on more than what it never saw?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preceptor.evaluate.metrics import Score, difference_of_ratios, mean_score, share_score
from preceptor.evaluate.perplexity import DocumentLosses
from preceptor.tokenizer.stream import TokenStream

PREFIX_TOKENS, CONTINUATION_TOKENS = 32, 32

Continue = Callable[[Sequence[Sequence[int]]], list[list[int]]]
"""Prompts as ids to their greedy continuations of CONTINUATION_TOKENS ids, or fewer where the model ends the text."""


@dataclass(frozen=True, slots=True)
class Recitation:
    """How much of the true continuation a model gives when it is shown the start of a document."""

    exact: Score
    """Share of documents whose next tokens are given word for word."""
    matching_tokens: Score
    """Mean number of tokens until the first that differs."""
    matches: list[int]
    """That number, for each document."""

    def facts(self) -> dict[str, Any]:
        """Both scores as JSON, without those of single documents."""
        return {"exact": self.exact.facts(), "matching_tokens": self.matching_tokens.facts()}


def recite(
    stream: TokenStream, continue_greedily: Continue, end_of_text_id: int, num_documents: int, seed: int
) -> Recitation | None:
    """The recitation of documents drawn from a stream; None where none is long enough.

    The model is shown the end of text and the first 32 tokens and asked for the next 32.

    Source: Carlini et al. 2023, Quantifying memorization, definition 3.1 (with 32 tokens in place of 50).
    """
    lengths = np.diff(stream.offsets)
    candidates = np.flatnonzero(lengths > PREFIX_TOKENS + CONTINUATION_TOKENS)
    if not candidates.size:
        return None
    chosen = np.random.default_rng(seed).permutation(candidates)[:num_documents]
    documents = [stream.document(int(index)).tolist() for index in chosen]
    prompts = [[end_of_text_id, *document[:PREFIX_TOKENS]] for document in documents]
    truths = [document[PREFIX_TOKENS : PREFIX_TOKENS + CONTINUATION_TOKENS] for document in documents]
    matches = [_common_prefix(given, truth) for given, truth in zip(continue_greedily(prompts), truths, strict=True)]
    return Recitation(
        exact=share_score(
            [match == CONTINUATION_TOKENS for match in matches], "share recited word for word", higher_is_better=False
        ),
        matching_tokens=mean_score(matches, "matching tokens", higher_is_better=False, seed=seed),
        matches=matches,
    )


def recitation_gap(train: Recitation, validation: Recitation, seed: int = 0) -> dict[str, Score]:
    """How much more of the documents trained on is recited than of unseen ones, which show what can be guessed."""

    def gap(unit: str, ours: list[float], theirs: list[float]) -> Score:
        return difference_of_ratios(
            (ours, [1] * len(ours)), (theirs, [1] * len(theirs)), unit, higher_is_better=False, seed=seed
        )

    matches = [[float(match) for match in recitation.matches] for recitation in (train, validation)]
    whole = [
        [float(match == CONTINUATION_TOKENS) for match in recitation.matches] for recitation in (train, validation)
    ]
    return {"exact": gap("share recited word for word", *whole), "matching_tokens": gap("matching tokens", *matches)}


def loss_gap(train: DocumentLosses, validation: DocumentLosses, seed: int = 0) -> Score:
    """How much more a token of unseen documents costs than one of documents trained on, by the same model."""
    return difference_of_ratios(
        (validation.nats, validation.tokens),
        (train.nats, train.tokens),
        "nats per token",
        higher_is_better=False,
        seed=seed,
    )


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
