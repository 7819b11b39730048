"""Sources: which pieces they are read in, by what names, and what the artifact's key is made of."""

import json
import os
import pickle
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.core.config import decode
from preceptor.core.errors import ConfigError, DataError, EmptyDataError
from preceptor.data.document import Document, Rejected
from preceptor.data.sources import Reader, SourceConfig, inputs, plan


def read_pieces(configs, piece_bytes, **settings):
    reader = Reader(configs, stop_on_bad_input=False, **settings)
    return [record for piece in plan(configs, piece_bytes=piece_bytes) for record in reader.read_piece(piece)]


def names(records):
    return [record.source for record in records]


line = st.one_of(
    st.just(b""),
    st.just(b'{"text": '),
    st.text(max_size=40).map(lambda text: json.dumps({"text": text}).encode()),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(
        lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()
    ),
)


@given(st.lists(line, max_size=30), st.integers(1, 200), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_jsonl_file_cut_anywhere_gives_the_same_records(tmp_path, lines, piece_bytes, ends):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "first"}\n' + b"\n".join(lines) + b"\n" * ends)
    config = SourceConfig(path=str(path))
    whole = read_pieces([config], 1 << 40)
    assert read_pieces([config], piece_bytes) == whole
    pieces = plan([config], piece_bytes=piece_bytes)
    assert sum(piece.bytes for piece in pieces) == path.stat().st_size
    limit = piece_bytes + max(map(len, [*lines, b'{"text": "first"}'])) + 1
    assert all(piece.bytes <= limit for piece in pieces)


def test_pieces_longer_than_a_block_count_their_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"text": "{n:>{n % 997}}"}}\n' for n in range(9000)))
    pieces = plan([SourceConfig(path=str(path))], piece_bytes=1_500_000)
    assert len(pieces) == 4
    records = read_pieces([SourceConfig(path=str(path))], 1_500_000)
    assert [(record.text.strip(), record.source) for record in records] == [
        (str(n), f"file:x.jsonl#{n + 1}") for n in range(9000)
    ]


def test_row_groups_of_parquet_are_pieces_with_the_numbers_of_their_rows(tmp_path):
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"text": [f"row {n} " * 50 for n in range(1000)]})
    pyarrow.parquet.write_table(table, path, row_group_size=90, compression="none", use_dictionary=False)
    config = SourceConfig(path=str(path))
    pieces = plan([config], piece_bytes=100_000)
    assert len(pieces) > 2
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    records = read_pieces([config], 100_000)
    assert records == read_pieces([config], 1 << 40)
    assert names(records) == [f"file:x.parquet#{n}" for n in range(1, 1001)]


def test_pieces_and_readers_can_be_sent_to_workers(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    configs = [SourceConfig(path=str(tmp_path))]
    pieces, reader = pickle.loads(pickle.dumps((plan(configs, piece_bytes=1000), Reader(configs))))
    assert [record.text for piece in pieces for record in reader.read_piece(piece)] == ["one"]


def test_a_pattern_names_files_in_any_depth(tmp_path):
    for name in ("a.html", "deep/b.html", "deep/er/c.html", "deep/d.txt", "x[1].html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("<p>text</p>")

    def found(pattern):
        pieces = plan([SourceConfig(path=f"{tmp_path}/{pattern}")], piece_bytes=1000)
        return [piece.name.removeprefix(f"file:{tmp_path.name}/") for piece in pieces]

    assert found("**/*.html") == ["a.html", "x[1].html", "deep/b.html", "deep/er/c.html"]
    assert found("*.html") == ["a.html", "x[1].html"]
    assert found("*/[!b].*") == ["deep/d.txt"]
    assert found("?.html") == ["a.html"]
    assert plan([SourceConfig(path=f"{tmp_path}/x[1].html")], piece_bytes=1)[0].name == "file:x[1].html"
    with pytest.raises(EmptyDataError, match="holds no document"):
        found("*.pdf")
    with pytest.raises(DataError, match="does not exist"):
        found("nowhere/*.pdf")
    with pytest.raises(DataError, match="pattern"):
        found("[z-a].txt")


def test_a_format_that_is_named_is_used_for_files_of_any_ending(tmp_path):
    (tmp_path / "page").write_text("<p>a page</p>")
    (tmp_path / "code.js").write_text("let x;")
    (tmp_path / "other.html").write_text("<p>other</p>")
    records = read_pieces([SourceConfig(path=str(tmp_path), format="html")], 1000)
    assert [getattr(record, "text", getattr(record, "rule", "")) for record in records] == [
        *("other-format", "other", "a page")
    ]
    (record,) = read_pieces([SourceConfig(path=str(tmp_path / "code.js"), format="html")], 1000)
    assert record.text == "let x;"


def test_documents_carry_the_name_origin_and_date_of_their_source(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "one", "url": "https://a.org/1", "date": "2020-02-03T01:02:03Z", "key": "k1"}\n{"text": "two"}\n'
    )
    config = SourceConfig(path=str(tmp_path), origin="https://b.org", date="2019", id_field="key", name="mine")
    one, two = read_pieces([config], 1000)
    assert (one.collection, one.origin, one.date, one.metadata["id"]) == ("mine", "https://a.org/1", "2020-02-03", "k1")
    assert (two.collection, two.origin, two.date, two.metadata) == ("mine", "https://b.org", "2019", {})


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"path": "/data/docs"}, "docs"),
        ({"path": "/data/docs/**/*.html"}, "docs/**/*.html"),
        ({"path": "/data/a.jsonl"}, "a.jsonl"),
        ({"path": "/data/a.jsonl", "name": "mine"}, "mine"),
        ({"kind": "python-docs"}, "python-docs"),
        ({"kind": "hub", "dataset": "who/what", "subset": "en"}, "who/what/en"),
    ],
)
def test_a_source_without_a_name_is_called_by_what_it_reads(fields, label):
    assert SourceConfig(**fields).label == label


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "files"}, "path must name"),
        ({"kind": "hub"}, "dataset must name"),
        ({"path": "x", "licence": "free as in beer"}, "SPDX"),
        ({"path": "x", "date": "yesterday"}, "date must be"),
        ({"path": "x", "weight": -1.0}, "weight must be"),
        ({"path": "x", "max_epochs": float("nan")}, "max_epochs"),
        ({"path": "x", "text_field": ""}, "text_field must not"),
        ({"path": "x", "format": "docx"}, "format"),
    ],
)
def test_a_source_that_cannot_be_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        decode(SourceConfig, table)


