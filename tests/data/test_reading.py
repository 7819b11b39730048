"""Reading files: every record becomes a document or a located rejection."""

import os
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.data.document import Document
from preceptor.data.sources import Reader, SourceConfig


def read(folder, stop_on_bad_input=False, **fields):
    reader = Reader(max_record_bytes=10_000, stop_on_bad_input=stop_on_bad_input)
    return list(reader.read(SourceConfig(path=str(folder), **fields)))


def rules(records):
    return Counter(record.rule for record in records if not isinstance(record, Document))


def test_a_page_nested_without_end_takes_no_time_to_speak_of(tmp_path):
    (tmp_path / "x.html").write_text("<div>" * 150_000 + "deep inside")
    reader = Reader(max_record_bytes=1_000_000, stop_on_bad_input=True)
    (record,) = reader.read(SourceConfig(path=str(tmp_path)))
    assert isinstance(record, Document) and "deep inside" in record.text


def test_a_licence_that_means_nothing_is_unknown_but_remembered(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"text": "one", "license": "free as in beer"}\n{"text": "b", "license": "cc by 4.0"}\n'
    )
    first, second = read(tmp_path, licence="MIT")
    assert first.licence == "unknown" and first.metadata == {"stated_licence": "free as in beer"}
    assert second.licence == "CC-BY-4.0"


def test_all_formats_are_read_with_licence_source_and_fields(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("\ufeffplain text", encoding="utf-8")
    (tmp_path / "b.md").write_text("# Heading")
    page = "<html><body><nav>Menu</nav><main><p>The body of the page is here.</p></main></body></html>"
    (tmp_path / "deep" / "c.html").write_text(page)
    (tmp_path / "d.jsonl").write_text('{"text": "one", "license": "mit", "title": "T"}\n\n{"text": "two"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["three"], "url": ["u"]}), tmp_path / "e.parquet")
    found = {record.source: record for record in read(tmp_path, licence="CC-BY-4.0")}
    front = f"file:{tmp_path.name}/"
    assert {source: record.text.strip() for source, record in found.items()} == {
        f"{front}a.txt": "plain text",
        f"{front}b.md": "# Heading",
        f"{front}d.jsonl#1": "one",
        f"{front}d.jsonl#3": "two",
        f"{front}e.parquet#1": "three",
        f"{front}deep/c.html": "The body of the page is here.",
    }
    assert found[f"{front}d.jsonl#1"].licence == "MIT" and found[f"{front}d.jsonl#1"].metadata == {"title": "T"}
    assert found[f"{front}a.txt"].licence == "CC-BY-4.0" and found[f"{front}e.parquet#1"].metadata == {"url": "u"}


BAD = {
    "broken-json": ("x.jsonl", b'{"text": "ok"}\n{"text": \n'),
    "invalid-utf8": ("x.txt", b"good line\nbad \xff line"),
    "record-too-long": ("x.jsonl", b'{"text": "' + b"a" * 20_000 + b'"}\n{"text": "after"}\n'),
    "no-text-field": ("x.jsonl", b'{"body": "no text here"}\n'),
    "broken-parquet": ("x.parquet", b"PAR1 not really"),
}


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_record_stops_the_run_by_name_and_place_or_is_counted(tmp_path, rule):
    name, content = BAD[rule]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("a good document")
    with pytest.raises(DataError, match=name) as raised:
        read(tmp_path, stop_on_bad_input=True)
    assert "on_bad_input" in str(raised.value)
    records = read(tmp_path)
    assert rules(records)[rule] == 1
    assert any(isinstance(record, Document) and record.text == "a good document" for record in records)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"text": "\\ud800"}', "invalid-utf8"),
        (b'{"text": 5}', "no-text-field"),
        (b"[1, 2]", "no-text-field"),
        (b"[" * 5000, "broken-json"),
        (b'{"text": "\xff"}', "invalid-utf8"),
        (b'{"text": "' + b"1" * 5000 + b'"}', None),
        (b'{"n": ' + b"1" * 5000 + b', "text": "x"}', "broken-json"),
    ],
)
def test_hostile_json_lines_are_rejected_and_the_next_is_read(tmp_path, line, rule):
    (tmp_path / "x.jsonl").write_bytes(line + b'\n{"text": "next"}\n')
    records = read(tmp_path)
    assert rules(records) == ({rule: 1} if rule else {})
    assert records[-1].text == "next"


def test_a_line_of_a_hundred_megabytes_takes_no_memory_to_speak_of(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    import tracemalloc

    tracemalloc.start()
    records = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rules(records) == {"record-too-long": 1} and records[-1].text == "after"
    assert peak < 5_000_000


def test_an_empty_folder_and_one_of_binaries_are_said(tmp_path):
    with pytest.raises(EmptyDataError, match="holds no document") as raised:
        read(tmp_path)
    assert ".jsonl" in str(raised.value)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "data.txt").write_bytes(b"\0\1\2\3")
    with pytest.raises(EmptyDataError, match="holds no document"):
        read(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")


def test_links_in_a_circle_pipes_and_devices_do_not_hang(tmp_path):
    (tmp_path / "good.txt").write_text("a good document")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    (tmp_path / "null.txt").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.txt")
    records = read(tmp_path)
    assert rules(records) == {"unreadable": 1, "not-a-file": 2, "link-loop": 1}
    assert sum(isinstance(record, Document) for record in records) == 1
