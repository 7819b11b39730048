"""Files of word vectors, read as a stream: Word2Vec's binary format, and the text of GloVe and fastText."""

import gzip
import re
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from preceptor.core.errors import ConfigError, DataError, EmptyDataError

_GZIP, _ZIP, _FASTTEXT_MODEL = b"\x1f\x8b", b"PK", (793712314).to_bytes(4, "little")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEADER = re.compile(rb"\s*(\d+)[ \t]+(\d+)\s*")
_LONGEST_LINE, _LONGEST_WORD, _LONGEST_VECTOR = 1 << 22, 1 << 12, 1 << 16
_CHUNK_BYTES = 1 << 20
_FETCH_AGAIN = "fetch the file again: it was not written to its end, or not by a tool that writes this format"


class VectorFile:
    """A file of word vectors, before it is read; `num_words` counts what has been read of it."""

    def __init__(self, path: Path, kind: Literal["binary", "text"], header: tuple[int, int] | None, size: int) -> None:
        self.path, self.kind, self.header, self.size = path, kind, header, size
        self.num_words = 0

    def vectors(self, wanted: Container[bytes]) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        """The wanted words with their vectors, in the file's order; the others are only counted.

        Raises:
            DataError: the file is torn or wrong, also in its unwanted words.
        """
        self.num_words = 0
        with _opened(self.path) as stream:
            try:
                yield from _binary(self, stream, wanted) if self.kind == "binary" else _text(self, stream, wanted)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise _torn_gzip(self.path, error) from error
        if not self.num_words:
            raise _empty(self.path)


