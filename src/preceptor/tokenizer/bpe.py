"""Training under the name it had when there was one kind of tokenizer."""

from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

__all__ = ["TokenizerConfig", "train"]
