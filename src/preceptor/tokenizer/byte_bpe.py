"""Byte-level byte-pair encoding, trained by a fast trainer whose merges are those of `tokenizers`."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from preceptor.core.errors import ConfigError
from preceptor.core.progress import say
from preceptor.tokenizer.config import SPECIAL_TOKENS, TokenizerConfig

_ALPHABET: list[str] = sorted(pre_tokenizers.ByteLevel.alphabet())
_SAMPLE_CHARACTERS = 1 << 16
_SAMPLE_TOKENS = 512
# The fast trainer cuts its input at line feeds, which the reference does not. A vertical tab stands in for them: it is
# white space as well, and the next byte in the order by which ties are broken, so that nothing else changes.
_SWAPPED = bytes.maketrans(b"\n\x0b", b"\x0b\n")
_SWAPPED_SHOWN = str.maketrans("Ċċ", "ċĊ")
# Ends every text so that its own last word stays as it is: what is added falls into words of one byte, without pairs.
_ENDING = b"\tb\n"


def byte_bpe(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> str:
    """The definition of a byte-level BPE tokenizer trained on the texts, as the text of a tokenizer.json.

    Text is first cut into words by GPT-2's pattern; merges never cross a word. The merges are those of `tokenizers`,
    which is asked again where the fast trainer cannot be used or differs on a sample. The texts stand in a temporary
    file of the folder meanwhile.

    Raises:
        ConfigError: the texts cannot give so large a vocabulary; the largest possible is named.

    Source: Sennrich et al. 2016, algorithm 1; Radford et al. 2019 for the byte alphabet and the pattern.
    """
    # Tokens that only some tokenizers have come last, so that merges have the same ids in all.
    num_learned = config.vocab_size - (len(config.special_tokens) - len(SPECIAL_TOKENS))
    coming = iter(texts)
    sample = list(_sample(coming))
    everything = chain(sample, coming)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "texts"
        with path.open("w+b") as file:
            odd = _write(everything, file)
            if odd is None and _is_trusted(sample, Path(place), config.min_frequency):
                file.flush()
                vocab, merges = _fast(path, num_learned, config.min_frequency)
            else:
                rest = () if odd is None else chain([odd], everything)
                vocab, merges = _exact(chain(_read(file), rest), num_learned, config.min_frequency)
    if len(vocab) < num_learned:
        most = len(vocab) + config.vocab_size - num_learned
        raise ConfigError(
            f"tokenizer.vocab_size is {config.vocab_size}, but this text gives at most {most} tokens",
            path="tokenizer.vocab_size",
            expected=f"at most {most}",
            remedy=f"set tokenizer.vocab_size={most} or smaller, or add text",
        )
    model = _empty(models.BPE(vocab, merges))
    model.add_special_tokens(list(config.special_tokens))
    return model.to_str(pretty=False)


def _sample(texts: Iterator[str]) -> Iterator[str]:
    characters = 0
    for text in texts:
        yield text
        characters += len(text)
        if characters >= _SAMPLE_CHARACTERS:
            return


def _write(texts: Iterable[str], file: BinaryIO) -> str | None:
    """Write the texts for the fast trainer; the first text that cannot be written so, where it stops, or None."""
    for text in texts:
        written = text.encode("utf-8", "replace")
        if b"\x0b" in written:
            return text
        file.write(written.translate(_SWAPPED) + _ENDING)
    return None


def _read(file: BinaryIO) -> Iterator[str]:
    file.seek(0)
    for line in file:
        yield line.removesuffix(_ENDING).translate(_SWAPPED).decode()


def _is_trusted(sample: list[str], folder: Path, min_frequency: int) -> bool:
    """Whether the fast trainer is there and gives the merges of the reference on a sample of these texts."""
    try:
        import gigabpe  # noqa: F401
    except ImportError as error:
        say(f"warning: the fast trainer cannot be loaded ({error}); the slower reference is used")
        return False
    cut = [text[:_SAMPLE_CHARACTERS] for text in sample]
    path = folder / "sample"
    with path.open("wb") as file:
        _write(cut, file)
    size = _SAMPLE_TOKENS
    if _fast(path, size, min_frequency) == _exact(cut, size, min_frequency):
        return True
    say("warning: the fast trainer differs from the reference on these texts; the slower reference is used")
    return False


def _fast(path: Path, vocab_size: int, min_frequency: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges by the fast trainer, whose alphabet has only the bytes that occur."""
    import gigabpe

    _, found = gigabpe.train_bpe(
        [str(path)],
        vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        pretokenizer="bytelevel",
        min_frequency=min_frequency,
    )
    vocab = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *_ALPHABET])}
    merges = []
    for pair in found:
        if len(vocab) >= vocab_size:
            break
        left, right = (part.translate(_SWAPPED_SHOWN) for part in pair)
        vocab.setdefault(left + right, len(vocab))
        merges.append((left, right))
    return vocab, merges


def _exact(texts: Iterable[str], vocab_size: int, min_frequency: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges by the reference."""
    model = _empty(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    table = json.loads(model.to_str())["model"]
    return table["vocab"], [(left, right) for left, right in table["merges"]]


def _empty(model: models.BPE) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