def open_vectors(path: Path) -> VectorFile:
    """The file with its format and the size of its vectors, which its first line says.

    A name that ends in .bin or .bin.gz is Word2Vec's binary format. Any other is text, with a header of two whole
    numbers (fastText, and Word2Vec's text format) or without (GloVe).

    Raises:
        ConfigError: there is no such file.
        DataError: it is empty, torn, or of another format.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file of word vectors at {path}", remedy="correct the path, or leave it empty")
    name = path.name.lower().removesuffix(".gz")
    with _opened(path) as stream:
        try:
            first = stream.readline(_LONGEST_LINE).removeprefix(_BYTE_ORDER_MARK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _torn_gzip(path, error) from error
    _refuse_other_formats(first, path)
    found = _HEADER.fullmatch(first)
    if not found:
        if name.endswith(".bin"):
            raise DataError(
                "Word2Vec's binary format starts with a line of the number of words and of the numbers to a vector",
                file=path,
                line=1,
                remedy="rename it to .txt if it is text, or fetch the file again",
            )
        return VectorFile(path, "text", None, _size_without_header(first, path))
    num_words, size = int(found[1]), int(found[2])
    if not num_words:
        raise _empty(path)
    if not 0 < size <= _LONGEST_VECTOR:
        raise DataError(f"the header says {size} numbers to a vector", file=path, line=1, remedy=_FETCH_AGAIN)
    return VectorFile(path, "binary" if name.endswith(".bin") else "text", (num_words, size), size)


def _refuse_other_formats(first: bytes, path: Path) -> None:
    if not first.strip():
        raise _empty(path)
    if first.startswith(_FASTTEXT_MODEL):
        raise DataError("this is a fastText model, not word vectors", file=path, remedy="take its .vec file instead")
    if first.startswith(_ZIP):
        raise DataError("this is a zip archive", file=path, remedy="unpack it, and give the file of vectors inside")


def _size_without_header(first: bytes, path: Path) -> int:
    _decoded(first, path, 1)
    size = first.rstrip().count(b" ")
    if not 0 < size <= _LONGEST_VECTOR:
        raise DataError(
            "the line is not a word and its numbers, with single spaces between",
            file=path,
            line=1,
            remedy="give a Word2Vec .bin, a GloVe .txt or a fastText .vec; a binary file's name must end in .bin",
        )
    return size


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path, "rb")) if is_packed else path.open("rb", buffering=_CHUNK_BYTES)


def _torn_gzip(path: Path, error: Exception) -> DataError:
    return DataError(f"the gzip compression is broken: {error}", file=path, remedy="fetch the file again")


def _empty(path: Path) -> EmptyDataError:
    return EmptyDataError("the file holds no word vectors", file=path, remedy="fetch the file again, or give another")


def _decoded(word: bytes, path: Path, line: int) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: {error.reason}",
            file=path,
            line=line,
            remedy="convert the file to UTF-8; a binary file's name must end in .bin",
        ) from error


def _text(file: VectorFile, stream: IO[bytes], wanted: Container[bytes]) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    """Lines of a word and its numbers; the numbers are the last ones, since GloVe has words with spaces in them."""
    number = 0
    if file.header:
        stream.readline(_LONGEST_LINE)
        number = 1
    while line := stream.readline(_LONGEST_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        line = line.rstrip(b" \r\n")  # nothing else: a word may be a no-break space
        word = line[: line.find(b" ")] if line.count(b" ") == file.size else _word_with_spaces(line, file, number)
        if not word:
            raise _wrong_columns(line, file, number)
        _decoded(word, file.path, number)
        file.num_words += 1
        if word in wanted:
            yield word, _numbers(line[len(word) :].split(), file, number)
    if file.header and file.num_words != file.header[0]:
        raise DataError(
            f"the header says {file.header[0]:,} words, but {file.num_words:,} were found",
            file=file.path,
            line=number,
            remedy=_FETCH_AGAIN,
        )


def _word_with_spaces(line: bytes, file: VectorFile, number: int) -> bytes:
    word = line.rsplit(b" ", file.size)[0]
    # A vector that is too long must not be taken for a word with spaces in it, as ". . ." is.
    if line.count(b" ") < file.size or all(map(_is_number, word.split(b" ")[1:])):
        raise _wrong_columns(line, file, number)
    return word


def _wrong_columns(line: bytes, file: VectorFile, number: int) -> DataError:
    message = f"{line.count(b' ')} numbers after the word, expected {file.size}"
    return DataError(message, file=file.path, line=number, remedy=_FETCH_AGAIN)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(values: list[bytes], file: VectorFile, number: int) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused below
            vector = np.array([float(value) for value in values], np.float64).astype(np.float32)
    except ValueError as error:
        raise DataError(f"not a number: {error}", file=file.path, line=number, remedy=_FETCH_AGAIN) from error
    if not np.isfinite(vector).all():
        raise DataError("a number is not finite", file=file.path, line=number, remedy=_FETCH_AGAIN)
    return vector


class _Bytes:
    """The bytes of a stream with the place that they stand at."""

    def __init__(self, stream: IO[bytes], start: int) -> None:
        self._stream, self._held, self._at = stream, b"", 0
        self.place = start

    def peek(self, count: int, offset: int = 0) -> bytes:
        """Bytes from `offset` on, fewer only at the end of the stream."""
        while len(self._held) - self._at < offset + count:
            more = self._stream.read(max(_CHUNK_BYTES, count))
            if not more:
                break
            self._held, self._at = self._held[self._at :] + more, 0
        return self._held[self._at + offset : self._at + offset + count]

    def find_space(self, offset: int) -> int:
        """Where the next space is, from here; -1 where no word is that long."""
        self.peek(_LONGEST_WORD, 0)
        found = self._held.find(b" ", self._at + offset, self._at + _LONGEST_WORD)
        return found - self._at if found >= 0 else -1

    def skip(self, count: int) -> None:
        """Go on by so many bytes."""
        self._at += count
        self.place += count


def _binary(
    file: VectorFile, stream: IO[bytes], wanted: Container[bytes]
) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    """Words, each with a space and its numbers behind it, and in some files a line end behind those.

    Where line ends are there, they tell a space within a word from the one behind it. Source: word2vec.c.
    """
    assert file.header is not None
    start = len(stream.readline(_LONGEST_LINE))
    data, num_bytes = _Bytes(stream, start), 4 * file.size
    has_line_ends: bool | None = None
    for _ in range(file.header[0]):
        length = data.find_space(0)
        if length > 0 and has_line_ends is None:
            has_line_ends = data.peek(1, length + 1 + num_bytes) == b"\n"
        while length > 0 and has_line_ends and data.peek(1, length + 1 + num_bytes) not in (b"\n", b""):
            length = data.find_space(length + 1)
        values = data.peek(num_bytes, length + 1) if length > 0 else b""
        if len(values) < num_bytes:
            message = f"word {file.num_words + 1:,} of {file.header[0]:,} is torn"
            raise DataError(message, file=file.path, byte=data.place, remedy=_FETCH_AGAIN)
        word = data.peek(length)
        file.num_words += 1
        if word in wanted:
            vector = np.frombuffer(values, "<f4").astype(np.float32)
            if not np.isfinite(vector).all():
                raise DataError("a number is not finite", file=file.path, byte=data.place, remedy=_FETCH_AGAIN)
            yield word, vector
        data.skip(length + 1 + num_bytes + bool(has_line_ends))
    if data.peek(1):
        message = f"bytes are left after the {file.header[0]:,} words that the header says"
        raise DataError(message, file=file.path, byte=data.place, remedy=_FETCH_AGAIN)
