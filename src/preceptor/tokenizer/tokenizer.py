"""Text to ids and back. The artefact is a tokenizer.json; the fast encoder must give the very same ids."""

import codecs
import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.core.progress import say
from preceptor.data.document import is_encodable

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
END_OF_TEXT, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (END_OF_TEXT, USER, ASSISTANT)

_PARITY_SAMPLE = (
    "def f(x): return x**2  # naïve\n\n\tElif\r\n",
    "It's 3.14159, they'll say; 日本語 тест 🙂\u200d ﬁ\u00a0end   ",
    "".join(chr(code) for code in range(1, 256)),
)


class Tokenizer:
    """A byte-level tokenizer: every text has ids, and the ids give the text back."""

    def __init__(self, definition: str) -> None:
        self._definition = definition
        self._exact = tokenizers.Tokenizer.from_str(definition)
        # Without its special tokens the encoder cannot be talked into emitting one by the words of a document.
        table = json.loads(definition)
        self._plain_definition = json.dumps({**table, "added_tokens": []})
        self._plain = tokenizers.Tokenizer.from_str(self._plain_definition)
        self._fast: Any = None
        self._fast_lock = threading.Lock()
        self.vocab_size = int(self._exact.get_vocab_size(with_added_tokens=True))
        self.fingerprint = hashlib.sha256(definition.encode()).hexdigest()
        self.end_of_text_id, self.user_id, self.assistant_id = (self._id(token) for token in SPECIAL_TOKENS)

    def _id(self, token: str) -> int:
        number = self._exact.token_to_id(token)
        if number is None:
            raise ArtifactError(
                f"the tokenizer lacks the special token {token}",
                remedy="use a tokenizer that `preceptor tokenizer` has trained",
            )
        return int(number)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of a folder.

        Raises:
            ArtifactError: there is none, or it cannot be read.
        """
        path = folder / TOKENIZER_FILE
        try:
            return cls(path.read_text(encoding="utf-8"))
        except ArtifactError:
            raise
        except Exception as error:  # tokenizers raises plain Exception on a file it cannot parse
            raise ArtifactError(
                f"{path} is not a tokenizer that can be read: {error}",
                remedy="train it again with `preceptor tokenizer`",
            ) from error

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the tokenizer_config.json by which transformers loads it."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": [USER, ASSISTANT],
            "clean_up_tokenization_spaces": False,
        }
        with output_errors(folder):
            (folder / TOKENIZER_FILE).write_text(self._definition, encoding="utf-8")
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """The ids of a text; the words of a special token are encoded like any others."""
        return list(self._plain.encode(_encodable(text), add_special_tokens=False).ids)

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
        rows = [encoding.ids for encoding in self._plain.encode_batch_fast(texts)]
        return np.array([token for row in rows for token in row], np.uint32), np.array([*map(len, rows)], np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out, and bytes that are no UTF-8 become replacement characters."""
        return str(self._exact.decode(list(ids), skip_special_tokens=True))

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id stands for; none for a special token or an id outside the vocabulary."""
        written = self._exact.id_to_token(token)
        if written is None or written in SPECIAL_TOKENS:
            return b""
        return bytes(_BYTE_OF[character] for character in written)

    def decode_stream(self) -> "DecodeStream":
        """A decoder for ids that come one by one."""
        return DecodeStream(self)

    def _fast_encoder(self, texts: Sequence[str]) -> Any:
        """The fast encoder, or None where it is not equal to the exact one; checked on a sample, and said once."""
        with self._fast_lock:
            if self._fast is None:
                self._fast = self._make_fast_encoder(texts) or False
        return self._fast or None

    def _make_fast_encoder(self, texts: Sequence[str]) -> Any:
        try:
            import gigatoken
        except ImportError as error:
            say(f"warning: the fast encoder cannot be loaded ({error}); the slower exact one is used")
            return None
        stride = max(1, len(texts) // 64)
        sample = [*_PARITY_SAMPLE, *texts[::stride][:64]]
        fast = gigatoken.Tokenizer.from_json(self._plain_definition)
        flat, lengths = _encode_fast(fast, sample)
        for text, ids in zip(sample, np.split(flat, np.cumsum(lengths)[:-1]), strict=True):
            if self.encode(text) != ids.tolist():
                say(f"warning: the fast encoder differs on {text[:40]!r}; the slower exact one is used")
                return None
        return fast


def _encodable(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair, which UTF-8 cannot write."""
    return text if is_encodable(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _encode_fast(fast: Any, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    import awkward

    ragged = fast.encode_batch(list(texts))
    flat = awkward.to_numpy(awkward.flatten(ragged)).astype(np.uint32, copy=False)
    return flat, awkward.to_numpy(awkward.num(ragged)).astype(np.int64, copy=False)


class DecodeStream:
    """Text from ids that come one by one: a character is given out when all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """What can be shown now that this id is there."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left when no more ids come."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character by which a token of the vocabulary writes it. Source: Radford et al. 2019."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = (byte for byte in range(256) if byte not in shown)
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
