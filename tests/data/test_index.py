"""The index finds every document by id, name and text; withdrawals are never lost and drop what they name."""

import json
import os
import pickle
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.core.errors import ArtifactError
from preceptor.data import index
from preceptor.data.document import KEEP, Document, Drop
from preceptor.data.index import Index, Place, text_key
from preceptor.data.withdrawal import (
    NOTHING_WITHDRAWN,
    WITHDRAWALS_FILE,
    Withdrawal,
    Withdrawn,
    keys_of,
    record,
    withdrawals,
    withdrawn,
)

DOCUMENT_COLUMNS = ("id", "parent", "source", "origin", "metadata", "text", "split")


def documents(num_documents, first=0):
    return [
        Document.new(f"Text number {n}, and more.", f"file:docs/{n // 3}.jsonl#{n % 3}", origin=f"https://a.org/{n}")
        for n in range(first, first + num_documents)
    ]


def write_corpus(folder, shards):
    """A folder with the documents and the ledger of a corpus; every fifth document was dropped."""
    for name in ("documents", "ledger"):
        (folder / name).mkdir(parents=True)
    for number, members in enumerate(shards):
        kept = [document for place, document in enumerate(members) if place % 5]
        rows = {name: [getattr(d, name, None) for d in kept] for name in DOCUMENT_COLUMNS}
        rows["metadata"] = [json.dumps({"url": f"https://b.org/{d.id}"}) for d in kept]
        rows["split"] = ["train"] * len(kept)
        pq.write_table(pa.table(rows), folder / f"documents/{number:05d}.parquet", row_group_size=7)
        ledger = {
            "id": [d.root_id for d in members] + [""],
            "source": [d.source for d in members] + ["file:bad"],
            "verdict": ["keep" if place % 5 else "drop" for place in range(len(members))] + ["drop"],
        }
        pq.write_table(pa.table(ledger), folder / f"ledger/{number:05d}.parquet")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    write_corpus(folder, [documents(40), documents(25, 40), []])
    # So little memory that the sorting has to spill and merge.
    index.write_from_shards(folder, memory_bytes=1)
    return folder


def test_every_document_is_found_by_each_of_its_names(corpus):
    found = Index.open(corpus)
    for number, document in enumerate([*documents(40), *documents(25, 40)]):
        shard, place = divmod(number, 40)
        places = found.find_id(document.id)
        assert Place(True, shard, place) in places
        is_kept = bool(place % 5)
        assert [found.row(p)["id"] for p in places] == [document.id] * (1 + is_kept)
        assert set(places) <= set(found.find_name(document.source)) | set(found.find_name(document.origin))
        for name in (document.origin, f"https://b.org/{document.id}"):
            assert [found.row(p, ["id"]) for p in found.find_name(name)] == [{"id": document.id}] * is_kept
        loud = f"  {document.text.upper().replace(' ', chr(10))}!"
        assert [found.row(p)["id"] for p in found.find_text(loud)] == [document.id] * is_kept


def test_a_file_names_all_its_records(corpus):
    found = Index.open(corpus)
    sources = {found.row(p)["source"] for p in found.find_name("file:docs/2.jsonl") if p.is_ledger}
    assert sources == {f"file:docs/2.jsonl#{n}" for n in range(3)}


def test_a_prefix_finds_what_starts_so_and_nothing_else(corpus):
    found = Index.open(corpus)
    everything = [*documents(40), *documents(25, 40)]
    for digits in ("a", "0f", everything[3].id[:9]):
        ids = {found.row(p)["id"] for p in found.find_id(digits)}
        assert ids == {d.id for d in everything if d.id.startswith(digits)}
    assert found.find_id("") == found.find_id("xyz") == found.find_id("A" * 20) == []


def test_a_quote_is_found_in_the_texts(corpus):
    found = Index.open(corpus)
    assert [found.row(p)["text"] for p in found.quoting("number 31,", 5)] == ["Text number 31, and more."]
    assert len(found.quoting("Text", 5)) == 5


def test_memory_given_to_the_sorting_changes_no_byte(corpus, tmp_path):
    again = tmp_path / "again"
    write_corpus(again, [documents(40), documents(25, 40), []])
    index.write_from_shards(again)
    names = sorted(p.name for p in (again / "index").iterdir())
    assert names == sorted(p.name for p in (corpus / "index").iterdir())
    for name in names:
        assert (again / "index" / name).read_bytes() == (corpus / "index" / name).read_bytes()


def test_a_torn_or_missing_index_says_so(corpus):
    path = corpus / "index/ids.keys.bin"
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(ArtifactError, match="torn"):
        Index.open(corpus)
    path.unlink()
    with pytest.raises(ArtifactError, match="no index"):
        Index.open(corpus)


