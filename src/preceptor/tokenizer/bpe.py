"""Byte-level byte-pair encoding: trained on a corpus, saved as a tokenizer.json."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from preceptor.core.errors import ConfigError
from preceptor.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

NUM_BYTES = 256
SMALLEST_VOCABULARY = NUM_BYTES + len(SPECIAL_TOKENS)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Which kind of tokenizer is trained, and how large."""

    kind: Literal["byte-bpe"] = "byte-bpe"
    """Byte-level byte-pair encoding: no text is out of vocabulary."""
    vocab_size: int = 4096
    """Number of tokens: all 256 bytes, the special tokens, and the merges the corpus gives."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot hold every byte."""
        if self.vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(
                f"vocab_size must be at least {SMALLEST_VOCABULARY} (256 bytes and {len(SPECIAL_TOKENS)} special "
                f"tokens), got {self.vocab_size}"
            )


def train(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> Tokenizer:
    """A tokenizer trained on the texts, whose files are then in the folder.

    Text is first cut into words by GPT-2's pattern; merges never cross a word.

    Raises:
        ConfigError: the texts cannot give so large a vocabulary; the largest possible is named.

    Source: Sennrich et al. 2016, algorithm 1; Radford et al. 2019 for the byte alphabet and the pattern.
    """
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    found = model.get_vocab_size(with_added_tokens=True)
    if found < config.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size is {config.vocab_size}, but this text gives at most {found} tokens",
            path="tokenizer.vocab_size",
            expected=f"at most {found}",
            remedy=f"set tokenizer.vocab_size={found} or smaller, or add text",
        )
    tokenizer = Tokenizer(model.to_str(pretty=False))
    tokenizer.save(folder)
    return tokenizer
