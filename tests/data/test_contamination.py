"""Pieces of evaluation sets in documents."""

import gzip
import json
import pickle
import random

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError
from preceptor.data.contamination import Contamination, ContaminationConfig, inputs
from preceptor.data.document import KEEP, Document, Drop
from preceptor.data.words import WORD

QUESTION = "Which of the following planets has the greatest number of moons that were confirmed by the year 2020?"


def document(text):
    return Document.new(text, "test:1")


def prose(seed, num_words):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(10_000)}" for _ in range(num_words))


def test_a_document_with_a_question_of_the_set_leaves_and_says_which():
    known = Contamination({"mmlu": [prose(1, 50)], "planets": [prose(2, 50), QUESTION]})
    text = f"{prose(3, 80)} {QUESTION.upper().replace(' ', '  ')} {prose(4, 20)}"
    verdict = known.judge(document(text))
    assert isinstance(verdict, Drop) and verdict.rule == "contaminated" and verdict.limit == 0
    assert verdict.measured == pytest.approx(18 / 118)
    assert verdict.detail == "planets: which of the following planets has the greatest number of moons that were"
    assert known.judge(document(prose(3, 500))) == KEEP
    # Twelve words in a row are not thirteen.
    assert known.judge(document(" ".join(QUESTION.split()[:12]) + " other words")) == KEEP


def test_a_short_question_counts_as_a_whole_but_a_shorter_one_does_not():
    known = Contamination({"set": ["one two three four five six seven eight nine", "is this true or false"]})
    found = known.find("zero, one two (three) four five six seven eight nine. ten")
    assert found is not None and found.share == pytest.approx(9 / 11)
    assert known.find("one two three four five six seven eight nothing is this true or false") is None
    shorter = Contamination({"set": ["is this true or false"]}, ContaminationConfig(min_words=5))
    assert shorter.find("so is this true or false then") is not None


def test_a_share_may_be_allowed_and_a_report_removes_nothing():
    text = f"{prose(3, 982)} {QUESTION}"
    for config, stays in (
        (ContaminationConfig(max_share=0.018), True),
        (ContaminationConfig(max_share=0.017), False),
        (ContaminationConfig(action="report"), True),
    ):
        known = Contamination({"planets": [QUESTION]}, config)
        assert (known.judge(document(text)) == KEEP) == stays
        assert known.note(document(text)) == ("planets" if config.action == "report" else None)
        assert known.find(text).share == pytest.approx(0.018)


WORDS = st.lists(st.sampled_from("abc"), max_size=14)


@given(st.lists(WORDS, max_size=5), WORDS, st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None, max_examples=200)
def test_what_is_found_against_looking_at_every_place(evaluation, words, ngram_words, min_words):
    texts = [" ".join(each) for each in evaluation]
    config = ContaminationConfig(ngram_words=ngram_words, min_words=min_words)
    known = set()
    for each in evaluation:
        size = min(ngram_words, len(each))
        if size >= min(min_words, ngram_words):
            known |= {tuple(each[start : start + size]) for start in range(len(each) - size + 1)}
    covered = set()
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            if tuple(words[start:stop]) in known:
                covered |= set(range(start, stop))
    found = Contamination({"set": texts}, config).find(" ".join(words))
    assert (found is not None) == bool(covered)
    if found is not None:
        assert found.share == pytest.approx(len(covered) / len(words))
        assert tuple(WORD.findall(found.ngram)) in known


def test_every_format_is_read_wherever_its_texts_stand(tmp_path):
    row = {"question": QUESTION, "choices": [{"text": prose(7, 20)}], "answer": 3, "odds": [1.5, None]}
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(row) + "\n")
    (tmp_path / "b.json").write_text(json.dumps({"data": [row, {"id": float("nan")}]}))
    (tmp_path / "c.csv").write_text(f'id,question\n1,"{QUESTION}"\n2,"{prose(7, 20)}"\n')
    (tmp_path / "d.tsv").write_text(f"1\t{QUESTION}\t{prose(7, 20)}\n")
    (tmp_path / "e.txt").write_text(f"\ufeff{QUESTION}\n{prose(7, 20)}", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        packed = tmp_path / "packed" / f"{path.name}.gz"
        packed.parent.mkdir(exist_ok=True)
        if path.suffix != ".parquet":
            packed.write_bytes(gzip.compress(path.read_bytes()))
        for each in (path, packed) if packed.exists() else (path,):
            known = Contamination.load(ContaminationConfig(paths=(str(each),)))
            assert known.find(QUESTION).evaluation_set == str(each)
            assert known.find(prose(7, 20)) is not None
    whole = Contamination.load(ContaminationConfig(paths=(str(tmp_path),)))
    assert len(whole.names) == 11 and whole.find(QUESTION).evaluation_set.endswith("a.jsonl")


def test_it_says_the_same_in_another_process():
    known = Contamination({"planets": [QUESTION]})
    assert pickle.loads(pickle.dumps(known)).judge(document(QUESTION)) == known.judge(document(QUESTION))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("x.docx", b"PK", "is of no known format"),
        ("x.jsonl", b'{"a": "b"}\n{oops}\n', r"x\.jsonl:2: is no JSON"),
        ("x.json", b"[" * 200_000, "cannot be read as json"),
        ("x.txt", b"\xff\xfe\xfa", "cannot be read as txt"),
        ("x.jsonl.gz", gzip.compress(b'{"a": "b"}')[:-9], "cannot be read as jsonl"),
        ("x.parquet", b"PAR1", "cannot be read as parquet"),
        ("x.jsonl", b"[1, 2]\n", "holds no text"),
    ],
)
def test_a_set_that_cannot_be_read_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Contamination.load(ContaminationConfig(paths=(str(tmp_path / name),)))


def test_a_folder_without_sets_is_no_set(tmp_path):
    with pytest.raises(DataError, match="has no evaluation set"):
        inputs(ContaminationConfig(paths=(str(tmp_path),)))


def test_a_corpus_depends_on_what_is_in_the_sets(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("one")
    config = ContaminationConfig(paths=(str(tmp_path),))
    before = inputs(config)
    assert before == inputs(config) and before[0].startswith(str(path))
    path.write_text("two")
    assert inputs(config) != before


def test_limits_are_refused_that_mean_nothing():
    for field, value in (("ngram_words", 0), ("min_words", 0), ("max_share", 1.5)):
        with pytest.raises(ValueError, match=field):
            ContaminationConfig(**{field: value})
