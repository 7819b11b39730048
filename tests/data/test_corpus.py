"""The corpus: every document accounted for, the same bytes whoever works, and nothing lost when somebody is killed."""

import functools
import hashlib
import random
import shutil

import pytest

from preceptor.core.artifact import write_folder
from preceptor.core.errors import DataError, EmptyDataError, Interrupted
from preceptor.data import parts
from preceptor.data.config import DataConfig
from preceptor.data.corpus import Corpus, Workshop, build
from preceptor.data.document import Document
from preceptor.data.executor import ExecutionConfig
from preceptor.data.overlap import OverlapConfig
from preceptor.data.personal import PersonalConfig
from preceptor.data.rights import RightsConfig
from preceptor.data.sources import SourceConfig

WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"),
    *("marsh", "niche", "ocean", "plain", "quarry", "ridge"),
]
KEEP_UNKNOWN = RightsConfig(unknown="keep")
HERE = ExecutionConfig(kind="in-process")


def text(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def documents(count: int, **fields) -> list[Document]:
    return [Document.new(f"Number {n} is {n * n}. {text(n)}", f"test:{n}", **fields) for n in range(count)]


def hand_out(records, source):
    return iter(records)


def make(tmp_path, records, execution=HERE, translators=None, **changes):
    """The datasheet and the corpus of records that are given, not read."""
    changes.setdefault("rights", KEEP_UNKNOWN)
    config = DataConfig(sources=(SourceConfig(kind="python-docs", name="test"),), **changes)
    workshop = Workshop(tmp_path / "work", "key", execution)
    readers = {"python-docs": functools.partial(hand_out, records)}
    with write_folder(tmp_path / "corpus", "corpus", "key", {}) as draft:
        datasheet = build(config, 0, draft, workshop, readers=readers, translators=translators)
    return datasheet, Corpus.load(tmp_path / "corpus")


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_document_is_kept_or_dropped_with_a_reason(tmp_path):
    records = [*documents(30), *documents(3), Document.new("short", "test:short")]
    near = records[0].text.replace("amber", "umber", 1)
    records.append(Document.new(near, "test:near"))
    datasheet, corpus = make(tmp_path, records)
    assert datasheet["documents_in"] == 35
    assert datasheet["documents_kept"] + datasheet["documents_dropped"] == 35
    assert sum(datasheet["drops_by_rule"].values()) == datasheet["documents_dropped"]
    assert datasheet["drops_by_rule"]["too-short"] == 1 and datasheet["drops_by_rule"]["near-duplicate"] == 1
    assert datasheet["drops_by_rule"]["duplicate-id"] == 3
    ledger = list(corpus.ledger())
    assert len(ledger) == 35
    # In the order in which they were read.
    assert [row["source"] for row in ledger] == [record.source for record in records]
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


def test_licence_and_consent_stay_with_the_document_and_unknown_is_refused_unless_kept(tmp_path):
    records = [*documents(10, licence="MIT", consent="granted")]
    records += [Document.new(text(n + 50, 80), f"other:{n}") for n in range(4)]
    datasheet, corpus = make(tmp_path / "keep", records)
    assert datasheet["licences"]["MIT"] == 10 and "unknown" in datasheet["licences"]
    assert {(d.licence, d.consent) for d in corpus.documents()} == {("MIT", "granted"), ("unknown", "unknown")}
    refused, _ = make(tmp_path / "refuse", records, rights=RightsConfig())
    assert refused["licences"] == {"MIT": 10} and refused["drops_by_rule"]["unknown-licence"] == 4


def test_personal_data_is_redacted_and_counted_unless_switched_off(tmp_path):
    records = [*documents(5), Document.new(text(99) + " write to ann@example.org", "test:mail")]
    datasheet, corpus = make(tmp_path / "on", records)
    assert datasheet["redactions"] == {"email": 1}
    assert not any("ann@example.org" in d.text for d in corpus.documents())
    _, kept = make(tmp_path / "off", records, personal=PersonalConfig(action="keep"))
    assert any("ann@example.org" in d.text for d in kept.documents())
    dropped, _ = make(tmp_path / "drop", records, personal=PersonalConfig(action="drop"))
    assert dropped["drops_by_rule"] == {"personal-data": 1}


def test_a_paragraph_stays_in_the_longest_of_its_documents(tmp_path):
    chapter = text(7, 90)
    book = "\n\n".join([text(1, 200), chapter, text(2, 200)])
    records = [*documents(4), Document.new(chapter, "test:chapter"), Document.new(book, "test:book")]
    records.append(Document.new(f"{chapter}\n\n{text(3, 120)}", "test:article"))
    datasheet, corpus = make(tmp_path, records)
    assert datasheet["drops_by_rule"] == {"repeated-elsewhere": 1}
    found = {document.source: document.text for document in corpus.documents()}
    assert chapter in found["test:book"] and found["test:article"] == text(3, 120)
    _, left = make(tmp_path / "left", records, overlap=OverlapConfig(repeated_paragraphs=False))
    assert sum(chapter in document.text for document in left.documents()) == 3


def write_sources(folder, count=240):
    """Files of several formats that come to several parts."""
    folder.mkdir()
    for n in range(count // 4):
        (folder / f"{n:03d}.txt").write_text(f"Number {n}. {text(n, 90)}")
        head = f"<html><head><title>Page {n}</title></head>"
        page = f"{head}<body><p>{text(1000 + n, 90)} a{n}@example.org</p></body></html>"
        (folder / f"{n:03d}.html").write_text(page)
    lines = [f'{{"text": "Line {n}. {text(2000 + n // 2, 90)}", "id": "{n}"}}\n' for n in range(count // 2)]
    (folder / "lines.jsonl").write_text("".join(lines) + '{"text": \n')


@pytest.fixture
def several_parts(monkeypatch):
    """Parts of some kilobytes each; workers that are spawned see the parts, not how they were cut."""
    monkeypatch.setattr(parts, "_PART_BYTES", 8_000)


def from_files(tmp_path, name, execution, check=None):
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "in"), licence="CC0-1.0"),), on_bad_input="reject")
    out = tmp_path / name
    workshop = Workshop(out / "work", "key", execution, *([check] if check else []))
    with write_folder(out / "corpus", "corpus", "key", {}) as draft:
        build(config, 0, draft, workshop)
    return out / "corpus"


