"""Files made to do harm, or torn: each is refused in time, in little memory and with its place; the rest is read."""

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
import zlib

import pyarrow
import pyarrow.parquet
import pytest
from file_samples import PAGE, WARC, compress, epub, pdf, warc_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError, EmptyDataError
from preceptor.data.document import Document, Rejected
from preceptor.data.sources import Reader, SourceConfig, inputs, plan

LIMIT = 100_000
PACKED = {"extra": "Content-Encoding: gzip\r\n"}


def read(path, limit=LIMIT, stop=False, **fields):
    reader = Reader(max_record_bytes=limit, stop_on_bad_input=stop)
    return list(reader.read(SourceConfig(path=str(path), **fields)))


def outcomes(records):
    """What became of each record: its rule, or its text where that is short."""
    return [record.text[:20] if isinstance(record, Document) else record.rule for record in records]


def zeros(num_bytes, ending):
    """A compressed file of many equal letters, made in little memory."""
    file = io.BytesIO()
    block = b"a" * (1 << 20)
    if ending == ".gz":
        with gzip.open(file, "wb", 9) as out:
            for _ in range(num_bytes >> 20):
                out.write(block)
        return file.getvalue()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        for _ in range(num_bytes >> 20):
            out.write(block)
    return sink.getvalue().to_pybytes()


