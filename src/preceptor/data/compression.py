"""Files unpacked as they are read, within limits: a file that unpacks to far more than it is is refused in time."""

import io
import os
from pathlib import Path
from typing import IO, Any, cast

import pyarrow

from preceptor.core.units import human_bytes
from preceptor.data.records import Flaw, FlawError
from preceptor.data.source_config import ReadLimits

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1 << 20


def stem_and_compression(name: str) -> tuple[str, str]:
    """The name without the ending of its compression, and the compression, empty for none."""
    front, suffix = os.path.splitext(name)
    compression = COMPRESSIONS.get(suffix.lower(), "")
    return (front, compression) if compression else (name, "")


def open_file(path: Path, limits: ReadLimits) -> IO[bytes]:
    """The bytes of a file, unpacked by the ending of its name.

    Reading raises FlawError where the file is torn or unpacks too far, after all that came before was handed out.

    Raises:
        OSError: it cannot be opened.
    """
    compression = stem_and_compression(path.name)[1]
    if not compression:
        return path.open("rb")
    return cast(IO[bytes], io.BufferedReader(_Unpacked(path, compression, limits), _BUFFER_BYTES))


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of one file, counted against what they are unpacked from."""

    def __init__(self, path: Path, compression: str, limits: ReadLimits) -> None:
        super().__init__()
        self._packed = path.open("rb")
        self._limits = limits
        self._num_bytes = 0
        self._is_empty = os.fstat(self._packed.fileno()).st_size == 0
        self._stream: Any = pyarrow.CompressedInputStream(pyarrow.PythonFile(self._packed, "r"), compression)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._is_empty:
            return 0
        try:
            # In steps, since the memory for what is asked is taken before anything is known to be there.
            chunk = self._stream.read(min(len(buffer), _BUFFER_BYTES))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not what the file holds
            message = f"after {human_bytes(self._num_bytes)} of unpacked bytes: {error}"
            raise FlawError(Flaw("broken-compression", message)) from error
        self._num_bytes += len(chunk)
        self._refuse_bombs()
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def _refuse_bombs(self) -> None:
        unpacked = human_bytes(self._num_bytes)
        if self._num_bytes > self._limits.max_unpacked_bytes:
            raise FlawError(Flaw("expands-too-far", f"it unpacks to more than {unpacked}"))
        if self._num_bytes <= self._limits.free_bytes:
            return
        packed = max(1, self._packed.tell())
        if self._num_bytes > packed * self._limits.max_expansion:
            message = f"{human_bytes(packed)} of it unpack to {unpacked}, which only a bomb does"
            raise FlawError(Flaw("expands-too-far", message))

    def close(self) -> None:
        if not self.closed:
            self._packed.close()
        super().close()
