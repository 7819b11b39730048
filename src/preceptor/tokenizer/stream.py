"""The ids of a corpus on disk: memory-mapped, with the place of every document, for one tokenizer only."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from preceptor.core.artifact import Draft
from preceptor.core.errors import ArtifactError, DataError, MismatchError, output_errors
from preceptor.core.progress import Progress
from preceptor.tokenizer.columns import ColumnWriter, NameWriter
from preceptor.tokenizer.tokenizer import Tokenizer

INDEX_FILE = "stream.json"
LARGEST_SOURCES = 1 << 16
_BATCH_DOCUMENTS = 4096
_BATCH_CHARACTERS = 8 << 20
_COUNTED_AT_ONCE = 1 << 22


class Encodable(Protocol):
    """What a stream takes of a document."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def text(self) -> str:
        """Its words."""

    @property
    def collection(self) -> str:
        """The name of the source that it comes from."""


@dataclass(frozen=True)
class TokenStream:
    """The ids of one split. Every document is its ids followed by the end of text.

    Document i is ``tokens[offsets[i] : offsets[i + 1]]``; its name is ``document_ids[i]`` in ASCII, and the name of
    its source is ``collections[sources[i]]``. ``num_bytes`` counts the UTF-8 bytes of the texts.
    """

    tokens: NDArray[np.unsignedinteger[Any]]
    offsets: NDArray[np.int64]
    document_ids: NDArray[np.bytes_]
    num_bytes: int
    sources: NDArray[np.uint16] = field(default_factory=lambda: np.empty(0, np.uint16))
    collections: list[str] = field(default_factory=lambda: [""])

    def __post_init__(self) -> None:
        """Where nothing is said of sources, all documents are of one."""
        if not len(self.sources):
            object.__setattr__(self, "sources", np.zeros(self.num_documents, np.uint16))

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

    def only(self, documents: NDArray[np.int64]) -> "TokenStream":
        """The stream of some documents in the given order, held in memory; how many bytes they have is not known."""
        lengths = np.diff(self.offsets)[documents]
        tokens = [np.empty(0, self.tokens.dtype), *(self.document(int(each)) for each in documents)]
        return TokenStream(
            np.concatenate(tokens),
            np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            np.asarray(self.document_ids)[documents],
            num_bytes=0,
            sources=self.sources[documents],
            collections=self.collections,
        )

    def token_counts(self, vocab_size: int) -> NDArray[np.int64]:
        """How often each token of the vocabulary stands in the stream."""
        counts = np.zeros(vocab_size, np.int64)
        # Counting copies what it counts into 64 bits, which is too much for a whole corpus at once.
        for start in range(0, self.num_tokens, _COUNTED_AT_ONCE):
            counts += np.bincount(self.tokens[start : start + _COUNTED_AT_ONCE], minlength=vocab_size)
        return counts

    def gather(self, windows: NDArray[np.int64], length: int) -> NDArray[np.unsignedinteger[Any]]:
        """The ids of numbered windows, one a row: window n is ``tokens[n * length : (n + 1) * length]``."""
        num_windows = self.num_tokens // length
        return np.take(self.tokens[: num_windows * length].reshape(num_windows, length), windows, axis=0)

    def windows(self, order: NDArray[np.int64], length: int, size: int, position: int = 0) -> "WindowFeed":
        """The windows in the given order, ``size`` at a time, from a position on."""
        return WindowFeed(self, order, length, size, position)

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
            return cls._open(folder, split, np.dtype(index["dtype"]), index["splits"][split])
        except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ArtifactError(
                f"{folder} does not hold a token stream that can be read: {error}",
                remedy="encode the corpus again: `preceptor tokenizer`",
            ) from error

    @classmethod
    def _open(cls, folder: Path, split: str, dtype: np.dtype[Any], said: Mapping[str, Any]) -> "TokenStream":
        offsets, names, sources = (
            np.load(folder / f"{split}.{column}.npy", mmap_mode="r", allow_pickle=False)
            for column in ("offsets", "document_ids", "sources")
        )
        path = folder / f"{split}.tokens.bin"
        size = path.stat().st_size
        if size != said["tokens"] * dtype.itemsize or int(offsets[-1]) != said["tokens"]:
            raise ArtifactError(
                f"{path} has {size} bytes, expected {said['tokens'] * dtype.itemsize}",
                remedy="encode the corpus again: `preceptor tokenizer`",
            )
        if not len(offsets) - 1 == len(names) == len(sources) == said["documents"]:
            raise ArtifactError(
                f"{folder} has {len(offsets) - 1} documents, {len(names)} names and {len(sources)} sources in its "
                f"split {split!r}, expected {said['documents']} of each",
                remedy="encode the corpus again: `preceptor tokenizer`",
            )
        tokens = np.memmap(path, dtype, "r") if said["tokens"] else np.empty(0, dtype)
        return cls(tokens, offsets, names, said["bytes"], sources, list(said["collections"]))