BOMBS = {
    "x.csv": b"text\n",
    "x.epub": b"",
    "x.html": b"<p>",
    "x.json": b"[",
    "x.jsonl": b"",
    "x.md": b"# Title",
    "x.pdf": b"%PDF-1.4",
    "x.txt": b"",
    "x.warc": b"WARC/1.0\r\nWARC-Type: request\r\nContent-Length: 999999999\r\n\r\n",
}


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_bombs_are_refused_in_little_memory(tmp_path, ending):
    (tmp_path / "good.txt").write_text("good")
    bomb = zeros(200 << 20, ending)
    for name, front in BOMBS.items():
        (tmp_path / (name + ending)).write_bytes(compress(front, ending) + bomb)
    program = (
        "import resource, sys\n"
        "from preceptor.data.sources import Reader, SourceConfig\n"
        f"reader = Reader(max_record_bytes={LIMIT}, stop_on_bad_input=False)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for record in reader.read(SourceConfig(path=sys.argv[1])): print(getattr(record, 'rule', 'good'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    *found, grown_kib = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert found[0] == "good" and set(found[1:]) == {"expands-too-far", "record-too-long"}
    assert found.count("expands-too-far") >= 3 and "good" not in found[1:]
    assert int(grown_kib) < 60_000


def test_a_long_bomb_of_lines_is_given_up_at_the_ratio(tmp_path):
    line = b'{"text": "' + b"again and again " * 5000 + b'"}\n'
    (tmp_path / "x.jsonl.zst").write_bytes(compress(line * 1500, ".zst"))
    records = read(tmp_path)
    assert (
        records[-1].rule == "expands-too-far"
        and records[-1].source == f"file:{tmp_path.name}/x.jsonl.zst#{len(records)}"
    )
    assert (64 << 20) - len(line) < len(line) * len(records) < (66 << 20)


def test_books_that_unpack_to_too_much_are_refused(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "long.epub").write_bytes(epub(["a" * (3 * LIMIT)]))
    (tmp_path / "many.epub").write_bytes(epub(["a" * (LIMIT - 10)] * 5))
    (tmp_path / "files.epub").write_bytes(epub(["a"], {f"f{n}": "" for n in range(10_100)}))
    locked = epub(["text"]).replace(b"chapter%200", b"nowhere%200")
    (tmp_path / "torn.epub").write_bytes(locked[: len(locked) // 2])
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><container>&b;</container>'
    with zipfile.ZipFile(tmp_path / "laughs.epub", "w") as book:
        book.writestr("META-INF/container.xml", laughs)
    found = {
        record.source.rpartition("/")[2]: record.rule for record in read(tmp_path) if not isinstance(record, Document)
    }
    assert found == {
        "files.epub": "expands-too-far",
        "laughs.epub": "broken-epub",
        "long.epub": "record-too-long",
        "many.epub": "record-too-long",
        "torn.epub": "broken-epub",
    }


def test_a_book_whose_entry_lies_about_its_length_is_refused(tmp_path):
    raw = bytearray(epub(["b" * (3 * LIMIT)]))
    place = raw.rfind(b"PK\x01\x02", 0, raw.rfind(b"OPS/chapter 0.xhtml"))
    raw[place + 24 : place + 28] = (10).to_bytes(4, "little")
    (tmp_path / "x.epub").write_bytes(raw)
    with pytest.raises(EmptyDataError, match="1 broken-epub"):
        read(tmp_path)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_cut_anywhere_gives_what_came_before_and_says_so(tmp_path, ending):
    lines = [json.dumps({"text": f"document {n} {os.urandom(30).hex()}"}) + "\n" for n in range(500)]
    whole = compress("".join(lines).encode(), ending)
    path = tmp_path / f"x.jsonl{ending}"
    (tmp_path / "good.txt").write_text("good")
    for cut in range(1, len(whole), len(whole) // 12):
        path.write_bytes(whole[:cut])
        _, *records = read(tmp_path)
        assert records[-1].rule == "broken-compression"
        assert records[-1].source.endswith(f"#{len(records)}")
        assert [record.text for record in records[:-1]] == [
            json.loads(line)["text"] for line in lines[: len(records) - 1]
        ]
    path.write_bytes(whole[:-8] + b"\0" * 8 if ending == ".gz" else whole[:20] + b"\xff" * 20 + whole[40:])
    assert read(tmp_path)[-1].rule == "broken-compression"
    path.write_bytes(b"")
    assert outcomes(read(tmp_path)) == ["good"]


def test_an_archive_cut_anywhere_gives_what_came_before_and_says_so(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    for cut in range(10, len(WARC) - 10, 97):
        (tmp_path / "x.warc").write_bytes(WARC[:cut])
        found = read(tmp_path)
        assert "good" in outcomes(found)
        assert outcomes(found).count("broken-warc") <= 1
        assert len(found) - 1 <= 7
    (tmp_path / "x.warc").write_bytes(WARC[: WARC.index(b"packed") if b"packed" in WARC else len(WARC) // 2])
    assert outcomes(read(tmp_path))[-1] == "broken-warc"


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"this is no archive", "broken-warc"),
        (warc_record("https://a.org", b"x").replace(b"Content-Length: ", b"Content-Length: -"), "broken-warc"),
        (b"WARC/1.0\r\n" + b"Name: value\r\n" * 100_000, "broken-warc"),
        (b"WARC/1.0\r\n" + b"N" * 1_000_000, "broken-warc"),
        (warc_record("https://a.org", b"a" * 3 * LIMIT), "record-too-long"),
        (warc_record("https://a.org", gzip.compress(b"a" * (30 << 20)), **PACKED), "record-too-long"),
        (warc_record("https://a.org", gzip.compress(b"a" * 999)[:9] + b"abcdefgh", **PACKED), "broken-compression"),
        (warc_record("https://a.org", b"packed", extra="Content-Encoding: br\r\n"), "unknown-encoding"),
        (warc_record("https://a.org", b"").replace(b"HTTP/1.1", b"FTP/1.1"), "broken-warc"),
    ],
)  # fmt: skip
def test_a_record_of_an_archive_that_does_harm_is_refused(tmp_path, raw, rule):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "x.warc").write_bytes(raw)
    assert outcomes(read(tmp_path)) == ["good", rule]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"text": "x", "n": NaN}', "broken-json"),
        (b'{"text": "x", "n": -Infinity}', "broken-json"),
        (b'{"text": "x", "text": "y"}', "broken-json"),
        (b'{"text": "x", "deep": {"a": 1, "a": 2}}', "broken-json"),
        (b'{"text": "\\udfff half"}', "invalid-utf8"),
        (b'{"text": "x", "deep": ' + b"[" * 200_000, "broken-json"),
        (b'{"text": "x", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "broken-json"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "broken-json"),
    ],
)
def test_json_that_readers_disagree_on_is_refused_with_its_line(tmp_path, line, rule):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "two"}\n')
    records = read(tmp_path, limit=10_000_000)
    assert outcomes(records) == ["one", rule, "two"] and records[1].source.endswith("x.jsonl#2")
    with pytest.raises(DataError, match=r"x\.jsonl:2: ") as raised:
        read(tmp_path, limit=10_000_000, stop=True)
    assert "on_bad_input" in raised.value.remedy


