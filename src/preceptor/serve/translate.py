"""Targets for sources: what an encoder-decoder writes. The source is read once; a cache keeps the target so far."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from preceptor.models.encoder_decoder import EncoderDecoder
from preceptor.models.encoder_decoder_stacks import SourceCache
from preceptor.nn.inputs import Inputs
from preceptor.serve.beams import Beams
from preceptor.serve.generate import sampler
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.tokenizer import Tokenizer

BATCH_SIZE = 16


def source_ids(
    tokenizer: Tokenizer, text: str, max_tokens: int, prefix_ids: Sequence[int] = ()
) -> tuple[list[int], bool]:
    """A source as the model reads it, and whether it was cut at the end."""
    ids = [*prefix_ids, *tokenizer.encode(text)]
    return [*ids[: max_tokens - 1], tokenizer.end_of_text_id], len(ids) > max_tokens - 1


def target_ids(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    config: SamplingConfig,
    end_of_text_id: int,
    batch_size: int = BATCH_SIZE,
) -> list[list[int]]:
    """The ids of the target of each source, without the end of text, in batches of like length; each as if alone.

    With several beams it is the best that they find, and nothing is drawn.
    """
    write = _sample if config.beams == 1 else _search
    return _in_batches(sources, batch_size, lambda some: write(model, some, config, end_of_text_id))


def stream_target(
    model: EncoderDecoder, source: Sequence[int], config: SamplingConfig, end_of_text_id: int
) -> Iterator[int]:
    """The ids of one target as they are drawn, until the end of text (which is not given out) or the longest answer.

    With several beams all come at the end.
    """
    if config.beams > 1:
        yield from target_ids(model, [source], config, end_of_text_id)[0]
        return
    choose, room = sampler(config), _room(model, config.max_new_tokens)
    cache = model.new_cache(1, room)
    tokens_B1 = model.start(_inputs(model, [source]), cache)
    for _ in range(room):
        tokens_B1 = choose(model.step(tokens_B1, cache)).to(tokens_B1.device).unsqueeze(1)
        if int(tokens_B1) == end_of_text_id:
            return
        yield int(tokens_B1)


def _room(model: EncoderDecoder, max_new_tokens: int) -> int:
    """How many tokens a target can have: what is read is the start and all of them but the last."""
    return min(max_new_tokens, model.longest_document)


def _in_batches(
    sources: Sequence[Sequence[int]], batch_size: int, write: Callable[[list[Sequence[int]]], list[list[int]]]
) -> list[list[int]]:
    """What is written for each source, in order, where sources of like length are read together."""
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    targets: list[list[int]] = [[] for _ in sources]
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        for place, target in zip(places, write([sources[place] for place in places]), strict=True):
            targets[place] = target
    return targets


def _inputs(model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> Inputs:
    """Sources as rows, padded on the right."""
    device = model.input_embedding.weight.device
    shape = (len(sources), max(map(len, sources)))
    tokens_BS = torch.zeros(shape, dtype=torch.int64)
    segments_BS = torch.full(shape, -1)
    for row, source in enumerate(sources):
        tokens_BS[row, : len(source)] = torch.tensor(source)
        segments_BS[row, : len(source)] = 0
    is_padded = bool((segments_BS < 0).any())
    return Inputs(tokens_BS.to(device), None, segments_BS.to(device) if is_padded else None)


def _sample(
    model: EncoderDecoder, sources: list[Sequence[int]], config: SamplingConfig, end_of_text_id: int
) -> list[list[int]]:
    choose, room = sampler(config), _room(model, config.max_new_tokens)
    cache = model.new_cache(len(sources), room)
    tokens_B1 = model.start(_inputs(model, sources), cache)
    targets: list[list[int]] = [[] for _ in sources]
    running = [True] * len(sources)
    for _ in range(room):
        tokens_B1 = choose(model.step(tokens_B1, cache)).to(tokens_B1.device).unsqueeze(1)
        for row, token in enumerate(tokens_B1[:, 0].tolist()):
            running[row] = running[row] and token != end_of_text_id
            if running[row]:
                targets[row].append(token)
        if not any(running):
            break
    return targets


def _search(
    model: EncoderDecoder, sources: list[Sequence[int]], config: SamplingConfig, end_of_text_id: int
) -> list[list[int]]:
    """The best target of each source among those that beam search finds."""
    room, width = _room(model, config.max_new_tokens), config.beams
    cache = model.new_cache(len(sources) * width, room)
    start_B1 = model.start(_inputs(model, sources), cache)
    # The source is read once for all beams of a row.
    cache.source_keys_and_values = tuple(
        (keys.repeat_interleave(width, 0), values.repeat_interleave(width, 0))
        for keys, values in cache.source_keys_and_values
    )
    if cache.source_mask_B11S is not None:
        cache.source_mask_B11S = cache.source_mask_B11S.repeat_interleave(width, 0)
    beams = Beams(len(sources), config, room, end_of_text_id, start_B1.device)
    tokens_R1 = start_B1.repeat_interleave(width, 0)
    while True:
        chosen = beams.extend(model.step(tokens_R1, cache))
        if chosen is None:
            return beams.best()
        rows_R, tokens_R = chosen
        _reorder(cache, rows_R)
        tokens_R1 = tokens_R.unsqueeze(1)


def _reorder(cache: SourceCache, rows_R: Tensor) -> None:
    """Let each row go on from what another holds; both have the same source."""
    held = int(cache.lengths_B.max())
    for stored in (cache.keys_LBSKH, cache.values_LBSKH):
        stored[:, :, :held] = stored[:, rows_R, :held]