@dataclass
class WindowFeed:
    """Rows of ids in a given order. ``position`` is all its state: a feed made with it goes on with the same rows."""

    stream: TokenStream
    order: NDArray[np.int64]
    length: int
    size: int
    position: int = 0

    def __iter__(self) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """The rows that are left, ``size`` at a time; the last may be fewer."""
        while self.position < len(self.order):
            chosen = self.order[self.position : self.position + self.size]
            self.position += len(chosen)
            yield self.stream.gather(chosen, self.length)


def encode(documents: Mapping[str, Iterable[Encodable]], tokenizer: Tokenizer, draft: Draft) -> None:
    """Write the ids of every split into the draft, and its counts into the draft's facts; memory stays flat.

    Raises:
        DataError: more than 65,536 sources, or a document whose id is not ASCII of one line.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    splits: dict[str, dict[str, Any]] = {}
    with output_errors(draft.path), Progress("tokens", unit="documents") as progress:
        for split, members in documents.items():
            splits[split] = _encode_split(members, tokenizer, draft.path / split, dtype, progress)
        index = {"tokenizer": tokenizer.fingerprint, "dtype": dtype.str, "splits": splits}
        (draft.path / INDEX_FILE).write_text(json.dumps(index) + "\n", encoding="utf-8")
    draft.facts |= {
        split: {key: said[key] for key in ("documents", "tokens", "bytes", "by_collection")}
        for split, said in splits.items()
    }


def _encode_split(
    documents: Iterable[Encodable], tokenizer: Tokenizer, path: Path, dtype: np.dtype[Any], progress: Progress
) -> dict[str, Any]:
    sums: dict[str, dict[str, int]] = {}
    numbers: dict[str, int] = {}
    num_tokens = 0
    with (
        path.with_name(f"{path.name}.tokens.bin").open("wb") as file,
        ColumnWriter(path.with_name(f"{path.name}.offsets.npy"), np.dtype("<i8")) as offsets,
        ColumnWriter(path.with_name(f"{path.name}.sources.npy"), np.dtype("<u2")) as sources,
        NameWriter(path.with_name(f"{path.name}.document_ids.npy")) as names,
    ):
        offsets.write(np.zeros(1, np.int64))
        for batch in _batches(documents):
            flat, lengths = tokenizer.encode_flat([document.text for document in batch])
            ends = np.cumsum(lengths)
            file.write(np.insert(flat, ends, tokenizer.end_of_text_id).astype(dtype).tobytes())
            offsets.write(num_tokens + ends + np.arange(1, len(batch) + 1))
            num_tokens += len(flat) + len(batch)
            names.write([document.id for document in batch])
            sources.write(_source_numbers(batch, numbers))
            for document, length in zip(batch, lengths.tolist(), strict=True):
                sums_of = sums.setdefault(document.collection, {"documents": 0, "tokens": 0, "bytes": 0})
                sums_of["documents"] += 1
                sums_of["tokens"] += length + 1
                sums_of["bytes"] += len(document.text.encode("utf-8", "surrogatepass"))
            progress.advance(len(batch))
    return {
        "documents": sum(each["documents"] for each in sums.values()),
        "tokens": num_tokens,
        "bytes": sum(each["bytes"] for each in sums.values()),
        "collections": list(numbers) or [""],
        "by_collection": sums,
    }


def _source_numbers(batch: list[Encodable], numbers: dict[str, int]) -> NDArray[np.uint16]:
    """The number of each document's source; a source gets its number when it is first seen."""
    for document in batch:
        numbers.setdefault(document.collection, len(numbers))
    if len(numbers) > LARGEST_SOURCES:
        raise DataError(f"more than {LARGEST_SOURCES} sources", remedy="give sources that belong together one name")
    return np.array([numbers[document.collection] for document in batch], np.uint16)


def _batches(documents: Iterable[Encodable]) -> Iterator[list[Encodable]]:
    batch: list[Encodable] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