def test_inputs_change_with_content_and_not_with_the_place(tmp_path):
    def made(folder):
        (folder / "docs").mkdir(parents=True)
        (folder / "docs" / "a.txt").write_text("one")
        os.mkfifo(folder / "docs" / "pipe.txt")
        return inputs([SourceConfig(path=str(folder / "docs"))])

    first, second = made(tmp_path / "here"), made(tmp_path / "there")
    assert first == second and len(first) == 2
    (tmp_path / "here" / "docs" / "a.txt").write_text("two")
    assert inputs([SourceConfig(path=str(tmp_path / "here" / "docs"))]) != first
    (hub,) = inputs([SourceConfig(kind="hub", dataset="who/what", revision="abc")])
    assert "who/what" in hub and "abc" in hub
    assert inputs([SourceConfig(kind="python-docs")]) != []


class FakeRows:
    """A data set as the library streams it: two shards, of which the second breaks."""

    num_shards = 2

    def __init__(self, shards):
        self.shards = shards

    def shard(self, num_shards, index):
        assert num_shards == 2
        return FakeRows([self.shards[index]])

    def __iter__(self):
        for rows in self.shards:
            for row in rows:
                if row is None:
                    raise ConnectionError("the network is gone")
                yield row


def test_a_data_set_is_read_by_name_shard_by_shard(monkeypatch):
    asked = []

    def load_dataset(name, subset, **options):
        asked.append((name, subset, options))
        return FakeRows([[{"text": "one", "license": "MIT"}, {"text": "two"}], [{"text": "three"}, None]])

    library = types.ModuleType("datasets")
    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    config = SourceConfig(kind="hub", dataset="who/what", revision="abc", split="test", licence="CC0-1.0")
    records = read_pieces([config], 1000)
    assert [(type(record), record.source) for record in records] == [
        (Document, "hub:who/what/test/0#1"),
        (Document, "hub:who/what/test/0#2"),
        (Document, "hub:who/what/test/1#1"),
        (Rejected, "hub:who/what/test/1#2"),
    ]
    assert [record.licence for record in records[:3]] == ["MIT", "CC0-1.0", "CC0-1.0"]
    assert records[3].rule == "unreadable" and "the network is gone" in records[3].detail
    assert asked[0] == ("who/what", None, {"split": "test", "revision": "abc", "streaming": True})


def test_a_data_set_that_cannot_be_had_is_said_with_what_to_do(monkeypatch):
    config = SourceConfig(kind="hub", dataset="who/what")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="not installed") as raised:
        plan([config], piece_bytes=1000)
    assert "pip install datasets" in raised.value.remedy
    library = types.ModuleType("datasets")

    def load_dataset(*words, **options):
        raise ConnectionError("offline")

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    with pytest.raises(DataError, match="offline") as raised:
        plan([config], piece_bytes=1000)
    assert "network" in raised.value.remedy


def test_an_extractor_that_is_not_installed_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text("<p>text</p>")
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(DataError, match="trafilatura is not installed"):
        read_pieces([SourceConfig(path=str(tmp_path), extractor="trafilatura")], 1000)