def test_one_bad_value_in_a_list_of_json_takes_no_other_with_it(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"text": "one"}, {"text": NaN}, {"text": "a", "text": "b"}, 7, {"text": "two"}]')
    assert outcomes(read(path)) == ["one", "broken-json", "broken-json", "no-text-field", "two"]
    path.write_bytes(b'[{"text": "one"}, {"text": "two"}')
    assert outcomes(read(path)) == ["one", "two", "broken-json"]
    path.write_bytes(b'[{"text": "one"}, {"text": }, {"text": "lost"}]')
    assert outcomes(read(path)) == ["one", "broken-json"]
    path.write_bytes(b'{"text": "one"} ' + b"[" * 200_000)
    assert outcomes(read(path)) == ["one", "record-too-long"]
    path.write_bytes(b'{"text": "one"} {"text": "\xff"}')
    with pytest.raises(EmptyDataError, match="invalid-utf8"):
        read(path)


def test_a_torn_sheet_is_refused_row_by_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"id,text\n1,one\n2\n3,three,more\n4,\xff\n5,five\n")
    records = read(path)
    assert outcomes(records) == ["one", "broken-csv", "broken-csv", "invalid-utf8", "five"]
    assert records[2].source == "file:x.csv#4"
    path.write_bytes(b'id,text\n1,"never closed\n' + b"line after line\n" * 20_000)
    with pytest.raises(EmptyDataError, match="record-too-long"):
        read(path)
    path.write_bytes(b"id,text\n1," + b"a" * (2 * LIMIT) + b"\n2,two\n")
    assert outcomes(read(path)) == ["record-too-long", "two"]
    path.write_bytes(b"text,text\n1,2\n")
    with pytest.raises(EmptyDataError, match="broken-csv"):
        read(path)
    path.write_bytes(b"id,other\n1,2\n")
    with pytest.raises(DataError, match="the fields are id, other"):
        read(path, stop=True)


def test_a_parquet_file_that_unpacks_too_far_is_refused(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"text": ["a" * (1 << 20)] * 100})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert outcomes(read(tmp_path)) == ["good", "expands-too-far"]


def test_a_paper_whose_page_unpacks_without_end_is_refused(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(b" " * (1 << 20)) for _ in range(150)) + packing.flush()
    plain = pdf(["text"])
    page = b"<</Filter/FlateDecode/Length %d>>stream\n" % len(packed) + packed
    start = plain.index(b"<</Length")
    (tmp_path / "x.pdf").write_bytes(plain[:start] + page + plain[plain.index(b"\nendstream") :])
    assert outcomes(read(tmp_path)) == ["good", "expands-too-far"]


@pytest.mark.parametrize("raw", [b"%PDF-1.4\nnothing", pdf(["text"])[:200], b"\0" * 100])
def test_a_broken_paper_is_refused(tmp_path, raw):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "x.pdf").write_bytes(raw)
    assert outcomes(read(tmp_path)) == ["good", "broken-pdf"]
    with pytest.raises(DataError, match=r"x\.pdf"):
        read(tmp_path, stop=True)


def test_a_paper_of_pictures_is_counted_and_stops_nothing(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "x.pdf").write_bytes(pdf([""]))
    assert outcomes(read(tmp_path, stop=True)) == ["good", "no-text"]


