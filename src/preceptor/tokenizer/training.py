"""A tokenizer of any kind, trained on texts or imported, with its files in a folder."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from preceptor.core.errors import output_errors
from preceptor.tokenizer.byte_bpe import byte_bpe
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.plain_units import plain_units
from preceptor.tokenizer.sentencepiece_model import train_sentencepiece
from preceptor.tokenizer.tokenizer import Tokenizer

SAMPLE_TEXTS = 256
"""On how many texts of the corpus a fast encoder must prove itself."""
_KEPT_CHARACTERS = 2048


class Sample:
    """Texts that pass by one by one, of which the beginnings of a few are kept: of n texts each with the same chance.

    Source: Vitter 1985, algorithm R.
    """

    def __init__(self, texts: Iterable[str], size: int = SAMPLE_TEXTS) -> None:
        self.kept: list[str] = []
        self._texts, self._size = texts, size

    def __iter__(self) -> Iterator[str]:
        """The texts."""
        draw = random.Random(0)
        for number, text in enumerate(self._texts):
            place = number if number < self._size else draw.randrange(number + 1)
            if number < self._size:
                self.kept.append(text[:_KEPT_CHARACTERS])
            elif place < self._size:
                self.kept[place] = text[:_KEPT_CHARACTERS]
            yield text


def train(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> Tokenizer:
    """A tokenizer whose files are then in the folder. The texts are taken one by one, and not at all for an import.

    Raises:
        ConfigError: the texts cannot give so large a vocabulary, or the import's path holds no tokenizer.
        ArtifactError: the import cannot be read.
    """
    sample = Sample(texts)
    with output_errors(folder):
        if config.kind == "import":
            tokenizer = import_tokenizer(Path(config.path), config.split_pattern)
        elif config.kind == "byte-bpe":
            tokenizer = Tokenizer(byte_bpe(sample, config, folder))
        elif config.kind in ("word", "char"):
            tokenizer = Tokenizer(plain_units(texts, config))
        else:
            tokenizer = Tokenizer(train_sentencepiece(sample, config))
    tokenizer.prove_fast_encoder(sample.kept)
    tokenizer.save(folder)
    return tokenizer
