"""The tokenizer that a GGUF file describes, as a tokenizer.json."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from preceptor.core.errors import ArtifactError
from preceptor.tokenizer.imports import SPLIT_PATTERNS
from preceptor.tokenizer.sentencepiece_model import from_model

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_SPACE = "\u2581"
_OWN = "name a tokenizer of its own: the folder or the tokenizer.json from which the file was made"


@dataclass(frozen=True, slots=True)
class _Split:
    """How a byte-level tokenizer cuts a text before it merges, and what comes with it."""

    pattern: str
    digits: bool = False
    """Each digit stands alone, whatever the pattern says."""
    composed: bool = False
    """The text is brought to the normal form C first."""
    whole_words: bool = False
    """A word that is a token is taken as it is, even where no merges lead to it."""
    add_bos: bool = False
    """A text begins with the token for that, unless the file says otherwise."""


_GPT2 = SPLIT_PATTERNS["gpt2"]
_LLAMA3 = SPLIT_PATTERNS["cl100k"]
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT4O = SPLIT_PATTERNS["o200k"]
_TEKKEN = _GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {
    **dict.fromkeys(("gpt-2", "phi-2", "exaone4"), _Split(_GPT2)),
    **dict.fromkeys(("olmo", "mpt"), _Split(_GPT2, composed=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _Split(_GPT2, digits=True)),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe"), _Split(_LLAMA3, whole_words=True, add_bos=True)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Split(_LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _Split(_QWEN2, composed=True)),
    "tekken": _Split(_TEKKEN, whole_words=True, add_bos=True),
    "gpt-4o": _Split(_GPT4O),
}
SPLIT_NAMES = ("gpt-2", *(name for name in _SPLITS if name != "gpt-2"))
"""The names of the rules by which a byte-level tokenizer of a GGUF file cuts text."""


def tokenizer_json(metadata: Mapping[str, Any], place: str) -> str:
    """The content of a tokenizer.json that gives the ids of the tokenizer in the metadata of a GGUF file.

    It follows the tokenizers from which such files are made, where other readers of the format take shortcuts.

    Raises:
        ArtifactError: there is none, it is of a kind that is not known, or its parts do not fit together.
    """
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    try:
        return _built(said, str(metadata.get("general.architecture")), place)
    except ArtifactError:
        raise
    except Exception as error:  # tokenizers raises plain Exception on a vocabulary it cannot use
        raise ArtifactError(f"{place} has a tokenizer that cannot be used: {error}", remedy=_OWN) from error


def _built(said: Mapping[str, Any], architecture: str, place: str) -> str:
    kind, tokens = said.get("model"), said.get("tokens")
    if not isinstance(tokens, list) or kind not in ("gpt2", "llama"):
        raise ArtifactError(
            f"{place} has a tokenizer of the kind {kind!r}; known are gpt2 (byte-level BPE) and llama (SentencePiece "
            "BPE), each with its tokens",
            remedy=_OWN,
        )
    types = said.get("token_type", [1] * len(tokens))
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ArtifactError(
            f"{place} has {len(tokens)} tokens, of which {len(set(tokens))} are different, and {len(types)} types",
            remedy=_OWN,
        )
    if kind == "gpt2":
        split = _split(said, architecture, place)
        tokenizer, add_bos = _byte_level(tokens, types, said.get("merges", ()), split), split.add_bos
    else:
        tokenizer, add_bos = _sentencepiece(tokens, types, said), True
    first = _token(tokens, said, "bos") if said.get("add_bos_token", add_bos) else []
    last = _token(tokens, said, "eos") if said.get("add_eos_token", False) else []
    if first or last:
        tokenizer.post_processor = _around(first, last)
    return str(tokenizer.to_str(pretty=False))


def _around(first: list[tuple[str, int]], last: list[tuple[str, int]]) -> processors.TemplateProcessing:
    """What puts the given tokens before and behind a text, and each of a pair of texts."""
    before, behind = [token for token, _ in first], [token for token, _ in last]
    second = [f"{part}:1" for part in [*before, "$B", *behind]]
    return processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=[*before, "$A", *behind, *second],
        special_tokens=list({*first, *last}),
    )


def _token(tokens: Sequence[str], said: Mapping[str, Any], name: str) -> list[tuple[str, int]]:
    number = said.get(f"{name}_token_id")
    return [] if number is None else [(tokens[number], number)]


def _split(said: Mapping[str, Any], architecture: str, place: str) -> _Split:
    """How the text is cut; a file without a word on it is old, and only of GPT-2's kind is it clear what it means."""
    name = said.get("pre", "gpt-2" if architecture in ("gpt2", "gptneox") else None)
    if name not in _SPLITS:
        raise ArtifactError(
            f"{place} has a tokenizer that cuts text by the rule {name!r}; known are {', '.join(sorted(_SPLITS))}",
            remedy=_OWN,
        )
    return _SPLITS[name]


def _byte_level(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], split: _Split
) -> tokenizers.Tokenizer:
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, pairs, ignore_merges=split.whole_words))
    if split.composed:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    steps += [
        pre_tokenizers.Split(Regex(split.pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, tokens, types)
    return tokenizer


def _add_tokens(tokenizer: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Mark the tokens that are found whole in a text, before it is cut."""
    kinds = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens(
        [AddedToken(token, special=kind == _CONTROL, normalized=False) for token, kind in kinds if token]
    )


def _sentencepiece(tokens: Sequence[str], types: Sequence[int], said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """By way of the .model file, from which such a GGUF file was made."""
    scores = said["scores"]
    # GGUF keeps the pieces that a user defined with the spaces of the text.
    pieces = [
        token.replace(" ", _SPACE) if kind == _USER_DEFINED else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    model = b"".join(
        _part(1, _part(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
        for piece, score, kind in zip(pieces, scores, types, strict=True)
    )
    model += _part(2, _number(3, 2) + _number(35, int(_BYTE in types)))
    model += _part(
        3,
        _number(3, int(said.get("add_space_prefix", True))) + _number(4, int(said.get("remove_extra_whitespaces", 0))),
    )
    return tokenizers.Tokenizer.from_str(from_model(model))


def _part(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    """A field of a protocol buffer that holds a number."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
