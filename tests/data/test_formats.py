"""Formats: each gives the text that people read, and what the file says of itself, also compressed."""

import csv
import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from file_samples import PAGE, WARC, compress, epub, pdf, warc_record
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.data.document import Document
from preceptor.data.formats import LANGUAGES, SUFFIXES, format_of
from preceptor.data.records import iso_date
from preceptor.data.sources import Reader, SourceConfig
from preceptor.data.web_page import depth


def read(path, **fields):
    return list(Reader(stop_on_bad_input=False).read(SourceConfig(path=str(path), **fields)))


def read_one(tmp_path, name, raw, **fields):
    (tmp_path / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    (record,) = read(tmp_path / name, **fields)
    assert isinstance(record, Document), record
    return record


FILES = {
    "a.txt": (b"\xef\xbb\xbfsome text", ["some text"]),
    "a.rst": (b"Title\n=====\n\ntext", ["Title\n=====\n\ntext"]),
    "a.py": (b"print(1)\n", ["print(1)\n"]),
    "a.md": (b"# Title\n\ntext", ["# Title\n\ntext"]),
    "a.jsonl": (b'{"text": "one"}\n{"text": "two"}', ["one", "two"]),
    "a.ndjson": (b'{"text": "one"}\n', ["one"]),
    "a.json": (b'[{"text": "one"},\n {"text": "two"}]', ["one", "two"]),
    "a.csv": (b'id,text\n1,"a, b"\n2,"two\nlines"\n', ["a, b", "two\nlines"]),
    "a.tsv": (b"id\ttext\n1\tone\n", ["one"]),
    "a.html": (b"<p>some text</p>", ["some text"]),
    "a.warc": (WARC, [None, "café au lait", "packed", "in parts", "plain text of a page"]),
    "a.pdf": (pdf(["page one", "page two"]), ["page one\n\npage two"]),
    "a.epub": (epub(["<p>last</p>", "<p>first</p>"]), ["first\n\nlast"]),
}


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_is_read_plain_and_compressed(tmp_path, name, ending):
    raw, texts = FILES[name]
    (tmp_path / (name + ending)).write_bytes(compress(raw, ending))
    found = [record.text for record in read(tmp_path) if isinstance(record, Document)]
    assert len(found) == len(texts)
    assert all(text is None or text == one for text, one in zip(texts, found, strict=True))


def test_members_of_one_compressed_file_are_read_one_after_the_other(tmp_path):
    for ending in (".gz", ".zst"):
        parts = [compress(b'{"text": "%d"}\n' % n, ending) for n in range(3)]
        (tmp_path / f"x.jsonl{ending}").write_bytes(b"".join(parts))
        assert [record.text for record in read(tmp_path / f"x.jsonl{ending}")] == ["0", "1", "2"]


def test_a_page_gives_its_main_text_and_what_it_says_of_itself(tmp_path):
    document = read_one(tmp_path, "a.html", PAGE)
    assert "worth reading" in document.text and "says more" in document.text
    assert "Home" not in document.text and "tracked" not in document.text and "All rights" not in document.text
    assert document.metadata == {
        "title": "A title & more",
        "author": "Ann Other",
        "date": "2024-05-01T10:00:00Z",
        "language": "en-GB",
        "url": "https://example.org/page",
    }
    assert (document.origin, document.date) == ("https://example.org/page", "2024-05-01")


LINKED = '<script type="application/ld+json">'


@pytest.mark.parametrize(
    ("head", "date", "author"),
    [
        (f'{LINKED}{{"datePublished": "2023-02-01", "author": {{"name": "B"}}}}</script>', "2023-02-01", "B"),
        (f'{LINKED}[{{"@graph": [{{"author": [{{"name": "B"}}, "C"]}}]}}]</script>', "", "B, C"),
        (f'{LINKED}{{broken</script><meta name="date" content="2022">', "2022", None),
        (f"{LINKED}{'[' * 100_000}</script>", "", None),
        ('<meta name="dc.creator" content="D"><time datetime="2021-01-02">then</time>', "2021-01-02", "D"),
        ("<!-- <meta name=author content=Nobody> -->", "", None),
        ('<meta name="author"><meta content="x">', "", None),
    ],
)
def test_date_and_author_are_found_where_pages_have_them(tmp_path, head, date, author):
    document = read_one(tmp_path, "a.html", f"<html><head>{head}</head><body><p>text</p></body></html>")
    assert document.date == date and document.metadata.get("author") == author


def test_front_matter_becomes_fields_and_leaves_the_text(tmp_path):
    yaml = read_one(tmp_path, "a.md", "---\ntitle: 'A: b'\nDate: 2024-05-01\nlicense: MIT\ntags: [x]\n---\n# Heading\n")
    assert (yaml.text, yaml.metadata["title"], yaml.date, yaml.licence) == ("# Heading\n", "A: b", "2024-05-01", "MIT")
    toml = read_one(tmp_path, "b.md", '+++\ntitle = "T"\ndate = 2024-05-01\n+++\ntext')
    assert (toml.text, toml.metadata, toml.date) == ("text", {"title": "T", "date": "2024-05-01"}, "2024-05-01")
    rule = read_one(tmp_path, "c.md", "---\n\nA line is no front matter.\n\n---\nend")
    assert rule.text.startswith("---") and rule.metadata == {}
    assert read_one(tmp_path, "d.md", "+++\n= broken\n+++\nend").text.startswith("+++")


def test_code_says_its_language_and_books_their_author(tmp_path):
    assert read_one(tmp_path, "a.rs", "fn main() {}").metadata == {"language": "rust"}
    book = read_one(
        tmp_path, "a.epub", epub(["<p>text</p>"], title="T", creator="Ann", date="2020-05", rights="CC-BY-4.0")
    )
    assert book.metadata == {"title": "T", "author": "Ann", "date": "2020-05"}
    assert (book.date, book.licence) == ("2020-05", "CC-BY-4.0")
    paper = read_one(tmp_path, "a.pdf", pdf(["text"]))
    assert paper.metadata["title"] == "A paper" and paper.date == "2024-05-01"


def test_a_page_of_an_archive_has_its_address_and_the_rest_is_counted(tmp_path):
    (tmp_path / "a.warc").write_bytes(WARC)
    records = read(tmp_path / "a.warc")
    assert [record.source for record in records] == [f"file:a.warc#{n}" for n in (2, 3, 4, 5, 6, 7, 8)]
    assert records[0].origin == "https://a.org/1" and records[0].metadata["id"] == "urn:uuid:1"
    assert records[0].date == "2024-05-01" and records[2].date == "2024-05-01"
    assert [record.rule for record in records if not isinstance(record, Document)] == ["not-a-page", "not-a-page"]
    assert "404" in records[1].detail


def test_pages_of_an_archive_are_found_however_they_were_sent(tmp_path):
    draw = random.Random(0)
    parts, expected = [], []
    for n in range(80):
        text = f"{'word ' * draw.randrange(1, 300)}{n}"
        body, extra = f"<html><body><p>{text}</p></body></html>".encode(), ""
        if draw.random() < 0.5:
            body, extra = gzip.compress(body), "Content-Encoding: gzip\r\n"
        if draw.random() < 0.5:
            cut = draw.randrange(1, len(body))
            chunks = [body[:cut], body[cut:], b""]
            body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
            extra += "Transfer-Encoding: chunked\r\n"
        kind = draw.choice(["response", "response", "request"])
        parts.append(warc_record(f"https://a.org/{n}", body, extra=extra, kind=kind))
        expected += [(f"https://a.org/{n}", text)] if kind == "response" else []
    path = tmp_path / "x.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    assert [(document.origin, document.text.strip()) for document in read(path)] == expected


def test_a_sheet_with_semicolons_is_read(tmp_path):
    assert read_one(tmp_path, "a.csv", "id;text\n1;one, two\n").text == "one, two"


def test_values_of_json_may_be_longer_than_a_block_and_stand_in_any_shape(tmp_path):
    long = "a long text " * 200_000
    for raw in (
        json.dumps([{"text": "one"}, {"text": long}, {"text": "two"}], indent=2),
        "\n".join(json.dumps({"text": text}, indent=1) for text in ("one", long, "two")),
    ):
        (tmp_path / "a.json").write_text(raw)
        assert [record.text for record in read(tmp_path)] == ["one", long, "two"]
    assert read_one(tmp_path, "b.json", '{"text": "single"}').source == "file:b.json#1"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_text_is_the_same_from_every_format_of_records(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("formats")
    texts = [text.replace("\r", "").replace("\0", "") or "x" for text in texts]
    rows = [{"text": text} for text in texts]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "other"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(row | {"other": "o"} for row in rows)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        assert [record.text for record in read(folder / name)] == texts, name


@pytest.mark.parametrize(
    ("stated", "date"),
    [
        ("2024-05-01T10:00:00Z", "2024-05-01"),
        ("2024-05", "2024-05"),
        ("2024", "2024"),
        ("20240501", "2024-05-01"),
        ("D:20240501120000+02'00'", "2024-05-01"),
        ("Wed, 01 May 2024 10:00:00 GMT", "2024-05-01"),
        ("2024-13-01", ""),
        ("yesterday", ""),
        ("", ""),
        ("9" * 5000, ""),
    ],
)
def test_dates_are_said_as_iso_8601(stated, date):
    assert iso_date(stated) == date


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        ("windows-1251", "привет".encode("cp1251"), "привет"),
        ("ISO-8859-1", "“café”".encode("cp1252"), "“café”"),
        ("Shift_JIS", "日本語".encode("shift_jis"), "日本語"),
        ("utf-16", "café".encode(), "café"),
        ("unicode_escape", r"\u0041 café".encode(), r"\u0041 café"),
        ("undefined", "café".encode(), "café"),
        ("punycode", "café".encode(), "café"),
        ("zlib", "café".encode(), "café"),
    ],
)
def test_a_charset_is_believed_where_pages_can_be_of_it(tmp_path, charset, raw, text):
    page = f'<meta charset="{charset}"><p>'.encode() + raw + b"</p>"
    assert read_one(tmp_path, "a.html", page).text == text
    (tmp_path / "a.warc").write_bytes(warc_record("https://a.org", raw, f"text/plain; charset={charset}"))
    assert [record.text for record in read(tmp_path / "a.warc")] == [text]


def test_endings_say_the_format():
    assert format_of("A.HTML.GZ") == "html" and format_of("x.tar.gz") is None and format_of("x.parquet.zst") is None
    assert all(format_of(f"x{suffix}") == kind for suffix, kind in SUFFIXES.items())
    assert all(format_of(f"x{suffix}") == "code" for suffix in LANGUAGES)


def test_the_depth_of_a_page_counts_elements_that_hold_others():
    assert depth("<div><p>a<p>b<br><div></div></div>") == 2
    assert depth("<custom-tag>" * 700) == 700
    assert depth("no tags, 3 < 4") == 0
