"""Which tokenizer is trained or imported."""

from dataclasses import dataclass
from typing import Literal

END_OF_TEXT, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (END_OF_TEXT, USER, ASSISTANT)
MASK = "<|mask|>"
SENTINEL = "<|sentinel_{number}|>"
UNKNOWN = "<|unknown|>"

NUM_BYTES = 256
_SMALLEST = {
    "byte-bpe": NUM_BYTES + len(SPECIAL_TOKENS),
    "sentencepiece-bpe": NUM_BYTES + len(SPECIAL_TOKENS) + 2,
    "unigram": NUM_BYTES + len(SPECIAL_TOKENS) + 2,
    "word": len(SPECIAL_TOKENS) + 2,
    "char": len(SPECIAL_TOKENS) + 2,
    "import": 0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Which kind of tokenizer is trained, and how large; or which one is taken as it is."""

    kind: Literal["byte-bpe", "word", "char", "unigram", "sentencepiece-bpe", "import"] = "byte-bpe"
    """byte-bpe, unigram and sentencepiece-bpe can write any text; word and char have an unknown token; import takes
    an existing tokenizer from ``path``."""
    vocab_size: int = 4096
    """Number of tokens, special ones included. Word and char tokenizers may have fewer."""
    min_frequency: int = 0
    """How often a word, a character or a pair to be merged must occur to become a token."""
    lowercase: bool = False
    """Whether capitals are read as small letters; decoding then does not give the text back. For word and char."""
    character_coverage: float = 0.9995
    """The share of the characters that get a token of their own; the rest are written as bytes. For unigram and
    sentencepiece-bpe."""
    mask_token: bool = False
    """Whether there is a token that stands for a hidden one, as masked training needs."""
    num_sentinels: int = 0
    """How many tokens there are that stand for a whole hidden span, as span corruption needs."""
    path: str = ""
    """What is imported: a Hugging Face folder or tokenizer.json, a tiktoken file, or a SentencePiece .model."""
    split_pattern: str = "cl100k"
    """How a tiktoken file's text is cut before merging, which the file does not say: gpt2, cl100k, o200k or a
    regular expression."""

    def __post_init__(self) -> None:
        """Refuse what cannot hold, or names nothing."""
        if self.num_sentinels < 0:
            raise ValueError(f"num_sentinels must not be negative, got {self.num_sentinels}")
        smallest = _SMALLEST[self.kind]
        if self.kind != "import":
            smallest += len(self.special_tokens) - len(SPECIAL_TOKENS)
        if self.vocab_size < smallest:
            raise ValueError(f"vocab_size must be at least {smallest} for {self.kind}, got {self.vocab_size}")
        if self.min_frequency < 0:
            raise ValueError(f"min_frequency must be 0 or more, got {self.min_frequency}")
        if not 0 < self.character_coverage <= 1:
            raise ValueError(f"character_coverage must be above 0 and at most 1, got {self.character_coverage}")
        if self.lowercase and self.kind not in ("word", "char"):
            raise ValueError(f"lowercase must be false for {self.kind}, got true")
        if (self.kind == "import") != bool(self.path):
            raise ValueError(f"path must be given for import and for nothing else, got {self.path!r} for {self.kind}")

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens of a tokenizer that is trained, in the order of their ids."""
        sentinels = (SENTINEL.format(number=number) for number in range(self.num_sentinels))
        return (*SPECIAL_TOKENS, *([MASK] if self.mask_token else []), *sentinels)
