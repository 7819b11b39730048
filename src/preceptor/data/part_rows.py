"""The documents of all parts as rows with one number each, read a column at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow

from preceptor.core.errors import ArtifactError
from preceptor.data.external import RowArray


class PartRows:
    """Arrow files in order, whose rows are numbered through."""

    def __init__(self, paths: Sequence[Path], stop_check: Callable[[], None]) -> None:
        self.paths = list(paths)
        self.stop_check = stop_check
        self.offsets = [0]
        for path in self.paths:
            with pyarrow.memory_map(str(path)) as source:
                reader = _reader(path, source, ["exact_key"])
                sizes = [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]
            self.offsets.append(self.offsets[-1] + sum(sizes))
        if self.num_rows >= 1 << 32:
            raise ArtifactError(
                f"{self.num_rows} documents are more than can be compared with one another",
                remedy="build several corpora of fewer documents",
            )

    @property
    def num_rows(self) -> int:
        """The documents of all parts."""
        return self.offsets[-1]

    def batches(
        self, names: Sequence[str], wanted: RowArray | None = None
    ) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
        """The batches of all parts with those columns they have, each with the number of its first row.

        Parts of which no row is wanted are left out.
        """
        for path, first, stop in zip(self.paths, self.offsets, self.offsets[1:], strict=False):
            if stop == first or (wanted is not None and not wanted[first:stop].any()):
                continue
            with pyarrow.memory_map(str(path)) as source:
                reader = _reader(path, source, names)
                for index in range(reader.num_record_batches):
                    self.stop_check()
                    batch = reader.get_batch(index)
                    yield first, batch
                    first += batch.num_rows

    def batches_without(self, name: str) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
        """The batches of all parts with all columns but one."""
        for path, first in zip(self.paths, self.offsets, strict=False):
            with pyarrow.memory_map(str(path)) as source:
                names = [other for other in pyarrow.ipc.open_file(source).schema.names if other != name]
                reader = _reader(path, source, names)
                for index in range(reader.num_record_batches):
                    self.stop_check()
                    batch = reader.get_batch(index)
                    yield first, batch
                    first += batch.num_rows


def _reader(path: Path, source: pyarrow.MemoryMappedFile, names: Sequence[str]) -> pyarrow.RecordBatchFileReader:
    """A reader of some columns: the others are neither read nor unpacked."""
    schema = pyarrow.ipc.open_file(source).schema
    fields = sorted(schema.get_field_index(name) for name in names if name in schema.names)
    if not fields:
        raise ArtifactError(f"{path} has none of the columns {', '.join(names)}", remedy="make the part anew")
    return pyarrow.ipc.open_file(source, options=pyarrow.ipc.IpcReadOptions(included_fields=fields))
