"""The corpus: every document accounted for, whatever the input."""

import json
import os
import random
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.artifact import write_folder
from preceptor.core.errors import ConfigError, DataError, EmptyDataError
from preceptor.data.corpus import Corpus, DataConfig, build
from preceptor.data.document import Document
from preceptor.data.examples import Example, read_examples, split_examples
from preceptor.data.overlap import contained, jaccard, near_duplicates, shingles
from preceptor.data.rights import normalise_licence
from preceptor.data.sources import Reader, SourceConfig

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "jetty",
    "knoll",
    "larch",
    "marsh",
    "niche",
    "ocean",
    "plain",
    "quarry",
    "ridge",
]


def text(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def documents(count: int, **fields) -> list[Document]:
    return [Document.new(f"Number {n} is {n * n}. {text(n)}", f"test:{n}", **fields) for n in range(count)]


def make(tmp_path, records, **changes):
    config = DataConfig(sources=(SourceConfig(path="unused"),), **changes)
    with write_folder(tmp_path / "corpus", "corpus", "key", {}) as draft:
        datasheet = build(records, config, 0, draft)
    return datasheet, Corpus.load(tmp_path / "corpus")


def read(folder, stop_on_bad_input=False, **fields):
    reader = Reader(max_record_bytes=10_000, stop_on_bad_input=stop_on_bad_input)
    return list(reader.read(SourceConfig(path=str(folder), **fields)))


def rules(records):
    return Counter(record.rule for record in records if not isinstance(record, Document))


def test_every_document_is_kept_or_dropped_with_a_reason(tmp_path):
    records = [*documents(30), *documents(3), Document.new("short", "test:short")]
    near = records[0].text.replace("amber", "umber", 1)
    records.append(Document.new(near + " and one more word", "test:near"))
    datasheet, corpus = make(tmp_path, records)
    assert datasheet["documents_in"] == 35
    assert datasheet["documents_kept"] + datasheet["documents_dropped"] == 35
    assert sum(datasheet["drops_by_rule"].values()) == datasheet["documents_dropped"]
    assert datasheet["drops_by_rule"]["exact-duplicate"] == 3 and datasheet["drops_by_rule"]["too-short"] == 1
    ledger = corpus.ledger()
    assert len(ledger) == 35
    assert {row["source"] for row in ledger if row["rule"] == "too-short"} == {"test:short"}
    kept = list(corpus.documents())
    assert len(kept) == datasheet["documents_kept"]
    assert sum(datasheet[split]["documents"] for split in ("train", "validation")) == len(kept)
    assert {d.id for d in corpus.documents("train")}.isdisjoint(d.id for d in corpus.documents("validation"))


def test_adding_documents_moves_no_other_to_another_split(tmp_path):
    _, few = make(tmp_path / "few", documents(60), validation_fraction=0.3)
    _, many = make(tmp_path / "many", documents(90), validation_fraction=0.3)
    before = {d.source for d in few.documents("validation")}
    after = {d.source for d in many.documents("validation")}
    assert before <= after and before


def test_licence_and_consent_stay_with_the_document_and_unknown_can_be_refused(tmp_path):
    records = [*documents(10, licence="MIT", consent="granted")]
    records += [Document.new(text(n + 50, 80), f"other:{n}") for n in range(4)]
    datasheet, corpus = make(tmp_path / "keep", records)
    assert datasheet["licences"]["MIT"] == 10 and "unknown" in datasheet["licences"]
    assert {(d.licence, d.consent) for d in corpus.documents()} == {("MIT", "granted"), ("unknown", "unknown")}
    refused, _ = make(tmp_path / "refuse", records, unknown_licence="refuse")
    assert refused["licences"] == {"MIT": 10} and refused["drops_by_rule"]["unknown-licence"] >= 1


def test_personal_data_is_redacted_and_counted_unless_switched_off(tmp_path):
    records = [*documents(5), Document.new(text(99) + " write to ann@example.org", "test:mail")]
    datasheet, corpus = make(tmp_path / "on", records)
    assert datasheet["redactions"] == {"email": 1}
    assert not any("ann@example.org" in d.text for d in corpus.documents())
    _, kept = make(tmp_path / "off", records, redact=False)
    assert any("ann@example.org" in d.text for d in kept.documents())


def near(texts):
    return near_duplicates(texts, [shingles(one) for one in texts], 0.8)


@given(st.lists(st.integers(0, 12), min_size=2, max_size=25))
@settings(deadline=None, max_examples=40)
def test_removing_near_duplicates_is_idempotent_and_keeps_one_of_each_cluster(seeds):
    texts = [text(seed, 50 + seed) for seed in seeds]
    dropped = {duplicate.index for duplicate in near(texts)}
    kept = [one for index, one in enumerate(texts) if index not in dropped]
    assert not near(kept)
    assert set(kept) == set(texts)


def changed(words, every):
    return " ".join("changed" if place % every == 0 else word for place, word in enumerate(words))


def test_near_duplicates_are_found_by_their_true_similarity():
    base = [f"word{n}" for n in range(200)]
    texts = [" ".join(base), changed(base, 50), changed(base, 6)]
    assert jaccard(shingles(texts[0]), shingles(texts[1])) > 0.8 > jaccard(shingles(texts[0]), shingles(texts[2]))
    (found,) = near(texts)
    assert (found.index, found.kept) == (0, 1) and found.measured >= 0.8


def test_hardly_a_near_duplicate_is_overlooked():
    bases = [[f"w{n}-{place}" for place in range(200)] for n in range(300)]
    texts = [" ".join(base) for base in bases] + [changed(base, 50) for base in bases]
    assert len(near(texts)) >= 297


def test_a_chapter_inside_its_book_is_found_and_the_book_stays():
    chapters = [text(n, 120) for n in range(4)]
    sets = [shingles(one) for one in (*chapters, " ".join(chapters), text(9, 120))]
    assert [(found.index, found.kept) for found in contained(sets, 0.8)] == [(n, 4) for n in range(4)]
    assert not contained([sets[4], sets[5]], 0.8)


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


def test_a_corpus_of_nothing_says_by_which_rules_it_went(tmp_path):
    with pytest.raises(EmptyDataError, match="too-short 2"):
        make(tmp_path, [Document.new("a", "x:1"), Document.new("b", "x:2")])
    with pytest.raises(DataError, match="only one document"):
        make(tmp_path, documents(1))
    assert not (tmp_path / "corpus").exists()


def test_a_licence_is_an_spdx_expression_or_is_refused():
    assert normalise_licence("apache-2.0 or mit", "here") == "Apache-2.0 OR MIT"
    assert normalise_licence("Unknown", "here") == "unknown"
    with pytest.raises(ConfigError, match=r"here.*free as in beer"):
        normalise_licence("free as in beer", "here")


def test_no_group_is_on_both_sides_of_a_split():
    examples = [Example(f"q{n}", "a", f"group{n % 40}") for n in range(200)]
    train, held_out = split_examples(examples, 1, 0.25)
    assert len(train) + len(held_out) == 200 and held_out
    assert {e.group for e in train}.isdisjoint(e.group for e in held_out)
    assert split_examples(examples, 2, 0.25)[1] != held_out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"question": "q", "answer": ""}', "not empty"),
        ('{"ask": "q"}', "question and answer"),
        ('{"question": "q", "answer": "a"}\n{"question"', ":2: broken JSON"),
        ("", "holds no example"),
        ("[1]", "record 1"),
    ],
)
def test_examples_that_cannot_be_used_are_named(tmp_path, content, words):
    path = tmp_path / "examples.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_examples(path)


def test_examples_in_the_shapes_people_have(tmp_path):
    path = tmp_path / "examples.json"
    rows = [{"prompt": "p", "completion": "c"}, {"instruction": "i", "input": "n", "output": "o"}]
    path.write_text(json.dumps(rows))
    assert [(e.question, e.answer) for e in read_examples(path)] == [("p", "c"), ("i\nn", "o")]