@pytest.mark.parametrize(
    "page",
    [
        "word " * 2_000_000,
        "<p>" * 1_000_000 + "end",
        "<!--" * 500_000 + "end",
        "<meta charset=" * 200_000 + "end",
        "<a href='" * 200_000 + "end",
        "<em>" * 100_000 + "end",
        "<table>" * 100_000 + "end",
        "&amp" * 1_000_000,
        "<x " + "".join(f"a{n}=1 " for n in range(100_000)) + ">end",
        "<ul><li>" * 100_000,
        '<script type="application/ld+json">{"a": 1}</script>' * 50_000,
        "".join(f"<b a{n}=1>x" for n in range(50_000)),
    ],
    ids=["words", "p", "comments", "meta", "quotes", "em", "tables", "entities", "attributes", "ul", "json", "b"],
)
def test_a_page_of_one_line_of_many_megabytes_is_read_in_time(tmp_path, page):
    (tmp_path / "x.html").write_text(f"<html><body>first {page}")
    program = (
        "import sys\n"
        "from preceptor.data.sources import Reader, SourceConfig\n"
        "reader = Reader(max_record_bytes=20_000_000, stop_on_bad_input=False)\n"
        "(record,) = reader.read(SourceConfig(path=sys.argv[1]))\n"
        "assert 'first' in record.text\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)


def test_a_page_of_a_hundred_megabytes_is_refused_without_reading_it(tmp_path):
    with (tmp_path / "x.html").open("wb") as file:
        file.write(b"<p>" + b"a" * 1000)
        file.truncate(100_000_000)
    with pytest.raises(EmptyDataError, match="1 record-too-long"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.parquet", "x.csv", "x.json.gz", "x.warc", "x.pdf", "x.epub"])
def test_a_source_that_disappears_is_counted_and_the_rest_is_read(tmp_path, name):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).write_text("soon gone")
    configs = [SourceConfig(path=str(tmp_path))]
    pieces = plan(configs, piece_bytes=1000)
    (tmp_path / name).unlink()
    found = [record for piece in pieces for record in Reader(configs, stop_on_bad_input=False).read_piece(piece)]
    assert sorted(outcomes(found)) == ["good", "unreadable"]
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        [list(Reader(configs).read_piece(piece)) for piece in pieces]


def test_a_file_that_shrinks_while_it_is_read_is_said(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one"}\n' * 100)
    configs = [SourceConfig(path=str(path))]
    pieces = plan(configs, piece_bytes=400)
    path.write_text('{"text": "one"}\n' * 30)
    found = [record for piece in pieces for record in Reader(configs, stop_on_bad_input=False).read_piece(piece)]
    assert outcomes(found).count("one") == 30 and outcomes(found).count("changed") == len(pieces) - 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_counted(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secret.txt").chmod(0)
    assert outcomes(read(tmp_path)) == ["good", "unreadable"]
    assert any("unreadable" in one for one in inputs([SourceConfig(path=str(tmp_path))]))


SAMPLES = {
    **{"x.json": b'[{"text": "one"}, {"text": "two"}]', "x.jsonl": b'{"text": "one"}\n{"text": "two"}\n'},
    **{"x.csv": b'id,text\n1,"a, b"\n2,"two\nlines"\n', "x.md": b"---\ntitle: T\n---\n# Title\ntext"},
    **{"x.html": PAGE.encode(), "x.warc": WARC, "x.pdf": pdf(["text"]), "x.epub": epub(["<p>text</p>"])},
    **{"x.txt.gz": gzip.compress(b"text " * 50), "x.jsonl.zst": compress(b'{"text": "one"}\n' * 9, ".zst")},
}


@given(st.sampled_from(sorted(SAMPLES)), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_changed_anywhere_give_documents_or_rejections_and_nothing_else(tmp_path, name, data):
    raw = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(len(raw), start + 40)))
        raw[start:stop] = data.draw(st.one_of(st.binary(max_size=20), st.just(bytes(raw[:start][-30:]))))
    path = tmp_path / name
    path.write_bytes(raw)
    configs = [SourceConfig(path=str(path))]
    for piece in plan(configs, piece_bytes=1000):
        for record in Reader(configs, stop_on_bad_input=False).read_piece(piece):
            assert isinstance(record, Document | Rejected)
            assert record.text.encode() or record.text == "" if isinstance(record, Document) else record.rule


def test_fields_of_any_type_break_nothing(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"text": "one", "id": [1], "title": {"a": 1}, "date": true, "url": null, "license": 7, "author": 3.5}\n'
        '{"text": "two", "id": 7, "title": "\\ud800", "date": 2024, "license": "\\ud800", "language": "en"}\n'
    )
    one, two = read(tmp_path)
    assert one.metadata == {} and {"id": "7", "date": "2024", "language": "en"}.items() <= two.metadata.items()
    assert not {"title", "url", "author"} & set(two.metadata)
    assert two.date == "2024" and two.licence == "unknown"
