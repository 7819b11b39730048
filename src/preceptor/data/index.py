"""The index of a corpus: where a document stands, found by its id, its names or its text without reading the corpus."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import xxhash
from numpy.typing import NDArray

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.data.external import MEMORY_BYTES, Sorter

INDEX_FOLDER, DOCUMENTS_FOLDER, LEDGER_FOLDER = "index", "documents", "ledger"
ID_DIGITS = 16
_TABLES = ("ids", "names", "texts")
_BATCH_ROWS = 1024
_IN_LEDGER, _SHARD_SHIFT = 63, 40
_ROW_MASK, _SHARD_MASK = (1 << _SHARD_SHIFT) - 1, (1 << (_IN_LEDGER - _SHARD_SHIFT)) - 1
_FOLD = bytes(ord(chr(code).lower()) for code in range(128)) + bytes(128)
_NO_WORD = bytes(code for code in range(128) if not chr(code).isalnum())
_NO_LETTER = re.compile(r"[\W_]+")


def text_key(text: str) -> int:
    """A number that texts share which differ in case, white space, punctuation and Unicode form only; 0 for no text.

    The first 64 bits that xxHash3 makes of the letters and digits.
    """
    if text.isascii():
        folded = text.encode().translate(_FOLD, _NO_WORD)
    else:
        same_form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        folded = _NO_LETTER.sub("", same_form).encode("utf-8", "surrogatepass")
    return xxhash.xxh3_64_intdigest(folded) if folded else 0


def name_key(name: str) -> int:
    """The number under which a name is filed: that of a source, a place of publication, or a record's own id."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A row of a shard: of the documents that were kept, or of the ledger, which knows all."""

    is_ledger: bool
    shard: int
    row: int

    @classmethod
    def from_number(cls, number: int) -> "Place":
        """The place as it is filed."""
        return cls(bool(number >> _IN_LEDGER), number >> _SHARD_SHIFT & _SHARD_MASK, number & _ROW_MASK)


