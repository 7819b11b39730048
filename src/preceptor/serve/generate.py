"""Generation: prompts in, ids out one by one, with a cache of keys and values."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from preceptor.models.decoder import Decoder
from preceptor.models.foreign import ForeignModel
from preceptor.serve.sampling import SamplingConfig

OneSided = Decoder | ForeignModel
"""Models that write behind what they read."""


class Sampler(Protocol):
    """Chooses the next token of each row."""

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """The ids of shape B."""
        ...


def sampler(config: SamplingConfig) -> Sampler:
    """A sampler with its own generator, so that nothing else moves its draws."""
    generator = torch.Generator().manual_seed(config.seed)

    def sample(logits_BV: Tensor) -> Tensor:
        if config.temperature == 0:
            return logits_BV.argmax(dim=-1)
        probabilities_BV = truncate(logits_BV.float() / config.temperature, config.top_k, config.top_p).softmax(dim=-1)
        return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(1)

    return sample


def truncate(logits_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """The logits with minus infinity where a token is not among those to draw from.

    Source: Fan et al. 2018 for top-k; Holtzman et al. 2020, eq. 2, for top-p: the token that crosses it stays.
    """
    if 0 < top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
        probabilities_BV = sorted_BV.softmax(dim=-1)
        before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
        removed_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= top_p)
        logits_BV = logits_BV.masked_fill(removed_BV, float("-inf"))
    return logits_BV


def generate(model: OneSided, prompt: Sequence[int], config: SamplingConfig, end_of_text_id: int) -> Iterator[int]:
    """The ids that follow a prompt, until the end of text (which is not given out) or the longest answer.

    A prompt longer than the context is cut on the left so that a quarter of the context is free, though not what of it
    was trained in place of tokens; generation ends where the context is full.
    """
    context = model.longest_document
    room = min(config.max_new_tokens, max(1, context // 4))
    prompt = _cut(model, prompt, context - room)
    choose = sampler(config)
    cache: Any = model.new_cache(1, min(context, len(prompt) + config.max_new_tokens))
    logits_BV = model.step(torch.tensor([prompt]), cache)
    for count in range(1, config.max_new_tokens + 1):
        token = int(choose(logits_BV))
        if token == end_of_text_id:
            return
        yield token
        if count == config.max_new_tokens or int(cache.lengths_B[0]) >= cache.max_tokens:
            return
        logits_BV = model.step(torch.tensor([[token]]), cache)


def _cut(model: OneSided, prompt: Sequence[int], length: int) -> list[int]:
    """The end of a prompt, behind the trained vectors in front of it, whose ids are those beyond the vocabulary."""
    virtual = list(itertools.takewhile(lambda token: token >= model.config.vocab_size, prompt))
    room = max(1, length - len(virtual))
    return [*virtual, *list(prompt)[len(virtual) :][-room:]]


def generate_many(
    model: OneSided, prompts: Sequence[Sequence[int]], config: SamplingConfig, end_of_text_id: int, batch_size: int = 64
) -> list[list[int]]:
    """The ids that follow each prompt, in batches of like length; with temperature 0 as if each was alone."""
    context = model.longest_document
    room = min(config.max_new_tokens, max(1, context // 4))
    cut = [_cut(model, prompt, context - room) for prompt in prompts]
    order = sorted(range(len(cut)), key=lambda index: len(cut[index]))
    answers: list[list[int]] = [[] for _ in cut]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        for row, answer in zip(
            rows, _generate_batch(model, [cut[i] for i in rows], config, end_of_text_id), strict=True
        ):
            answers[row] = answer
    return answers


def _generate_batch(
    model: OneSided, prompts: list[list[int]], config: SamplingConfig, end_of_text_id: int
) -> list[list[int]]:
    choose = sampler(config)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths_B.max())
    tokens_BT = torch.full((len(prompts), longest), end_of_text_id)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, : len(prompt)] = torch.tensor(prompt)
    max_tokens = min(model.longest_document, longest + config.max_new_tokens)
    cache: Any = model.new_cache(len(prompts), max_tokens)
    logits_BV = model.step(tokens_BT, cache, lengths_B)
    answers: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for count in range(1, config.max_new_tokens + 1):
        chosen_B = choose(logits_BV)
        for row in sorted(running):
            if int(chosen_B[row]) == end_of_text_id:
                running.discard(row)
                continue
            answers[row].append(int(chosen_B[row]))
            if int(cache.lengths_B[row]) >= max_tokens:
                running.discard(row)
        if not running or count == config.max_new_tokens:
            break
        # A row that has ended is rewound, so that it can never fill the context before the others have ended.
        ended = [row for row in range(len(prompts)) if row not in running]
        cache.lengths_B[ended] = 0
        logits_BV = model.step(chosen_B.unsqueeze(1), cache)
    return answers
