"""Text to ids and back. The artefact is a tokenizer.json; the fast encoder must give the very same ids."""

import codecs
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.core.progress import say
from preceptor.data.document import is_encodable
from preceptor.tokenizer.alphabet import BYTE_OF
from preceptor.tokenizer.config import END_OF_TEXT, MASK, SENTINEL, SPECIAL_TOKENS, UNKNOWN

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
__all__ = ["CONFIG_FILE", "SPECIAL_TOKENS", "TOKENIZER_FILE", "DecodeStream", "Tokenizer"]

_PARITY_SAMPLE = (
    "def f(x): return x**2  # naïve\n\n\tElif\r\n",
    "It's 3.14159, they'll say; 日本語 тест 🙂\u200d ﬁ\u00a0end   ",
    "".join(chr(code) for code in range(1, 256)),
)
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_SAMPLE_CHARACTERS = 1 << 17
_CHECKED_TEXTS = 64
_FAST_IS_EXACT = "fast_encoder_is_exact"


class Tokenizer:
    """Ids for every text. Whether they give the text back depends on the kind: byte-level ones always do."""

    def __init__(
        self,
        definition: str,
        *,
        end_of_text: str = END_OF_TEXT,
        chat_template: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._definition = definition
        self._exact = tokenizers.Tokenizer.from_str(definition)
        table = json.loads(definition)
        self._plain_definition = json.dumps(_without_special_tokens(table))
        self._plain = tokenizers.Tokenizer.from_str(self._plain_definition)
        is_known_to_differ = (settings or {}).get(_FAST_IS_EXACT) is False
        self._fast: Any = None if table["model"]["type"] == "BPE" and not is_known_to_differ else False
        self._fast_lock = threading.Lock()
        self._writing = _writing(table)
        self._continuing = table["model"].get("continuing_subword_prefix") or ""
        self._strips_space = '"Strip"' in json.dumps(table["decoder"])
        self._settings = dict(settings or {})
        self.chat_template = chat_template
        self.special_tokens = tuple(each["content"] for each in table["added_tokens"] if each["special"])
        self.vocab_size = int(self._exact.get_vocab_size(with_added_tokens=True))
        self.fingerprint = hashlib.sha256(definition.encode()).hexdigest()
        if chat_template is not None or end_of_text != END_OF_TEXT:
            said = json.dumps([self.fingerprint, end_of_text, chat_template])
            self.fingerprint = hashlib.sha256(said.encode()).hexdigest()
        self.end_of_text = end_of_text
        self.end_of_text_id = self.special_id(end_of_text)
        self.unknown_id = _unknown_id(table)

    def special_id(self, token: str) -> int:
        """The id of a special token.

        Raises:
            ArtifactError: there is none.
        """
        number = self._exact.token_to_id(token)
        if number is None:
            raise ArtifactError(
                f"the tokenizer lacks the special token {token}",
                remedy="use a tokenizer that `preceptor tokenizer` has trained",
            )
        return int(number)

    @property
    def definition(self) -> str:
        """The content of its tokenizer.json."""
        return self._definition

    def with_template(self, chat_template: str) -> "Tokenizer":
        """The same tokenizer with another chat template."""
        return Tokenizer(
            self._definition, end_of_text=self.end_of_text, chat_template=chat_template, settings=self._settings
        )

    @property
    def bos_token(self) -> str:
        """What a chat template may put first."""
        return self._set_token("bos_token") or self.end_of_text

    @property
    def has_mask(self) -> bool:
        """Whether there is a token that stands for a hidden one."""
        return self._set_token("mask_token") is not None or MASK in self.special_tokens

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token.

        Raises:
            ArtifactError: the tokenizer has none.
        """
        return self.special_id(self._set_token("mask_token") or MASK)

    def set_id(self, name: str, otherwise: int) -> int:
        """The id of a token that the settings name, such as ``cls_token``; another one where they do not."""
        token = self._set_token(name)
        return otherwise if token is None else self.special_id(token)

    def _set_token(self, name: str) -> str | None:
        said = self._settings.get(name)
        said = said.get("content") if isinstance(said, dict) else said
        return said if isinstance(said, str) else None

    @property
    def sentinel_ids(self) -> list[int]:
        """The ids that stand for hidden spans, in their order: ours, or T5's; none where it has none."""
        for pattern in (SENTINEL, "<extra_id_{number}>"):
            names = {pattern.format(number=number): number for number in range(len(self.special_tokens))}
            if found := sorted((names[token], token) for token in self.special_tokens if token in names):
                return [self.special_id(token) for _, token in found]
        return []

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of a folder.

        Raises:
            ArtifactError: there is none, or it cannot be read.
        """
        path = folder / TOKENIZER_FILE
        try:
            definition = path.read_text(encoding="utf-8")
            said: dict[str, Any] = {}
            if (folder / CONFIG_FILE).is_file():
                said = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            end = said.get("eos_token") or END_OF_TEXT
            return cls(definition, end_of_text=end, chat_template=said.get("chat_template"), settings=said)
        except ArtifactError:
            raise
        except Exception as error:  # tokenizers raises plain Exception on a file it cannot parse
            raise ArtifactError(
                f"{path} is not a tokenizer that can be read: {error}",
                remedy="train it again with `preceptor tokenizer`",
            ) from error

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the tokenizer_config.json by which transformers loads it."""
        others = [token for token in self.special_tokens if token not in (self.end_of_text, UNKNOWN)]
        config = {
            **self._settings,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.end_of_text,
            "pad_token": self._settings.get("pad_token") or self.end_of_text,
            **({"mask_token": MASK} if MASK in self.special_tokens else {}),
            "additional_special_tokens": others,
            "clean_up_tokenization_spaces": False,
        }
        if self.unknown_id is not None:
            config["unk_token"] = self._exact.id_to_token(self.unknown_id)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        with output_errors(folder):
            (folder / TOKENIZER_FILE).write_text(self._definition, encoding="utf-8")
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """The ids of a text; the words of a special token are encoded like any others."""
        return list(self._plain.encode(_encodable(text), add_special_tokens=False).ids)

    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, and for each the characters it stands for: the first, and the one after the last."""
        encoding = self._plain.encode(_encodable(text), add_special_tokens=False)
        return list(encoding.ids), [(int(first), int(end)) for first, end in encoding.offsets]

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of many texts, by the fast encoder where it proves itself equal on these texts."""
        if not texts:
            return []
        flat, lengths = self.encode_flat(texts)
        return np.split(flat, np.cumsum(lengths)[:-1])

    def encode_flat(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts one after another, and how many each text has."""
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        texts = [_encodable(text) for text in texts]
        fast = self._fast_encoder(texts)
        if fast is not None:
            return _encode_fast(fast, texts)
        rows = [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
        return np.array([token for row in rows for token in row], np.uint32), np.array([*map(len, rows)], np.int64)

    def encode_files(self, paths: Sequence[Path]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of whole files of UTF-8 text one after another, and how many each file has."""
        first = paths[0].read_text(encoding="utf-8", errors="replace")[:_SAMPLE_CHARACTERS] if paths else ""
        fast = self._fast_encoder([first])
        if fast is None or not paths:
            return self.encode_flat([path.read_bytes().decode("utf-8", "replace") for path in paths])
        return _flatten(fast.encode_files([str(path) for path in paths]))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out, and bytes that are no UTF-8 become replacement characters."""
        return str(self._exact.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id stands for; none for a special token or an id outside the vocabulary."""
        written = self._exact.id_to_token(token)
        if written is None or written in self.special_tokens:
            return b""
        if self._writing == "byte-level":
            return b"".join(bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode() for c in written)
        if self._writing == "sentencepiece":
            if found := _BYTE_PIECE.fullmatch(written):
                return bytes([int(found[1], 16)])
            return bytes(written.replace("\u2581", " ").encode())
        return bytes(written.encode())

    def word_edges(self, token: int) -> tuple[bool, bool]:
        """Whether a word starts with a token whatever stands before it, and whether it goes on with none after it.

        Letters and digits make words, and so does a space or a mark before them; a WordPiece says itself whether it
        goes on with a word.
        """
        if self._continuing:
            return not str(self._exact.id_to_token(token) or "").startswith(self._continuing), False
        written = self.token_bytes(token)
        # Bytes of longer characters go on with the word that they stand in.
        return not _in_word(written[:1]), not _in_word(written[-1:])

    def decode_stream(self) -> "DecodeStream":
        """A decoder for ids that come one by one."""
        return DecodeStream(self, strips_space=self._strips_space)

    @property
    def uses_fast_encoder(self) -> bool:
        """Whether the fast encoder has proved itself equal and encodes many texts."""
        return bool(self._fast)

    def prove_fast_encoder(self, sample: Sequence[str]) -> None:
        """Compare the fast encoder with the exact one on these texts; what comes of it is saved with the tokenizer."""
        if self._fast is not False and sample:
            with self._fast_lock:
                self._fast = self._make_fast_encoder([_encodable(text) for text in sample], len(sample)) or False
            self._settings[_FAST_IS_EXACT] = self.uses_fast_encoder

    def _fast_encoder(self, texts: Sequence[str]) -> Any:
        """The fast encoder, or None where it is not equal to the exact one; checked on a sample, and said once."""
        with self._fast_lock:
            if self._fast is None:
                self._fast = self._make_fast_encoder(texts) or False
        return self._fast or None

    def _make_fast_encoder(self, texts: Sequence[str], num_checked: int = _CHECKED_TEXTS) -> Any:
        try:
            import gigatoken

            fast = gigatoken.Tokenizer.from_json(self._plain_definition)
        except (ImportError, ValueError, RuntimeError, TypeError) as error:
            why = " ".join(str(error).split())
            say(f"warning: the fast encoder cannot be loaded ({why}); the slower exact one is used")
            return None
        stride = max(1, len(texts) // num_checked)
        checked = texts[::stride][:num_checked]
        sample = [*_PARITY_SAMPLE, *(text[: _SAMPLE_CHARACTERS // _CHECKED_TEXTS] for text in checked)]
        flat, lengths = _encode_fast(fast, sample)
        for text, ids in zip(sample, np.split(flat, np.cumsum(lengths)[:-1]), strict=True):
            if self.encode(text) != ids.tolist():
                say(f"warning: the fast encoder differs on {text[:40]!r}; the slower exact one is used")
                return None
        return fast


def _without_special_tokens(table: dict[str, Any]) -> dict[str, Any]:
    """The definition of an encoder that cannot be talked into emitting a special token by the words of a document."""
    special = {each["content"] for each in table["added_tokens"] if each["special"]}
    kept = [each for each in table["added_tokens"] if not each["special"]]
    model = table["model"]
    if model["type"] == "Unigram":
        # Unlike merges, a Unigram model finds any piece in the text; no text holds these.
        vocab = [[f" \0 {piece}" if piece in special else piece, score] for piece, score in model["vocab"]]
        model = {**model, "vocab": vocab}
    return {**table, "added_tokens": kept, "model": model}


def _writing(table: dict[str, Any]) -> Literal["byte-level", "sentencepiece", "plain"]:
    """How the vocabulary writes the bytes of its tokens."""
    decoder = json.dumps(table["decoder"])
    if '"ByteLevel"' in decoder:
        return "byte-level"
    return "sentencepiece" if '"ByteFallback"' in decoder or '"Metaspace"' in decoder else "plain"


def _in_word(byte: bytes) -> bool:
    """Whether a byte is of a letter or a digit."""
    return byte.isalnum() or byte >= b"\x80"


def _unknown_id(table: dict[str, Any]) -> int | None:
    """The id of the unknown token, where text can have it."""
    model = table["model"]
    if model.get("byte_fallback"):
        return None
    if model["type"] == "Unigram":
        return model["unk_id"] if model["unk_id"] is None else int(model["unk_id"])
    unknown = model.get("unk_token")
    return None if unknown is None else model["vocab"].get(unknown)


def _encodable(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair, which UTF-8 cannot write."""
    return text if is_encodable(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _encode_fast(fast: Any, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    return _flatten(fast.encode_batch(list(texts)))


def _flatten(ragged: Any) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    import awkward

    flat = awkward.to_numpy(awkward.flatten(ragged)).astype(np.uint32, copy=False)
    return flat, awkward.to_numpy(awkward.num(ragged)).astype(np.int64, copy=False)


class DecodeStream:
    """Text from ids that come one by one: a character is given out when all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer, *, strips_space: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strips_space = strips_space

    def push(self, token: int) -> str:
        """What can be shown now that this id is there."""
        piece = self._decoder.decode(self._tokenizer.token_bytes(token))
        if self._strips_space and piece:
            self._strips_space = False
            return piece.removeprefix(" ")
        return piece

    def finish(self) -> str:
        """What is left when no more ids come."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