def _numbers(is_ledger: bool, shard: int, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    return rows.astype(np.uint64) | np.uint64(is_ledger << _IN_LEDGER | shard << _SHARD_SHIFT)


def write_from_shards(folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
    """Write the index of the documents and the ledger in a corpus folder beside them; memory stays flat.

    Raises:
        OutputError: it cannot be written.
    """
    target = folder / INDEX_FOLDER
    with output_errors(target):
        target.mkdir()
        sorters = {name: Sorter(target / f"{name}.sort", memory_bytes=memory_bytes) for name in _TABLES}
        for path in sorted((folder / DOCUMENTS_FOLDER).glob("*.parquet")):
            columns = ["id", "parent", "origin", "metadata", "text"]
            for first, batch in _batches(path, columns):
                _file_documents(sorters, int(path.stem), first, batch)
        for path in sorted((folder / LEDGER_FOLDER).glob("*.parquet")):
            for first, batch in _batches(path, ["id", "source"]):
                _file_ledger(sorters, int(path.stem), first, batch)
        for name, sorter in sorters.items():
            _write_table(target, name, sorter)
            sorter.close()


def _batches(path: Path, columns: list[str]) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
    first = 0
    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield first, batch
            first += batch.num_rows


def _file_documents(sorters: dict[str, Sorter], shard: int, first: int, batch: pyarrow.RecordBatch) -> None:
    places = _numbers(False, shard, np.arange(first, first + batch.num_rows))
    for column in ("id", "parent"):
        _add_ids(sorters["ids"], batch.column(column).to_pylist(), places)
    keys = np.fromiter(map(text_key, batch.column("text").to_pylist()), np.uint64, batch.num_rows)
    sorters["texts"].add(keys[keys != 0], places[keys != 0])
    origins, metadata = batch.column("origin").to_pylist(), batch.column("metadata").to_pylist()
    _add_names(
        sorters["names"], [{origin, *_own_names(said)} for origin, said in zip(origins, metadata, strict=True)], places
    )


def _own_names(metadata: str | None) -> Iterator[str]:
    """What a record calls itself."""
    # Most metadata have neither, and are then not worth the reading.
    if metadata and ('"id"' in metadata or '"url"' in metadata):
        said = json.loads(metadata)
        yield from (said[name] for name in ("id", "url") if isinstance(said.get(name), str))


def _file_ledger(sorters: dict[str, Sorter], shard: int, first: int, batch: pyarrow.RecordBatch) -> None:
    places = _numbers(True, shard, np.arange(first, first + batch.num_rows))
    _add_ids(sorters["ids"], batch.column("id").to_pylist(), places)
    sources = batch.column("source").to_pylist()
    _add_names(sorters["names"], [{source, source.rpartition("#")[0]} for source in sources], places)


def _add_ids(sorter: Sorter, ids: Sequence[str | None], places: NDArray[np.uint64]) -> None:
    """File documents under their ids; a record that never became a document has none."""
    is_id = np.array([id is not None and len(id) == ID_DIGITS for id in ids], np.bool_)
    digits = bytes.fromhex("".join(id for id, is_one in zip(ids, is_id, strict=True) if id and is_one))
    sorter.add(np.frombuffer(digits, ">u8"), places[is_id])


def _add_names(sorter: Sorter, names: Iterable[set[str]], places: NDArray[np.uint64]) -> None:
    filed = [
        (name_key(name), place) for some, place in zip(names, places.tolist(), strict=True) for name in some if name
    ]
    records = np.array(filed, np.uint64).reshape(-1, 2)
    sorter.add(records[:, 0], records[:, 1])


def _write_table(folder: Path, name: str, sorter: Sorter) -> None:
    """Keys and places as two columns in the order of the keys, of which an entry that comes twice is written once."""
    paths = [folder / f"{name}.{column}.bin" for column in ("keys", "places")]
    with paths[0].open("wb") as keys, paths[1].open("wb") as places:
        last = np.empty((0, 2), np.uint64)
        for chunk in sorter.chunks():
            joined = np.concatenate([last, chunk])
            is_new = np.ones(len(joined), np.bool_)
            is_new[: len(last)] = False
            is_new[1:] &= (joined[1:] != joined[:-1]).any(axis=1)
            np.ascontiguousarray(joined[is_new, 0]).astype("<u8").tofile(keys)
            np.ascontiguousarray(joined[is_new, 1]).astype("<u8").tofile(places)
            last = joined[-1:]


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a corpus on the disk, of which a look-up reads a few pages."""

    folder: Path
    """The folder of the corpus."""
    tables: dict[str, tuple[NDArray[np.uint64], NDArray[np.uint64]]]

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """The index in the folder of a corpus.

        Raises:
            ArtifactError: it is missing or torn.
        """
        try:
            tables = {name: (_column(folder, name, "keys"), _column(folder, name, "places")) for name in _TABLES}
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} has no index: {error}", remedy="build it again: `preceptor data`") from error
        if any(len(keys) != len(places) for keys, places in tables.values()):
            raise ArtifactError(f"the index of {folder} is torn", remedy="build the corpus again: `preceptor data`")
        return cls(folder, tables)

    def find_id(self, digits: str, limit: int = 1000) -> list[Place]:
        """The places of the documents whose id, as read or as edited, starts with these hexadecimal digits."""
        if not re.fullmatch(rf"[0-9a-f]{{1,{ID_DIGITS}}}", digits):
            return []
        shift = 4 * (ID_DIGITS - len(digits))
        first = int(digits, 16) << shift
        return self._between("ids", first, first + (1 << shift) - 1, limit)

    def find_name(self, name: str, limit: int = 1000) -> list[Place]:
        """The places of the documents of a source, a file, a place of publication, or with that id of their own."""
        return self._between("names", name_key(name), name_key(name), limit)

    def find_text(self, text: str, limit: int = 1000) -> list[Place]:
        """The places of the kept documents with that text, whatever its case, spaces and punctuation."""
        return self.find_text_key(text_key(text), limit)

    def find_text_key(self, key: int, limit: int = 1000) -> list[Place]:
        """The places of the kept documents whose text has that key."""
        return self._between("texts", key, key, limit) if key else []

    def _between(self, table: str, first: int, last: int, limit: int) -> list[Place]:
        keys, places = self.tables[table]
        start = int(np.searchsorted(keys, np.uint64(first), "left"))
        stop = min(start + limit, int(np.searchsorted(keys, np.uint64(last), "right")))
        return sorted({Place.from_number(number) for number in places[start:stop].tolist()})

    def row(self, place: Place, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """The row at a place, or some columns of it."""
        path = self.folder / (LEDGER_FOLDER if place.is_ledger else DOCUMENTS_FOLDER) / f"{place.shard:05d}.parquet"
        with pyarrow.parquet.ParquetFile(path) as table:
            row = place.row
            for group in range(table.num_row_groups):
                size = table.metadata.row_group(group).num_rows
                if row < size:
                    return dict(table.read_row_group(group, columns=columns).slice(row, 1).to_pylist()[0])
                row -= size
        raise ArtifactError(f"{path} has no row {place.row}", remedy="build the corpus again: `preceptor data`")

    def quoting(self, quote: str, limit: int, stop_check: Callable[[], None] = lambda: None) -> list[Place]:
        """The places of the first kept documents that hold the quote word for word; reads the whole corpus."""
        import pyarrow.compute

        found: list[Place] = []
        for path in sorted((self.folder / DOCUMENTS_FOLDER).glob("*.parquet")):
            for first, batch in _batches(path, ["text"]):
                stop_check()
                holds = pyarrow.compute.match_substring(batch.column("text"), quote)
                rows = np.flatnonzero(holds.to_numpy(zero_copy_only=False)) + first
                found += [Place(False, int(path.stem), int(row)) for row in rows]
                if len(found) >= limit:
                    return found[:limit]
        return found

    def ledger(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Some columns of every decision in the ledger, a few rows at a time in memory."""
        for path in sorted((self.folder / LEDGER_FOLDER).glob("*.parquet")):
            for _, batch in _batches(path, columns):
                yield from batch.to_pylist()


def _column(folder: Path, table: str, column: str) -> NDArray[np.uint64]:
    path = folder / INDEX_FOLDER / f"{table}.{column}.bin"
    size = path.stat().st_size
    return np.memmap(path, "<u8", "r") if size else np.empty(0, np.uint64)
