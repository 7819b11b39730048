"""Names of people, found by a model that the user has installed."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from preceptor.core.errors import ConfigError
from preceptor.data.spans import Span

_PIECE_CHARACTERS = 2000
"""How much text a model is given at once; a model of 512 tokens cuts off what is longer."""
_PERSON_LABELS = {"PER", "PERSON", "B-PER", "I-PER"}

FindNames = Callable[[str], Iterator[tuple[int, int]]]


def load(model: str) -> FindNames:
    """What finds names in a text, as pairs of start and end.

    Args:
        model: the folder of a token classifier of transformers, or the name of an installed spaCy model.

    Raises:
        ConfigError: there is no such folder and no such model.
    """
    if Path(model).is_dir():
        return _classifier(model)
    try:
        language: Any = importlib.import_module("spacy").load(
            model, exclude=["tagger", "parser", "lemmatizer", "attribute_ruler"]
        )
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"person_model {model!r} is neither the folder of a token classifier nor an installed spaCy model",
            path="data.personal.person_model",
            remedy="install spaCy and the model, name a folder with a token classifier, or leave person_model empty",
        ) from error

    def find(text: str) -> Iterator[tuple[int, int]]:
        for entity in language(text).ents:
            if entity.label_ in _PERSON_LABELS:
                yield entity.start_char, entity.end_char

    return find


def _classifier(folder: str) -> FindNames:
    try:
        transformers: Any = importlib.import_module("transformers")
        pipeline = transformers.pipeline("token-classification", model=folder, aggregation_strategy="simple")
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"person_model {folder!r} cannot be loaded as a token classifier: {error}",
            path="data.personal.person_model",
            remedy="install transformers, and name a folder with config.json, the weights and a fast tokenizer",
        ) from error

    def find(text: str) -> Iterator[tuple[int, int]]:
        for entity in pipeline(text):
            if entity["entity_group"] in _PERSON_LABELS:
                yield int(entity["start"]), int(entity["end"])

    return find


def find_persons(text: str, find: FindNames) -> Iterator[Span]:
    """The names in a text of any length, read in pieces that end between lines or words."""
    start = 0
    while start < len(text):
        end = _piece_end(text, start)
        for first, last in find(text[start:end]):
            while first < last and text[start + first].isspace():
                first += 1
            if first < last:
                yield Span(start + first, start + last, "person")
        start = end


def _piece_end(text: str, start: int) -> int:
    end = start + _PIECE_CHARACTERS
    if end >= len(text):
        return len(text)
    for separator in ("\n", ". ", " "):
        at = text.rfind(separator, start + _PIECE_CHARACTERS // 2, end)
        if at > start:
            return at + len(separator)
    return end
