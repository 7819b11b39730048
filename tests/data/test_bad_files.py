"""Files that are not what they should be: each is named with its place and a remedy, or left out and counted."""

import os

import pyarrow
import pyarrow.parquet
import pytest

from preceptor.core.artifact import write_folder
from preceptor.core.errors import DataError
from preceptor.data.config import DataConfig
from preceptor.data.corpus import Corpus, Workshop, build
from preceptor.data.rights import RightsConfig
from preceptor.data.sources import Reader, SourceConfig

LENIENT = Reader(max_record_bytes=100_000, stop_on_bad_input=False)
STRICT = Reader(max_record_bytes=100_000, stop_on_bad_input=True)


def test_the_message_names_line_and_remedy(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "ok"}\n\n{"text": \n')
    with pytest.raises(DataError, match=r"x\.jsonl:3: broken JSON") as raised:
        list(STRICT.read(SourceConfig(path=str(tmp_path))))
    assert raised.value.line == 3 and "mend or remove" in raised.value.remedy


def test_a_wrong_field_is_said_with_those_that_are_there(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"content": ["three"]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"'text'.*content") as raised:
        list(STRICT.read(SourceConfig(path=str(tmp_path))))
    assert "text_field" in raised.value.remedy


def test_a_parquet_file_cut_short_or_of_other_bytes_is_rejected(tmp_path):
    path = tmp_path / "e.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"document {n} " * 20 for n in range(500)]}), path)
    whole = path.read_bytes()
    (tmp_path / "good.txt").write_text("a good document")
    for cut in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:cut])
        found = [record for record in LENIENT.read(SourceConfig(path=str(tmp_path))) if record.source != "good"]
        assert any(getattr(record, "rule", "") == "broken-parquet" for record in found)


def test_text_that_is_not_utf8_inside_parquet_is_rejected_row_by_row(tmp_path):
    raw = pyarrow.array([b"fine", b"\xff\xfe", b"also fine"], pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "e.parquet")
    records = list(LENIENT.read(SourceConfig(path=str(tmp_path))))
    assert [getattr(record, "rule", "kept") for record in records] == ["kept", "invalid-utf8", "kept"]
    assert records[1].source.endswith("e.parquet#2")


def test_utf16_is_recognised_and_a_declared_charset_is_believed(tmp_path):
    (tmp_path / "a.txt").write_text("wide", encoding="utf-16")
    page = '<html><head><meta charset="windows-1252"><title>T</title></head><body><p>caf\xe9 society</p></body></html>'
    (tmp_path / "b.html").write_bytes(page.encode("cp1252"))
    wide, page = LENIENT.read(SourceConfig(path=str(tmp_path)))
    assert wide.rule == "invalid-utf8" and "UTF-16" in wide.detail
    assert "café society" in page.text and page.metadata == {"title": "T"}


def test_names_that_are_not_utf8_and_zero_bytes_reach_the_corpus_as_text(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    sentence = "The committee met on Tuesday to discuss the budget for the coming year, number {}. " * 3
    with open(os.path.join(os.fsencode(folder), b"na\xffme.txt"), "w") as file:
        file.write(sentence.format(1, 1, 1))
    line = '{"text": "zero\\u0000byte %s", "title": "half \\ud800", "id": 7}\n'
    (folder / "x.jsonl").write_text("".join(line % (f"word{n} " * 60) for n in range(3)) * 2)
    config = DataConfig(sources=(SourceConfig(path=str(folder)),), rights=RightsConfig(unknown="keep"))
    with write_folder(tmp_path / "corpus", "corpus", "key", {}) as draft:
        datasheet = build(config, 0, draft, Workshop(tmp_path / "work", "key"))
    # All three records of a line state the same id.
    assert datasheet["drops_by_rule"] == {"duplicate-id": 5} and "licence" in datasheet["warnings"][0]
    kept = list(Corpus.load(tmp_path / "corpus").documents())
    assert len(kept) == 2 and not any("\0" in document.text for document in kept)
    assert {document.source.rpartition("/")[2] for document in kept} >= {"na\\xffme.txt", "x.jsonl#1"}