@pytest.mark.filterwarnings("ignore")  # of Ray's own, which are none of ours
@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_whoever_works_the_bytes_are_the_same(tmp_path, several_parts, kind):
    if kind == "ray":
        pytest.importorskip("ray")
    write_sources(tmp_path / "in")
    here = digests(from_files(tmp_path, "here", HERE))
    assert len([name for name in here if name.startswith("documents/")]) > 4
    assert digests(from_files(tmp_path, kind, ExecutionConfig(kind=kind, num_workers=2))) == here


def test_what_was_done_is_not_done_again_after_a_stop(tmp_path, several_parts, monkeypatch):
    write_sources(tmp_path / "in")
    whole = digests(from_files(tmp_path, "whole", HERE))
    for stop_after in (1, 4, 9, 14):
        calls = []

        def check(calls=calls, stop_after=stop_after):
            calls.append(1)
            if len(calls) > stop_after:
                raise Interrupted(2)

        with pytest.raises(Interrupted):
            from_files(tmp_path, "again", HERE, check)
        assert not (tmp_path / "again" / "corpus").exists()
    done = len(list((tmp_path / "again" / "work" / "parts").iterdir()))
    assert done > 4
    read = []
    records = parts.records
    monkeypatch.setattr(parts, "records", lambda job, piece: (read.append(piece), records(job, piece))[1])
    assert digests(from_files(tmp_path, "again", HERE)) == whole
    assert not any((tmp_path / "whole" / "work" / "parts" / "00000") in [piece] for piece in read)
    shutil.rmtree(tmp_path / "again")


def test_a_part_that_was_torn_is_made_anew(tmp_path, several_parts):
    write_sources(tmp_path / "in")
    whole = digests(from_files(tmp_path, "out", HERE))
    victim = tmp_path / "out" / "work" / "parts" / "00002" / "documents.arrow"
    victim.write_bytes(victim.read_bytes()[:-100])
    shutil.rmtree(tmp_path / "out" / "corpus")
    assert digests(from_files(tmp_path, "out", HERE)) == whole


def test_a_corpus_of_nothing_says_by_which_rules_it_went(tmp_path):
    with pytest.raises(EmptyDataError, match="too-short 2"):
        make(tmp_path / "a", [Document.new("a", "x:1"), Document.new("b", "x:2")])
    with pytest.raises(DataError, match="only one document"):
        make(tmp_path / "b", documents(1))
    with pytest.raises(EmptyDataError, match="unknown-licence 3") as raised:
        make(tmp_path / "c", documents(3), rights=RightsConfig())
    assert "licence" in raised.value.remedy and "data.rights.unknown" in raised.value.remedy
    with pytest.raises(EmptyDataError, match="consent-missing 3") as raised:
        make(tmp_path / "d", documents(3), rights=RightsConfig(unknown="keep", consent=("granted",)))
    assert "data.rights.consent" in raised.value.remedy
    assert not (tmp_path / "a" / "corpus").exists()


def test_two_documents_are_one_for_training_and_one_for_validation(tmp_path):
    for seed_of_names in range(6):
        records = [Document.new(text(n), f"name{seed_of_names}:{n}") for n in range(2)]
        datasheet, _ = make(tmp_path / str(seed_of_names), records)
        assert datasheet["train"]["documents"] == datasheet["validation"]["documents"] == 1


def test_half_a_surrogate_pair_from_any_source_is_a_rejection(tmp_path):
    datasheet, _ = make(tmp_path, [*documents(3), Document.new("\ud800" * 100, "test:half")])
    assert datasheet["drops_by_rule"] == {"invalid-utf8": 1} and datasheet["documents_kept"] == 3
