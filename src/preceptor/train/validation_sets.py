"""Named sets whose loss is taken at every validation: each source of a corpus, and held-out files."""

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.core.errors import DataError
from preceptor.core.progress import say
from preceptor.core.seeds import KeyedPermutation, derive
from preceptor.data.example_types import ExampleSet, Task
from preceptor.data.examples import read_examples
from preceptor.data.held_out import read_texts
from preceptor.data.sources import Reader
from preceptor.models.config import ModelConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Objective
from preceptor.objectives.choice import objective_for
from preceptor.objectives.task import Prepared
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.run import FinetuningConfig, PretrainingConfig
from preceptor.train.validation_config import source_names

_TEXTS_AT_ONCE = 32


class ValidationSet(NamedTuple):
    """An objective over the tokens of a set, and the rows of it that the loss is taken on: always the same ones."""

    objective: Objective
    rows: Sequence[int]


def pretraining_sets(
    config: PretrainingConfig,
    train: TokenStream,
    validation: TokenStream,
    tokenizer: Tokenizer,
    seed: int,
    model_config: ModelConfig,
    reader: Reader,
) -> dict[str, ValidationSet]:
    """The sets of a pre-training by name: each source of the corpus, where there are several, and the held-out files.

    A source that has no validation document is told and left out.

    Raises:
        DataError: the texts of a file cannot be read, or there is nothing in them to predict.
    """
    seed = derive(seed, "validation")
    sets: dict[str, ValidationSet] = {}
    lacking = []
    for label, name in source_names(list(dict.fromkeys([*train.collections, *validation.collections]))).items():
        stream = of_source(validation, label, config.validation_tokens, derive(seed, "source", label))
        found = _stream_set(config, stream, config.validation_tokens, tokenizer, seed, model_config)
        if found is None:
            lacking.append(name)
        else:
            sets[name] = found
    if lacking:
        say(f"pretrain: no validation loss of its own for {', '.join(lacking)}, of which no validation document holds")
    for each in config.validation_sets:
        max_tokens = each.max_tokens or config.validation_tokens
        texts = read_texts(each.source, reader)
        stream = encode_some(texts, tokenizer, max_tokens, derive(seed, "set", each.name))
        found = _stream_set(config, stream, max_tokens, tokenizer, seed, model_config)
        if found is None:
            raise DataError(
                "holds nothing to predict", file=each.path, remedy=f"put more text into the validation set {each.name}"
            )
        sets[each.name] = found
    return sets


def finetuning_sets(
    config: FinetuningConfig, task: Task, read: Callable[[ExampleSet], Prepared], seed: int
) -> dict[str, ValidationSet]:
    """The sets of a fine-tuning by name; ``read`` gives examples as the model reads them.

    Raises:
        DataError: a file cannot be read, or no example of it leaves anything to predict.
    """
    seed = derive(seed, "validation")
    sets = {}
    for each in config.validation_sets:
        objective = read(read_examples(Path(each.path), task, config.columns)).objective
        wanted = each.max_tokens or config.validation_tokens
        sets[each.name] = ValidationSet(
            objective, drawn_rows(objective.num_rows, wanted // config.context_length, derive(seed, "set", each.name))
        )
    return sets


def drawn_rows(num_rows: int, wanted: int, key: int) -> list[int]:
    """Some of so many rows, at least one, drawn by a key."""
    order = KeyedPermutation(num_rows, key)
    return [order(place) for place in range(min(max(1, wanted), num_rows))]


def of_source(stream: TokenStream, label: str, max_tokens: int, key: int) -> TokenStream:
    """Documents of one source, drawn by a key until they have so many tokens."""
    if label not in stream.collections:
        return stream.only(np.empty(0, np.int64))
    lengths = np.diff(stream.offsets)
    # A document of one token is an end of text behind nothing.
    members = np.flatnonzero((stream.sources == stream.collections.index(label)) & (lengths > 1))
    chosen: list[int] = []
    total = 0
    order = KeyedPermutation(max(1, len(members)), key)
    while total < max_tokens and len(chosen) < len(members):
        chosen.append(int(members[order(len(chosen))]))
        total += int(lengths[chosen[-1]])
    return stream.only(np.array(sorted(chosen), np.int64))


def encode_some(texts: Iterable[str], tokenizer: Tokenizer, max_tokens: int, key: int) -> TokenStream:
    """Texts drawn by a key until they have so many tokens; no more of them are held in memory on the way."""
    # The text that comes last in the order of what is drawn stands first.
    drawn: list[tuple[int, int, NDArray[np.uint32]]] = []
    total = number = 0
    waiting = iter(texts)
    while batch := list(islice(waiting, _TEXTS_AT_ONCE)):
        for ids in tokenizer.encode_many(batch):
            document = np.append(ids, np.uint32(tokenizer.end_of_text_id)).astype(np.uint32)
            if len(document) > 1:
                heappush(drawn, (-derive(key, number), number, document))
                total, number = total + len(document), number + 1
            while drawn and total - len(drawn[0][2]) >= max_tokens:
                total -= len(heappop(drawn)[2])
    drawn.sort(key=lambda each: each[1])
    documents = [document for _, _, document in drawn]
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    names = np.array([f"{place}" for _, place, _ in drawn], np.bytes_)
    return TokenStream(np.concatenate([np.empty(0, np.uint32), *documents]), offsets, names, num_bytes=0)


def _stream_set(
    config: PretrainingConfig,
    stream: TokenStream,
    max_tokens: int,
    tokenizer: Tokenizer,
    seed: int,
    model_config: ModelConfig,
) -> ValidationSet | None:
    """The set of a stream, if there is anything in it to predict."""
    if not stream.num_tokens:
        return None
    objective = objective_for(config.objective, stream, config.context_length, tokenizer, seed, model_config)
    rows = drawn_rows(objective.num_rows, max_tokens // config.context_length, derive(seed, "rows"))
    if all(bool((objective.collate([row]).labels_BT == IGNORED).all()) for row in rows):
        return None
    return ValidationSet(objective, rows)
