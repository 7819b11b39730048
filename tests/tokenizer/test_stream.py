"""Token streams: flat memory, sources, exact resume, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.artifact import write_folder
from preceptor.core.errors import ArtifactError, DataError
from preceptor.data.document import Document
from preceptor.tokenizer.columns import ColumnWriter, NameWriter
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream, encode
from preceptor.tokenizer.training import train

TEXTS = [f"text number {n} says {n * n}" for n in range(120)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train(TEXTS, TokenizerConfig(vocab_size=300), tmp_path_factory.mktemp("tokenizer"))


def written(folder, tokenizer, documents):
    with write_folder(folder, "tokens", "key", {}) as draft:
        encode({"train": documents}, tokenizer, draft)
    return TokenStream.open(folder, "train", tokenizer), draft.facts["train"]


def test_sources_are_numbered_and_counted(tokenizer, tmp_path):
    documents = [Document.new(text, "x", collection=("b", "a", "b")[n % 3]) for n, text in enumerate(TEXTS)]
    stream, facts = written(tmp_path / "tokens", tokenizer, iter(documents))
    assert stream.collections == ["b", "a"] and stream.sources.dtype == np.uint16
    assert [stream.collections[source] for source in stream.sources] == [each.collection for each in documents]
    assert [name.decode() for name in stream.document_ids] == [document.id for document in documents]
    for name, said in facts["by_collection"].items():
        chosen = [n for n, document in enumerate(documents) if document.collection == name]
        assert said == {
            "documents": len(chosen),
            "tokens": sum(len(stream.document(n)) for n in chosen),
            "bytes": sum(len(documents[n].text) for n in chosen),
        }
    assert isinstance(stream.sources, np.memmap) and isinstance(stream.offsets, np.memmap)


def test_a_split_without_documents_is_a_stream_of_nothing(tokenizer, tmp_path):
    stream, facts = written(tmp_path / "tokens", tokenizer, [])
    assert (stream.num_documents, stream.num_tokens, len(stream.sources)) == (0, 0, 0)
    assert facts["documents"] == 0


@pytest.mark.parametrize("column", ["document_ids", "sources", "offsets"])
def test_columns_of_unequal_length_are_refused(column, tokenizer, tmp_path):
    written(tmp_path / "tokens", tokenizer, [Document.new(text, "x") for text in TEXTS])
    path = tmp_path / "tokens" / f"train.{column}.npy"
    values = np.load(path)
    np.save(path, np.concatenate([values[:1], values]))
    with pytest.raises(ArtifactError, match=r"documents, .* names and .* sources|token stream"):
        TokenStream.open(tmp_path / "tokens", "train", tokenizer)


def test_an_id_of_two_lines_is_refused(tmp_path):
    for name in ("a\nb", "ä", ""):
        with pytest.raises(DataError, match="not one line of ASCII"), NameWriter(tmp_path / "names.npy") as names:
            names.write(["good", name])
    assert list(tmp_path.glob("*.lines")) == []


@given(st.lists(st.lists(st.integers(-5, 9), max_size=30), max_size=8))
@settings(deadline=None, max_examples=40)
def test_a_column_written_in_pieces_is_the_column(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "column.npy"
    with ColumnWriter(path, np.dtype("<i8")) as column:
        for piece in pieces:
            column.write(np.array(piece, np.int64))
    assert np.load(path, mmap_mode="r").tolist() == [value for piece in pieces for value in piece]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 12), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_windows_go_on_from_their_position_and_are_the_tokens(length, size, stopped_after, seed):
    tokens = np.arange(1000, dtype=np.uint16)
    stream = TokenStream(tokens, np.array([0, 1000]), np.array([b"x"]), 0)
    order = np.random.default_rng(seed).permutation(1000 // length)
    whole = [row.tolist() for rows in stream.windows(order, length, size) for row in rows]
    assert whole == [tokens[n * length : (n + 1) * length].tolist() for n in order]
    feed = stream.windows(order, length, size)
    before = [row.tolist() for _, rows in zip(range(stopped_after), feed, strict=False) for row in rows]
    rest = [row.tolist() for rows in stream.windows(order, length, size, min(len(before), len(order))) for row in rows]
    assert before + rest == whole


MEASURE = """
import resource, sys
from pathlib import Path
from preceptor.core.artifact import write_folder
from preceptor.data.document import Document
from preceptor.tokenizer.stream import encode
from preceptor.tokenizer.tokenizer import Tokenizer
tokenizer = Tokenizer.load(Path(sys.argv[1]))
documents = (Document.new(f"text number {n} " + "says more " * 400, "x") for n in range(int(sys.argv[3])))
with write_folder(Path(sys.argv[2]), "tokens", "key", {}) as draft:
    encode({"train": documents}, tokenizer, draft)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_stays_flat_as_documents_grow(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    peaks = []
    for number in (2_000, 20_000):
        command = [sys.executable, "-c", MEASURE, tmp_path, tmp_path / str(number), str(number)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(result.stdout))
    assert peaks[1] <= 1.2 * peaks[0]
