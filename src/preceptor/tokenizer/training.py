"""A tokenizer of any kind, trained on texts or imported, with its files in a folder."""

from collections.abc import Iterable
from pathlib import Path

from preceptor.core.errors import output_errors
from preceptor.tokenizer.byte_bpe import byte_bpe
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.plain_units import plain_units
from preceptor.tokenizer.sentencepiece_model import train_sentencepiece
from preceptor.tokenizer.tokenizer import Tokenizer


def train(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> Tokenizer:
    """A tokenizer whose files are then in the folder. The texts are taken one by one, and not at all for an import.

    Raises:
        ConfigError: the texts cannot give so large a vocabulary, or the import's path holds no tokenizer.
        ArtifactError: the import cannot be read.
    """
    with output_errors(folder):
        if config.kind == "import":
            tokenizer = import_tokenizer(Path(config.path), config.split_pattern)
        elif config.kind == "byte-bpe":
            tokenizer = Tokenizer(byte_bpe(texts, config, folder))
        elif config.kind in ("word", "char"):
            tokenizer = Tokenizer(plain_units(texts, config))
        else:
            tokenizer = Tokenizer(train_sentencepiece(texts, config))
    tokenizer.save(folder)
    return tokenizer
