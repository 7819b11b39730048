"""Data sets of the Hugging Face hub by name, read as a stream through the `datasets` library."""

from collections.abc import Iterator
from typing import Any

from preceptor.core.errors import DataError
from preceptor.data.record_files import record_from
from preceptor.data.records import Flaw, Record
from preceptor.data.source_config import Piece, ReadLimits, SourceConfig


def plan(source: int, config: SourceConfig, piece_bytes: int) -> list[Piece]:
    """The shards of a data set, each a piece that counts as a full one, since nobody knows its length.

    Raises:
        DataError: `datasets` is not installed, or the data set cannot be reached.
    """
    num_shards = _num_shards(_open(config))
    name = "hub:" + "/".join(filter(None, (config.dataset, config.subset, config.split)))
    # A data set of one shard says only the number of its records.
    names = [name] if num_shards == 1 else [f"{name}/{shard}" for shard in range(num_shards)]
    return [Piece(source, "", one, "hub", shard, shard + 1, bytes=piece_bytes) for shard, one in enumerate(names)]


def read(piece: Piece, config: SourceConfig, limits: ReadLimits) -> Iterator[Record | Flaw]:
    """The records of one shard.

    Raises:
        DataError: `datasets` is not installed, or the data set cannot be reached.
    """
    rows = _open(config)
    num_shards = _num_shards(rows)
    if num_shards > 1:
        rows = rows.shard(num_shards=num_shards, index=piece.start)
    number = piece.first - 1
    try:
        for number, row in enumerate(rows, start=piece.first):
            yield record_from(dict(row), config, limits, number, is_row=True)
    except Exception as error:  # as below: the network breaks in more ways than the library names
        yield Flaw("unreadable", f"after row {number}: {error}", row=number + 1)


def _open(config: SourceConfig) -> Any:
    try:
        from datasets import load_dataset  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise DataError(
            f"the data set {config.dataset!r} is read by the library datasets, which is not installed",
            remedy='install it with "pip install datasets", or download the data set and name its files in path',
        ) from error
    try:
        return load_dataset(
            config.dataset, config.subset or None, split=config.split, revision=config.revision or None, streaming=True
        )
    except Exception as error:  # the library raises errors of its own, of requests, fsspec and many more
        raise DataError(
            f"the data set {config.dataset!r} cannot be read: {error}",
            remedy="check its name, subset, split and revision, and the network; or name its files in path",
        ) from error


def _num_shards(rows: Any) -> int:
    return max(1, int(getattr(rows, "num_shards", None) or getattr(rows, "n_shards", None) or 1))
