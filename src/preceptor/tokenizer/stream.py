"""The ids of a corpus on disk: memory-mapped, with the place of every document, for one tokenizer only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.core.artifact import Draft
from preceptor.core.errors import ArtifactError, MismatchError, output_errors
from preceptor.core.progress import Progress
from preceptor.tokenizer.tokenizer import Tokenizer

INDEX_FILE = "stream.json"
_BATCH_DOCUMENTS = 2048


@dataclass(frozen=True)
class TokenStream:
    """The ids of one split. Every document is its ids followed by the end of text.

    Document i is ``tokens[offsets[i] : offsets[i + 1]]``. ``num_bytes`` counts the UTF-8 bytes of the texts.
    """

    tokens: NDArray[np.unsignedinteger[Any]]
    offsets: NDArray[np.int64]
    document_ids: list[str]
    num_bytes: int

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """How many ids there are, ends of text included."""
        return int(self.offsets[-1])

    def document(self, index: int) -> NDArray[np.unsignedinteger[Any]]:
        """The ids of one document, its end of text included."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def open(cls, folder: Path, split: str, tokenizer: Tokenizer) -> "TokenStream":
        """The stream of a split, memory-mapped.

        Raises:
            MismatchError: it was written with another tokenizer.
            ArtifactError: a file is missing or torn, or there is no such split.
        """
        try:
            index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            if index["tokenizer"] != tokenizer.fingerprint:
                raise MismatchError(
                    f"{folder} was written with another tokenizer: {index['tokenizer'][:12]}, "
                    f"not {tokenizer.fingerprint[:12]}",
                    remedy="encode the corpus again with this tokenizer: `preceptor tokenizer`",
                )
            if split not in index["splits"]:
                raise ArtifactError(f"{folder} has no split {split!r}, only {', '.join(index['splits'])}")
            said = index["splits"][split]
            offsets = np.load(folder / f"{split}.offsets.npy", allow_pickle=False)
            dtype = np.dtype(index["dtype"])
            path = folder / f"{split}.tokens.bin"
            if path.stat().st_size != said["tokens"] * dtype.itemsize or int(offsets[-1]) != said["tokens"]:
                raise ArtifactError(
                    f"{path} has {path.stat().st_size} bytes, expected {said['tokens'] * dtype.itemsize}",
                    remedy="encode the corpus again: `preceptor tokenizer`",
                )
            tokens = np.memmap(path, dtype, "r") if said["tokens"] else np.empty(0, dtype)
        except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ArtifactError(
                f"{folder} does not hold a token stream that can be read: {error}",
                remedy="encode the corpus again: `preceptor tokenizer`",
            ) from error
        return cls(tokens, offsets, said["document_ids"], said["bytes"])


def encode(
    texts: Mapping[str, Sequence[str]], document_ids: Mapping[str, Sequence[str]], tokenizer: Tokenizer, draft: Draft
) -> None:
    """Write the ids of every split into the draft, and its counts into the draft's facts."""
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    index: dict[str, Any] = {"tokenizer": tokenizer.fingerprint, "dtype": dtype.str, "splits": {}}
    total = sum(len(documents) for documents in texts.values())
    with output_errors(draft.path), Progress("tokens", total=total, unit="documents") as progress:
        for split, documents in texts.items():
            lengths = [0]
            with (draft.path / f"{split}.tokens.bin").open("wb") as file:
                for start in range(0, len(documents), _BATCH_DOCUMENTS):
                    for ids in tokenizer.encode_many(documents[start : start + _BATCH_DOCUMENTS]):
                        file.write(np.append(ids, np.uint32(tokenizer.end_of_text_id)).astype(dtype).tobytes())
                        lengths.append(len(ids) + 1)
                    progress.advance(min(_BATCH_DOCUMENTS, len(documents) - start))
            offsets = np.cumsum(np.array(lengths, np.int64))
            np.save(draft.path / f"{split}.offsets.npy", offsets, allow_pickle=False)
            index["splits"][split] = {
                "documents": len(documents),
                "tokens": int(offsets[-1]),
                "bytes": sum(len(text.encode()) for text in documents),
                "document_ids": list(document_ids[split]),
            }
        (draft.path / INDEX_FILE).write_text(json.dumps(index) + "\n", encoding="utf-8")
    draft.facts |= {
        split: {key: said[key] for key in ("documents", "tokens", "bytes")} for split, said in index["splits"].items()
    }