@given(st.text())
def test_the_fast_way_to_a_key_gives_the_same_as_the_slow_one(text):
    assert text_key(text.upper().lower()) == text_key(f" .\u00ad\u2026{text.upper().lower()}\n")
    ascii_text = text.encode("ascii", "ignore").decode()
    # A soft hyphen sends the same letters through the way for texts that are not ASCII.
    assert text_key(ascii_text) == text_key(f"{ascii_text}\u00ad")
    assert text_key(ascii_text) == text_key(ascii_text.swapcase())


def test_texts_that_differ_have_other_keys_and_no_text_has_none():
    keys = {text_key(f"word {n}") for n in range(1000)}
    assert len(keys) == 1000
    assert text_key("") == text_key(" ...\n") == 0


def one(ids=(), texts=(), why="asked"):
    return Withdrawal(when="2026-01-01T00:00:00+00:00", who="me", why=why, ids=ids, texts=keys_of(texts))


def test_what_is_recorded_is_dropped_by_id_and_by_text(tmp_path):
    first, second, third = documents(3)
    record(tmp_path, one(ids=(first.id,)))
    record(tmp_path, one(texts=(second.text,)))
    gone = pickle.loads(pickle.dumps(withdrawn(tmp_path)))
    assert gone == withdrawn(tmp_path)
    verdicts = [gone.judge(document) for document in (first, second, third)]
    assert [v.rule if isinstance(v, Drop) else "" for v in verdicts] == ["withdrawn", "withdrawn", ""]
    assert isinstance(gone.judge(first.edited("Other words.")), Drop)
    moved = Document.new(second.text.upper(), "file:elsewhere.txt")
    assert isinstance(gone.judge(moved), Drop)
    assert gone.judge(Document.new("...", "file:empty")) == KEEP
    assert second.text not in (tmp_path / WITHDRAWALS_FILE).read_text()


def test_the_digest_depends_on_what_is_gone_alone(tmp_path):
    assert withdrawn(tmp_path) == NOTHING_WITHDRAWN
    assert NOTHING_WITHDRAWN.digest == ""
    record(tmp_path, one(ids=("b" * 16,)))
    before = withdrawn(tmp_path).digest
    record(tmp_path, one(ids=("b" * 16,), why="again"))
    assert withdrawn(tmp_path).digest == before == Withdrawn(frozenset({"b" * 16})).digest
    record(tmp_path, one(ids=("c" * 16,)))
    assert withdrawn(tmp_path).digest != before


def test_a_line_torn_by_a_power_cut_is_cut_off_and_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / WITHDRAWALS_FILE
    record(tmp_path, one(ids=("a" * 16,)))
    with path.open("ab") as file:
        file.write(b'{"when": "2026')
    assert len(withdrawals(tmp_path)) == 1
    record(tmp_path, one(ids=("b" * 16,)))
    assert [each.ids for each in withdrawals(tmp_path)] == [("a" * 16,), ("b" * 16,)]
    path.write_bytes(path.read_bytes().replace(b'"ids"', b'"id"', 1))
    with pytest.raises(ArtifactError, match=r"withdrawals\.jsonl:1: damaged"):
        withdrawn(tmp_path)


# The peak that getrusage tells would be that of this process, if it has taken more than its child.
MEMORY_CHILD = """
import re, sys
from pathlib import Path
from preceptor.data import index
index.write_from_shards(Path(sys.argv[1]), memory_bytes=1 << 18)
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_ten_times_the_documents_take_at_most_a_fifth_more_memory(tmp_path):
    peaks = []
    for num_shards in (3, 30):
        folder = tmp_path / str(num_shards)
        write_corpus(folder, [documents(1000, 1000 * n) for n in range(num_shards)])
        child = subprocess.run([sys.executable, "-c", MEMORY_CHILD, folder], capture_output=True, check=True, text=True)
        peaks.append(int(child.stdout))
    assert peaks[1] <= 1.2 * peaks[0]


def test_a_look_up_reads_a_few_pages_only(corpus):
    num_entries = 4_000_000
    keys = np.sort(np.random.default_rng(0).integers(0, 1 << 63, num_entries, np.uint64))
    keys.tofile(corpus / "index/ids.keys.bin")
    np.arange(num_entries, dtype="<u8").tofile(corpus / "index/ids.places.bin")
    faults = [_page_faults(corpus, f"{int(keys[n]):016x}") for n in range(0, num_entries, 400_000)]
    # Reading all of it takes 500 faults of 16 pages each, and looking in its halves at most two times 22.
    assert min(faults) < 100


def _page_faults(corpus, id):
    found = Index.open(corpus)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert found.find_id(id)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
