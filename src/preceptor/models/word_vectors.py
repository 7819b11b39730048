"""Starting word embeddings from a file of word vectors: Word2Vec, GloVe or fastText, for any tokenizer."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.models.language_model import LanguageModel
from preceptor.models.word_vector_files import VectorFile, open_vectors
from preceptor.models.word_vectors_config import WordVectorsConfig
from preceptor.tokenizer.tokenizer import Tokenizer

_PADDING_SCALE = 0.1
_LOWERCASED, _EXACT = 1, 2
# No word of any language and no piece of one; a tokenizer of whole words has one token for it, the unknown one.
_NO_WORD = "qzxjvkwq" * 4
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How much of a vocabulary, and of a text, a file of word vectors covers."""

    num_tokens: int
    """Tokens in the vocabulary, special ones included."""
    num_covered: int
    """Tokens that took a word's vector."""
    num_lowercased: int
    """Those of them that took it from the word in small letters."""
    num_words: int
    """Words in the file."""
    file_size: int
    """Numbers in each of the file's vectors."""
    hidden_size: int
    """Numbers in each row of the embedding."""
    num_text_tokens: int = 0
    """Tokens of the text, where their counts were given."""
    num_text_covered: int = 0
    """Tokens of the text whose row took a word's vector."""

    @property
    def share(self) -> float:
        """The covered share of the vocabulary."""
        return self.num_covered / self.num_tokens if self.num_tokens else 0.0

    @property
    def text_share(self) -> float | None:
        """The covered share of the text's tokens; None where no counts were given."""
        return self.num_text_covered / self.num_text_tokens if self.num_text_tokens else None

    def sentence(self) -> str:
        """The coverage in words."""
        said = (
            f"{self.num_covered:,} of {self.num_tokens:,} tokens ({self.share:.1%}) start from the vectors of "
            f"{self.num_words:,} words, {self.num_lowercased:,} of them from the word in small letters; "
            f"the others start from random numbers"
        )
        if self.text_share is not None:
            said += (
                f". They make up {self.num_text_covered:,} of the text's {self.num_text_tokens:,} tokens "
                f"({self.text_share:.1%})"
            )
        if self.file_size > self.hidden_size:
            said += (
                f". The vectors' {self.file_size} numbers were reduced to {self.hidden_size} by principal components"
            )
        elif self.file_size < self.hidden_size:
            said += f". The vectors' {self.file_size} numbers were filled up to {self.hidden_size} by small random ones"
        return said + "."

    def to_json(self) -> dict[str, Any]:
        """Every count and share by its name."""
        return {**asdict(self), "share": self.share, "text_share": self.text_share}


@torch.no_grad()
def start_from(
    model: LanguageModel,
    tokenizer: Tokenizer,
    config: WordVectorsConfig,
    generator: torch.Generator,
    token_counts: Mapping[int, int] | None = None,
) -> Coverage:
    """What a model's embedding, which is changed in place, now takes from the file; frozen where the setting says so.

    Rows are as large as the model's starting weights have them, unless the setting says otherwise.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is torn, wrong or empty, or none of its words is a token.
    """
    embedding = model.input_embedding.weight
    rows_VD, coverage = starting_rows(
        tokenizer,
        config.path,
        embedding.shape[1],
        generator,
        float(embedding.std()),
        std=config.std,
        lowercase=config.lowercase,
        token_counts=token_counts,
    )
    embedding[: len(rows_VD)] = rows_VD
    embedding.requires_grad_(not config.freeze)
    return coverage


