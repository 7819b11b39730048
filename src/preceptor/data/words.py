"""What counts as a word when words are counted or compared."""

import re

# Scripts that write no space between words: there each character counts as a word, or a clause would be one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

# Words and punctuation marks as a treebank has them: a mark is a word of its own, "don't" is "do" and "n't", a hyphen
# between letters parts them, and numbers, abbreviations and addresses stay whole.
_TREEBANK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]'_*]"
    r"|[^\W\d_]+(?=n['\u2019]t\b)|n['\u2019]t\b|['\u2019](?:s|re|ve|ll|d|m|S)\b"
    r"|[^\W_](?:\w|[.@&](?=[a-z0-9])|[,'\u2019](?=[0-9])|(?<=[0-9])[-/:](?=[0-9]))*(?<!_)(?!n['\u2019]t\b)"
    r"|\.{2,}|-{2,}|\S"
)


def treebank_words(text: str) -> list[str]:
    """The words and the punctuation marks of a text, nearly as spaCy's English rules part it; in linear time."""
    return _TREEBANK.findall(text)
