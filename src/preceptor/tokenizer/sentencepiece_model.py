"""SentencePiece: training its two kinds on word counts, and its .model file as a tokenizer.json."""

import io
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.tokenizer.config import UNKNOWN, TokenizerConfig

_SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_WORD = re.compile(r" ?[^\s]+| +")
_LARGEST_WORDS = 4_000_000
_LONGEST_WORD = 1000
# Fixed, because the sums of a training in parallel depend on how the work is divided.
_NUM_THREADS = 4


def train_sentencepiece(texts: Iterable[str], config: TokenizerConfig) -> str:
    """The definition of a Unigram or SentencePiece-BPE tokenizer trained on the texts.

    Text is taken as it is, without a space put before it; what has no token of its own is written as bytes.

    Raises:
        ConfigError: the texts cannot give so large a vocabulary.

    Source: Kudo and Richardson 2018; Kudo 2018 for the Unigram model.
    """
    import sentencepiece

    counts = count_words(texts)
    written = io.BytesIO()
    kind = "unigram" if config.kind == "unigram" else "bpe"
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{count}" for word, count in counts if count >= config.min_frequency),
            input_format="tsv",
            model_writer=written,
            model_type=kind,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            control_symbols=list(config.special_tokens[1:]),
            unk_piece=UNKNOWN,
            unk_id=3,
            bos_id=-1,
            eos_id=0,
            eos_piece=config.special_tokens[0],
            max_sentence_length=_LONGEST_WORD * 8,
            num_threads=_NUM_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise _too_large(config, str(error)) from error
    return from_model(written.getvalue())


def _too_large(config: TokenizerConfig, said: str) -> ConfigError:
    key = "tokenizer.vocab_size"
    # SentencePiece ends with "Please set it to a value <= 396." where it knows how many tokens the text gives.
    if found := re.search(r"value <= (\d+)", said):
        most = found[1]
        return ConfigError(
            f"{key} is {config.vocab_size}, but this text gives a {config.kind} tokenizer at most {most} tokens",
            path=key,
            expected=f"at most {most}",
            remedy=f"set {key}={most} or smaller, or add text",
        )
    if found := re.search(r"required_chars\. \d+ vs (\d+)", said):
        least = found[1]
        return ConfigError(
            f"{key} is {config.vocab_size}, but the characters of this text alone need {least}",
            path=key,
            expected=f"at least {least}",
            remedy=f"set {key}={least} or larger, or a smaller tokenizer.character_coverage",
        )
    return ConfigError(
        f"a {config.kind} tokenizer of {config.vocab_size} tokens cannot be trained on this text: {said}",
        path=key,
        remedy=f"set a smaller {key}, or add text",
    )


def count_words(texts: Iterable[str]) -> list[tuple[str, int]]:
    """The words of the texts, each with the space before it, and how often each occurs; in order of the words.

    When there are more different words than fit in memory, the rarest are forgotten.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.encode("utf-8", "replace").decode()))
        if len(counts) > _LARGEST_WORDS:
            counts = Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: _LARGEST_WORDS // 2]))
    return sorted((word, count) for word, count in counts.items() if len(word) <= _LONGEST_WORD and "\0" not in word)


@dataclass
class _Model:
    """What of a .model file decides the ids."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    kind: int = _UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    byte_fallback: bool = False


def from_model(data: bytes) -> str:
    """The tokenizer.json that gives the ids of a SentencePiece .model file.

    Raises:
        ArtifactError: it is no such file, or of the word or character kind.
    """
    model = _parse(data)
    if not model.pieces or model.kind not in (_UNIGRAM, _BPE):
        raise ArtifactError(
            f"the SentencePiece model has {len(model.pieces)} pieces and is of kind {model.kind}",
            remedy="import a Unigram (1) or BPE (2) model",
        )
    kinds = [kind for _, _, kind in model.pieces]
    unknown = kinds.index(_UNKNOWN)
    tokenizer = tokenizers.Tokenizer(_unigram(model, unknown) if model.kind == _UNIGRAM else _bpe(model, unknown))
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece in _of(model, _UNKNOWN, _CONTROL)]
    )
    own = _of(model, _USER_DEFINED)
    has_space = any(_SPACE in piece for piece in own)
    if has_space and (model.add_dummy_prefix or model.remove_extra_whitespaces):
        raise ArtifactError(
            "the SentencePiece model changes the spaces of a text and has user-defined pieces with a space",
            remedy="a tokenizer.json cannot do both; import it as a Hugging Face folder, if there is one",
        )
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=has_space) for piece in own])
    return str(tokenizer.to_str(pretty=False))


def _of(model: _Model, *kinds: int) -> list[str]:
    return [piece for piece, _, kind in model.pieces if kind in kinds]


def _unigram(model: _Model, unknown: int) -> models.Unigram:
    # Scores that no way to write a text reaches: these pieces stand for no text, but the library would find them in it.
    lowest = min((score for _, score, kind in model.pieces if kind == _NORMAL), default=0.0)
    never = lowest * 20 - 100
    vocab = [(piece, never if kind in (_CONTROL, _BYTE) else score) for piece, score, kind in model.pieces]
    return models.Unigram(vocab, unknown, byte_fallback=model.byte_fallback)


def _bpe(model: _Model, unknown: int) -> models.BPE:
    vocab = {piece: number for number, (piece, _, _) in enumerate(model.pieces)}
    normal = {piece for piece, _, kind in model.pieces if kind == _NORMAL}
    merges = []
    for piece in sorted(normal, key=vocab.__getitem__):
        splits = [(piece[:place], piece[place:]) for place in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in normal and pair[1] in normal]
        merges += [(-model.pieces[vocab[piece]][1], vocab[left], vocab[right], left, right) for left, right in known]
    merges.sort()
    return models.BPE(
        vocab,
        [(left, right) for *_, left, right in merges],
        unk_token=model.pieces[unknown][0],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _parse(data: bytes) -> _Model:
    """The parts of the file that matter; it is a protocol buffer, of the fields in sentencepiece_model.proto."""
    model = _Model()
    try:
        for number, value in _fields(data):
            if number == 1:
                model.pieces.append(_piece(value))
            elif number == 2:
                spec = dict(_fields(value))
                model.kind = spec.get(3, _UNIGRAM)
                model.byte_fallback = bool(spec.get(35, 0))
            elif number == 3:
                spec = dict(_fields(value))
                model.charsmap = spec.get(2, b"")
                model.add_dummy_prefix = bool(spec.get(3, 1))
                model.remove_extra_whitespaces = bool(spec.get(4, 1))
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise ArtifactError(
            f"this is no SentencePiece model that can be read: {error}", remedy="check the path of the import"
        ) from error
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    parts = dict(_fields(data))
    return parts[1].decode(), struct.unpack("<f", parts.get(2, bytes(4)))[0], parts.get(3, _NORMAL)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The numbered fields of a protocol buffer message: numbers as int, all else as bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        if key & 7 == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, place = _varint(data, place)
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"byte {place} starts a field of an unknown kind")
        if place + size > len(data):
            raise ValueError(f"the file ends inside a field, at byte {len(data)}")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