def starting_rows(
    tokenizer: Tokenizer,
    path: str | Path,
    hidden_size: int,
    generator: torch.Generator,
    initializer_range: float,
    *,
    std: float = 0.0,
    lowercase: bool = True,
    token_counts: Mapping[int, int] | None = None,
) -> tuple[Tensor, Coverage]:
    """The starting rows of an embedding, float32 of shape V D, and how many of them come from the file.

    A token takes the vector of the word that it writes, without the space that marks a word's start; what the file
    lacks is tried in small letters. All other tokens start from the normal distribution, and those numbers do not
    depend on the file. A token that is only a piece of words stays random: the mean of all words that hold the piece
    is nearly the same vector for every frequent piece, and says nothing of what it means. So does a piece that merely
    looks like a word: "ran" without a space before it is a part of "grand", where the vocabulary tells them apart.

    Longer vectors are projected on their principal directions, taken without centring, which keeps the products
    between the tokens as well as any map to that size can. Shorter ones keep their numbers and get random ones of a
    tenth of their spread behind them. One factor then brings all filled rows to `std`, or to `initializer_range`
    where that is 0, so that they are as large as the random ones. Only the vectors of the vocabulary are kept.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is torn, wrong or empty, or none of its words is a token.

    Source: Eckart and Young 1936 for the projection.
    """
    if hidden_size < 1:
        raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
    path = Path(path)
    file = open_vectors(path)
    vectors, matched = _matches(tokenizer, file, lowercase)
    covered = np.flatnonzero(matched)
    if not len(covered):
        raise EmptyDataError(
            f"none of its {file.num_words:,} words is a token of the vocabulary",
            file=path,
            remedy="take word vectors of the text's language, or a tokenizer whose tokens are words",
        )
    rows_VD = torch.empty(tokenizer.vocab_size, hidden_size).normal_(0.0, initializer_range, generator=generator)
    filled = _resized(torch.from_numpy(vectors[covered]), hidden_size, generator)
    spread = _spread(filled, path)
    rows_VD[torch.from_numpy(covered)] = filled * ((std or initializer_range) / spread)
    counts = token_counts or {}
    return rows_VD, Coverage(
        num_tokens=tokenizer.vocab_size,
        num_covered=len(covered),
        num_lowercased=int((matched == _LOWERCASED).sum()),
        num_words=file.num_words,
        file_size=file.size,
        hidden_size=hidden_size,
        num_text_tokens=sum(counts.values()),
        num_text_covered=sum(counts.get(token, 0) for token in covered.tolist()),
    )


def _matches(tokenizer: Tokenizer, file: VectorFile, lowercase: bool) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The vector of every token, zeros where it has none, and how the token matches its word."""
    wanted = _wanted(tokenizer, lowercase)
    vectors = np.zeros((tokenizer.vocab_size, file.size), np.float32)
    matched = np.zeros(tokenizer.vocab_size, np.int8)
    for word, vector in file.vectors(wanted):
        for token, how in wanted[word]:
            if how > matched[token]:  # a word that comes twice keeps its first vector
                vectors[token], matched[token] = vector, how
    return vectors, matched


def _wanted(tokenizer: Tokenizer, lowercase: bool) -> dict[bytes, list[tuple[int, int]]]:
    """The words that tokens can take, each with those tokens and how they match it."""
    wanted: dict[bytes, list[tuple[int, int]]] = {}
    for token, word in _words(tokenizer):
        wanted.setdefault(word.encode(), []).append((token, _EXACT))
        if lowercase and word.lower() != word:
            wanted.setdefault(word.lower().encode(), []).append((token, _LOWERCASED))
    return wanted


def _words(tokenizer: Tokenizer) -> Iterator[tuple[int, str]]:
    """The tokens that are whole words, and the words without the space before them."""
    written = {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    has_marks = any(each[:1] == b" " and each[1:].strip() for each in written.values())
    marks_words = has_marks and len(tokenizer.encode(_NO_WORD)) > 1
    for token, data in written.items():
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue  # a part of a character
        word = text.removeprefix(" ")
        if word.strip() and (word != text or not marks_words or _starts_a_word(text)):
            yield token, word


def _starts_a_word(text: str) -> bool:
    """Whether a token without a space before it is a word all the same, where other tokens have one before theirs.

    Signs and numbers stand next to words, some scripts put no space between words, and a capital before small letters
    starts a word, as at the beginning of a line. Other letters go on from the token before.
    """
    first = text[0]
    if not first.isalpha():
        return True
    if unicodedata.name(first, "").startswith(_WITHOUT_SPACES):
        return True
    return len(text) > 1 and first.isupper() and text[1:].islower()


def _resized(vectors: Tensor, hidden_size: int, generator: torch.Generator) -> Tensor:
    """The vectors, of as many numbers as the embedding's rows have."""
    size = vectors.shape[1]
    if size < hidden_size:
        spread = _PADDING_SCALE * vectors.std(correction=0)
        padding = torch.empty(len(vectors), hidden_size - size).normal_(generator=generator) * spread
        return torch.cat([vectors, padding], dim=1)
    if size == hidden_size:
        return vectors
    wide = vectors.double()
    directions = torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(1)[:, :hidden_size]
    # A direction may point either way; which one must not depend on the machine.
    largest = directions.abs().argmax(dim=0, keepdim=True)
    directions = directions * directions.gather(0, largest).sign()
    projected: Tensor = wide @ directions
    return projected.float()


def _spread(vectors: Tensor, path: Path) -> float:
    """The standard deviation of all their numbers."""
    spread = float(vectors.std(correction=0))
    if not spread:
        raise DataError("all numbers of the tokens' vectors are the same", file=path, remedy="take another file")
    return spread
