"""Word and character tokenizers: the most frequent units of the text, and one token for all others."""

from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from preceptor.tokenizer.config import UNKNOWN, TokenizerConfig

# A word takes the space before it with it, so that known words give the text back.
_PATTERNS = {"word": r" ?\w+| ?[^\w\s]+|\s+(?!\S)|\s+", "char": r"[\s\S]"}


def plain_units(texts: Iterable[str], config: TokenizerConfig) -> str:
    """The definition of a word or character tokenizer trained on the texts, as the text of a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    if config.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PATTERNS[config.kind]), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*config.special_tokens, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str(pretty=False))
