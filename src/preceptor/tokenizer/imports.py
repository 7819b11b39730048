"""Existing tokenizers taken as they are: a Hugging Face folder, a tiktoken file, a SentencePiece .model."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.tokenizer.alphabet import CHARACTER_OF
from preceptor.tokenizer.config import ASSISTANT, END_OF_TEXT, USER
from preceptor.tokenizer.sentencepiece_model import from_model
from preceptor.tokenizer.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPLIT_PATTERNS = {
    "gpt2": rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
    "cl100k": rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+(?i:{_CONTRACTIONS})?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*(?i:{_CONTRACTIONS})?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""The patterns that OpenAI's tiktoken publishes beside its rank files."""
_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")


def import_tokenizer(path: Path, split_pattern: str, *, chats: bool = True) -> Tokenizer:
    """The tokenizer at a path, with the same ids for the same text.

    Where it has no end of text, or neither a chat template nor our tokens for one, these are added behind its own; no
    tokens for chats where it is that of a model that does not write.

    Raises:
        ConfigError: there is nothing at the path, or nothing that is known.
        ArtifactError: it cannot be read.
    """
    said: dict[str, Any] = {}
    if path.is_dir() and (path / TOKENIZER_FILE).is_file():
        definition, said = _read(path / TOKENIZER_FILE).decode(), _read_config(path)
    elif path.is_dir() and (path / "tokenizer.model").is_file():
        definition, said = from_model(_read(path / "tokenizer.model")), _read_config(path)
    elif path.is_file() and path.suffix == ".json":
        definition = _read(path).decode()
    elif path.is_file() and path.suffix == ".model":
        definition = from_model(_read(path))
    elif path.is_file() and path.suffix == ".tiktoken":
        definition = from_tiktoken(_read(path), split_pattern)
    else:
        raise ConfigError(
            f"tokenizer.path is {str(path)!r}, where there is no tokenizer",
            path="tokenizer.path",
            expected="a folder with tokenizer.json or tokenizer.model, or a .json, .model or .tiktoken file",
            remedy="name a folder with tokenizer.json or tokenizer.model, or a .json, .model or .tiktoken file",
        )
    return complete(definition, said, path, chats=chats)


def complete(definition: str, said: dict[str, Any], path: Path, *, chats: bool = True) -> Tokenizer:
    """The tokenizer of a tokenizer.json with what a tokenizer_config.json says of it; what it lacks is added behind.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        model = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # tokenizers raises plain Exception on a file it cannot parse
        raise ArtifactError(f"{path} is not a tokenizer that can be read: {error}", remedy="check the file") from error
    model.no_padding()
    model.no_truncation()
    end = _token(said.get("eos_token")) or next((end for end in _ENDS if model.token_to_id(end) is not None), "")
    template = said.get("chat_template")
    missing = [] if end else [END_OF_TEXT]
    if not isinstance(template, str):
        template = None
    if template is None and chats:
        missing += [token for token in (USER, ASSISTANT) if model.token_to_id(token) is None]
    model.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    return Tokenizer(model.to_str(pretty=False), end_of_text=end or END_OF_TEXT, chat_template=template, settings=said)


def _token(said: object) -> str:
    """A token that a tokenizer_config.json names, plainly or with its properties."""
    if isinstance(said, dict):
        said = said.get("content")
    return said if isinstance(said, str) else ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="check the file") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, with the chat template that may stand in a file of its own."""
    said: dict[str, Any] = {}
    if (folder / CONFIG_FILE).is_file():
        try:
            said = dict(json.loads(_read(folder / CONFIG_FILE)))
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{folder / CONFIG_FILE} cannot be read: {error}", remedy="check the file") from error
    if (folder / "chat_template.jinja").is_file():
        said["chat_template"] = _read(folder / "chat_template.jinja").decode()
    return said


def from_tiktoken(data: bytes, split_pattern: str) -> str:
    """The tokenizer.json that gives the ids of a tiktoken rank file.

    Raises:
        ArtifactError: it is no rank file.
    """
    try:
        ranks = {base64.b64decode(line.split()[0], validate=True): int(line.split()[1]) for line in data.splitlines()}
    except (ValueError, IndexError, binascii.Error) as error:
        raise ArtifactError(f"this is no tiktoken file that can be read: {error}", remedy="check the file") from error
    if len(set(ranks.values())) < len(ranks) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ArtifactError("the tiktoken file lacks a byte or has a rank twice", remedy="check the file")
    shown = {token: "".join(CHARACTER_OF[byte] for byte in token) for token in ranks}
    merges = [
        (rank, ranks[token[:place]], shown[token[:place]], shown[token[place:]])
        for token, rank in ranks.items()
        for place in range(1, len(token))
        if token[:place] in ranks and token[place:] in ranks
    ]
    merges.sort(key=lambda merge: merge[:2])
    vocab = {shown[token]: rank for token, rank in ranks.items()}
    model = models.BPE(vocab, [(left, right) for *_, left, right in merges], ignore_merges=True)
    tokenizer = tokenizers.Tokenizer(model)
    pattern = SPLIT_PATTERNS.get(split_pattern, split_pattern)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str(pretty=False))
