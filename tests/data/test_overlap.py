"""What documents share: against the same thing written down plainly."""

import errno
import json
import math
import os
import random
import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ArtifactError, OutputError
from preceptor.data.document import Drop, Keep
from preceptor.data.external import Sorter, with_leaders
from preceptor.data.fingerprints import SLICE_CHARACTERS
from preceptor.data.near import rank_of_quality
from preceptor.data.overlap import (
    SKETCH_FIELDS,
    Decisions,
    OverlapConfig,
    band_rows,
    exact_key,
    jaccard,
    resolve,
    shingles,
    sketch,
    sketch_many,
    without_repeats,
)
from preceptor.data.words import WORD

STRINGS = ("id", "parent", "source", "collection", "metadata", "text")
SCHEMA = pyarrow.schema(
    [
        *(pyarrow.field(name, pyarrow.string()) for name in STRINGS),
        pyarrow.field("quality", pyarrow.float64()),
        *SKETCH_FIELDS,
    ]
)
SMALL = OverlapConfig(min_paragraph_characters=10, min_line_characters=5)


def write_parts(folder, texts, config=SMALL, *, in_part=400, in_batch=64, **columns):
    """The paths of parts with these texts; other columns by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, max(1, len(texts)), in_part):
        paths.append(folder / f"{len(paths):04d}.arrow")
        with pyarrow.ipc.new_file(
            str(paths[-1]), SCHEMA, options=pyarrow.ipc.IpcWriteOptions(compression="lz4")
        ) as out:
            for low in range(start, min(len(texts), start + in_part), in_batch):
                rows = range(low, min(len(texts), start + in_part, low + in_batch))
                known = {
                    "id": [f"id{row}" for row in rows],
                    "parent": [None] * len(rows),
                    "source": [f"file:{row}" for row in rows],
                    "collection": ["all"] * len(rows),
                    "metadata": ["{}"] * len(rows),
                    "quality": [0.0] * len(rows),
                    "text": [texts[row] for row in rows],
                } | {name: [column[row] for row in rows] for name, column in columns.items()}
                sketches = sketch_many(known["text"], config)
                arrays = [sketches.get(field.name) for field in SCHEMA]
                arrays = [
                    pyarrow.array(known[field.name], field.type) if array is None else array
                    for field, array in zip(SCHEMA, arrays, strict=True)
                ]
                out.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    return paths


def decide(folder, texts, config=SMALL, *, memory_bytes=1 << 20, admits=None, check=lambda: None, **options):
    parts = write_parts(folder / "parts", texts, config, **options)
    return resolve(parts, config, folder / "decisions", check, admits=admits, memory_bytes=memory_bytes)


def facts(decisions, num_rows):
    """Everything that was decided, as plain values."""
    return [(decisions.verdict(row), int(decisions.kept[row]), decisions.repeats(row)) for row in range(num_rows)]


def rules(decisions):
    return [decisions.rule(row) for row in range(len(decisions.rules))]


def prose(rng, num_words, num_kinds=3000):
    return " ".join(f"w{rng.randrange(num_kinds)}" for _ in range(num_words))


def pages(rng, num_pages, num_paragraphs=4, num_words=25):
    return ["\n\n".join(prose(rng, num_words) for _ in range(num_paragraphs)) for _ in range(num_pages)]


def ngrams_in_words(text, num_words=5):
    words = WORD.findall(text.lower())
    if not words:
        return set()
    return {tuple(words[start : start + num_words]) for start in range(max(1, len(words) - num_words + 1))}


# Sketches


TEXTS = st.text(st.sampled_from("ab cdÄßİΣ_1.,-\n\t\u3000日本語\ud800“”"), max_size=60)


@given(st.lists(TEXTS, min_size=1, max_size=6))
@settings(deadline=None, max_examples=150)
def test_a_sketch_depends_on_its_own_text_alone(texts):
    columns = sketch_many(texts, SMALL)
    for row, text in enumerate(texts):
        assert {name: column[row].as_py() for name, column in columns.items()} == sketch(text, SMALL)


@given(TEXTS, TEXTS)
@settings(deadline=None, max_examples=200)
def test_shingles_are_the_word_ngrams(first, second):
    ours, plain = (shingles(first), shingles(second)), (ngrams_in_words(first), ngrams_in_words(second))
    assert [len(each) for each in ours] == [len(each) for each in plain]
    assert len(ours[0] & ours[1]) == len(plain[0] & plain[1])


def test_a_text_longer_than_a_slice_has_the_same_shingles_and_paragraphs():
    rng = random.Random(1)
    paragraphs = [prose(rng, 400) for _ in range(3 * SLICE_CHARACTERS // 2000)]
    text = "\n\n".join(paragraphs)
    assert len(text) > 2 * SLICE_CHARACTERS
    assert len(shingles(text)) == len(ngrams_in_words(text))
    known = {hash for paragraph in paragraphs for hash in sketch(paragraph, SMALL)["paragraphs"]}
    assert set(sketch(text, SMALL)["paragraphs"]) == known
    assert sketch(text, SMALL)["characters"] == sum(not character.isspace() for character in text)


def test_a_line_without_end_is_no_repeat_in_pieces():
    line = "x" * 9 + " "
    text = line * (SLICE_CHARACTERS // 4)
    assert sketch(text, SMALL)["lines"] == sketch(text, SMALL)["paragraphs"] == []
    assert sketch(text, SMALL)["characters"] == 9 * (SLICE_CHARACTERS // 4)
    assert without_repeats(text, frozenset({1}), SMALL) == text


@given(TEXTS)
@settings(deadline=None)
def test_case_and_white_space_do_not_make_a_text_another(text):
    other = text.lower().replace(" ", " \t ").replace("\n", " \n")
    assert exact_key(text) == exact_key(other)
    ours, others = sketch(text, SMALL), sketch(other, SMALL)
    assert ours["lines"] == others["lines"] and ours["signature"] == others["signature"]


def test_bytes_of_a_sketch_are_the_same_on_every_machine():
    row = sketch("The quick brown fox jumps over the lazy dog.\n\nA second paragraph.", SMALL)
    assert row["exact_key"].hex() == "24722d0a1c06d814d6c9c635f8b2705b"
    assert row["paragraphs"] == [10685457096913953560, 3997369598695552769]
    assert row["bands"][:2] == [17457919895671399571, 1442143950383500841]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_find_a_pair_at_the_threshold_almost_surely(threshold):
    rows = band_rows(threshold)
    assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.999 or rows == 1


# External sorting


RECORDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**64 - 1), st.integers(0, 9)), max_size=600)


@given(RECORDS)
@settings(deadline=None, max_examples=60)
def test_records_come_sorted_from_the_disk(tmp_path_factory, records):
    sorter = Sorter(tmp_path_factory.mktemp("sorter") / "runs", 3, memory_bytes=1)
    for low in range(0, len(records), 37):
        sorter.add(*np.array(records[low : low + 37], np.uint64).T)
    for _ in range(2):
        found = [tuple(record) for chunk in sorter.chunks() for record in chunk.tolist()]
        assert found == sorted(records, key=lambda record: record[:2])
    leaders = [tuple(leader) for _, leaders in with_leaders(sorter.chunks()) for leader in leaders.tolist()]
    firsts = {record[0]: record for record in reversed(found)}
    assert leaders == [firsts[record[0]] for record in found]
    sorter.close()


@given(st.lists(st.floats(width=32), min_size=2, max_size=8))
def test_a_better_quality_has_a_lower_rank(qualities):
    ranks = rank_of_quality(np.array(qualities)).tolist()
    keys = [-math.inf if math.isnan(quality) else quality for quality in qualities]
    for (first, rank), (second, other) in combinations(zip(keys, ranks, strict=True), 2):
        if first != second:
            assert (first > second) == (rank < other)


def test_a_full_disk_is_said_before_anything_is_lost(tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room, raising=False)
    with pytest.raises(OutputError, match="No space left"):
        decide(tmp_path, ["one", "two"])


# Duplicates


def test_the_best_of_equal_texts_stays_and_the_first_of_the_best(tmp_path):
    texts = [
        "One and the same text, here",
        "one  and the same\ntext, HERE",
        "Another text altogether",
        "ONE and the same text, here",
    ]
    decisions = decide(tmp_path, texts, quality=[0.0, 1.0, 5.0, 1.0])
    assert rules(decisions) == ["exact-duplicate", "", "", "exact-duplicate"]
    assert decisions.verdict(0) == Drop("exact-duplicate", 1.0, 0.0, "of file:1")
    assert decisions.for_part(0).verdict(3) == Drop("exact-duplicate", 1.0, 0.0, "of file:1")
    assert decisions.counts() == {"exact-duplicate": 2}


def near(words, *places):
    return " ".join("changed" if place in places else word for place, word in enumerate(words))


def test_of_near_duplicates_the_best_stays_then_the_longest_then_the_first(tmp_path):
    words = [f"word{number}" for number in range(200)]
    texts = [near(words, 5), near(words, 90), near(words, 190) + " and more", "something else " * 3]
    decisions = decide(tmp_path / "a", texts)
    assert rules(decisions) == ["near-duplicate", "near-duplicate", "", ""]
    assert decisions.kept[0] == decisions.kept[1] == 2
    similarity = max(jaccard(shingles(texts[0]), shingles(other)) for other in texts[1:])
    assert decisions.verdict(0).measured == pytest.approx(similarity) and decisions.verdict(0).limit == 0.8
    assert rules(decide(tmp_path / "b", texts, quality=[0.0, 1.0, 0.0, 0.0]))[1] == ""
    assert rules(decide(tmp_path / "c", texts[:2]))[0] == ""
    assert set(rules(decide(tmp_path / "d", texts, OverlapConfig(near_jaccard=0)))) == {""}


def varied(rng, num_texts):
    """Texts of which many resemble another one, more or less."""
    texts = []
    while len(texts) < num_texts:
        if texts and rng.random() < 0.6:
            words = rng.choice(texts).split()
            for _ in range(rng.choice([1, 2, 3, 4, 6, 8])):
                place = rng.randrange(len(words))
                words[place : place + rng.randrange(3)] = [f"n{rng.randrange(10**6)}" for _ in range(rng.randrange(3))]
            texts.append(" ".join(words))
        else:
            texts.append(prose(rng, rng.randrange(80, 250)))
    return texts


def similar_pairs(texts, threshold):
    """Every pair of at least that similarity, by comparing all that have a word n-gram in common."""
    sets = [ngrams_in_words(text) for text in texts]
    holders, shared = defaultdict(list), defaultdict(int)
    for index, each in enumerate(sets):
        for ngram in each:
            for other in holders[ngram]:
                shared[other, index] += 1
            holders[ngram].append(index)
    return {
        (first, second)
        for (first, second), number in shared.items()
        if number / (len(sets[first]) + len(sets[second]) - number) >= threshold
    }


def components(pairs, num_texts):
    parents = list(range(num_texts))

    def root(index):
        while parents[index] != index:
            index = parents[index]
        return index

    for first, second in sorted(pairs):
        parents[max(root(first), root(second))] = min(root(first), root(second))
    return [root(index) for index in range(num_texts)]


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_near_duplicates_against_all_pairs(tmp_path, threshold):
    texts = varied(random.Random(3), 2000)
    true = similar_pairs(texts, threshold)
    config = OverlapConfig(near_jaccard=threshold, repeated_paragraphs=False, max_line_documents=0)
    decisions = decide(tmp_path, texts, config)
    kept = [int(decisions.kept[row]) if rule else row for row, rule in enumerate(rules(decisions))]
    # Exact duplicates leave first; they are among the similar pairs too.
    together = {(a, b) for a, b in true if kept[a] == kept[b]}
    assert len(true) > 500
    assert len(together) / len(true) >= 0.95
    clusters = components(true, len(texts))
    dropped = [row for row, rule in enumerate(rules(decisions)) if rule]
    right = [row for row in dropped if clusters[row] == clusters[kept[row]]]
    assert len(right) / len(dropped) >= 0.99
    # Every near duplicate is verified: what is measured is a true similarity to another document of its cluster.
    partners = defaultdict(set)
    for first, second in true:
        partners[first].add(second)
        partners[second].add(first)
    for row in dropped:
        if decisions.rule(row) == "near-duplicate":
            assert decisions.verdict(row).measured >= threshold
            assert partners[row]


def test_hundreds_of_documents_in_one_band_become_one_cluster_or_none(tmp_path):
    words = [f"word{number}" for number in range(200)]
    copies = [near(words, place % 200) + f" end{place}" for place in range(500)]
    decisions = decide(tmp_path / "copies", copies, in_part=90)
    assert decisions.counts() == {"near-duplicate": 499}
    # About half of the n-grams in common, so that many share a band, but no two are near duplicates.
    rng = random.Random(12)
    forms = [" ".join(words) + " " + prose(rng, 90, 10**6) for _ in range(300)]
    assert decide(tmp_path / "forms", forms, in_part=90).counts() == {}


def test_decisions_do_not_depend_on_parts_or_memory(tmp_path):
    rng = random.Random(4)
    shared = [prose(rng, 20) for _ in range(30)]
    texts = [
        "\n\n".join([text, *rng.sample(shared, rng.randrange(4)), "a line that all of them have"])
        for text in varied(rng, 600)
    ]
    config = OverlapConfig(min_paragraph_characters=30, min_line_characters=10, max_line_documents=100)
    quality = [float(rng.randrange(3)) for _ in texts]
    found = []
    for number, (in_part, in_batch, memory) in enumerate([(600, 600, 1 << 25), (1, 1, 1), (77, 10, 5000)]):
        folder = tmp_path / str(number)
        options = {"in_part": in_part, "in_batch": in_batch, "memory_bytes": memory, "quality": quality}
        found.append(facts(decide(folder, texts, config, **options), len(texts)))
    assert found[0] == found[1] == found[2]
    assert {verdict.rule for verdict, _, _ in found[0] if isinstance(verdict, Drop)} >= {"near-duplicate"}
    assert any(repeats for _, _, repeats in found[0])


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=25)
def test_what_stays_stays_the_second_time(tmp_path_factory, seeds):
    texts = [near([f"s{seed}w{n}" for n in range(60 + seed)], change) for seed, change in seeds]
    folder = tmp_path_factory.mktemp("idempotent")
    first = decide(folder / "first", texts)
    left = [without_repeats(text, first.repeats(row), SMALL) for row, text in enumerate(texts) if not first.rule(row)]
    assert left
    second = decide(folder / "second", left)
    assert set(rules(second)) == {""}
    assert not any(second.repeats(row) for row in range(len(left)))


def test_a_document_that_left_is_named_by_the_one_that_stayed_in_the_end(tmp_path):
    words = [f"word{number}" for number in range(200)]
    texts = [near(words, 5).upper(), near(words, 5), near(words, 90) + " and more"]
    decisions = decide(tmp_path, texts)
    assert rules(decisions) == ["near-duplicate", "exact-duplicate", ""]
    assert decisions.verdict(1).detail == "of file:2"


def test_nothing_leaves_for_a_document_that_another_rule_drops(tmp_path):
    texts = ["the very same words in the same order"] * 3
    decisions = decide(
        tmp_path, texts, quality=[9.0, 0.0, 0.0], admits=lambda batch: batch.column("quality").to_numpy() < 5
    )
    assert rules(decisions) == ["", "", "exact-duplicate"]
    assert decisions.verdict(2).detail == "of file:1" and decisions.verdict(0) == Keep()


def test_equal_ids_leave_one(tmp_path):
    texts = pages(random.Random(5), 6)
    metadata = [json.dumps({"id": stated} if stated else {}) for stated in ("a", "b", "a", "", "", "a")]
    options = {"collection": list("xxxxxy"), "parent": ["p", None, None, None, "p", None], "metadata": metadata}
    decisions = decide(tmp_path / "drop", texts, **options)
    assert rules(decisions) == ["", "", "duplicate-id", "", "duplicate-id", ""]
    assert decisions.verdict(2) == Drop("duplicate-id", 1.0, 0.0, "of file:0")
    kept = decide(tmp_path / "keep", texts, OverlapConfig(duplicate_ids="keep"), **options)
    assert rules(kept) == ["", "", "", "", "duplicate-id", ""]


def test_texts_without_words_are_no_near_duplicates(tmp_path):
    assert rules(decide(tmp_path, ["!!!", "???", "", "\n \n", "..."])) == ["", "", "", "exact-duplicate", ""]


def test_no_documents_and_empty_parts(tmp_path):
    decisions = decide(tmp_path / "a", [])
    assert len(decisions.for_part(0)) == 0 and decisions.counts() == {}
    assert resolve([], SMALL, tmp_path / "b", lambda: None).counts() == {}
    parts = [*write_parts(tmp_path / "c", []), *write_parts(tmp_path / "d", ["same text", "same text"])]
    both = resolve(parts, SMALL, tmp_path / "e", lambda: None)
    assert isinstance(both.for_part(1).verdict(1), Drop)


def test_broken_decisions_and_parts_say_so(tmp_path):
    with pytest.raises(ArtifactError, match="holds no decisions"):
        Decisions.open(tmp_path)
    table = pyarrow.table({"id": ["a"]})
    with pyarrow.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as out:
        out.write_table(table)
    with pytest.raises(ArtifactError, match="exact_key"):
        resolve([tmp_path / "x.arrow"], SMALL, tmp_path / "d", lambda: None)


def test_resolve_can_be_stopped_and_started_again(tmp_path):
    texts = varied(random.Random(6), 100)
    whole = facts(decide(tmp_path / "whole", texts), len(texts))
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(tmp_path / "again", texts, check=stop)
    assert facts(decide(tmp_path / "again", texts), len(texts)) == whole


# Paragraphs and lines


def test_chapters_leave_for_their_book_and_a_shared_paragraph_stays_in_the_longest(tmp_path):
    rng = random.Random(7)
    chapters = pages(rng, 4)
    notice = prose(rng, 20)
    texts = [*chapters, "\n\n".join(chapters), f"{pages(rng, 1)[0]}\n\n{notice}", f"{notice}\n\n{pages(rng, 1, 2)[0]}"]
    decisions = decide(tmp_path, texts)
    assert rules(decisions) == ["repeated-elsewhere"] * 4 + ["", "", ""]
    assert decisions.verdict(0) == Drop("repeated-elsewhere", 1.0, pytest.approx(0.8), "of file:4")
    assert not decisions.repeats(4) and not decisions.repeats(5)
    assert without_repeats(texts[6], decisions.repeats(6), SMALL) == texts[6].removeprefix(f"{notice}\n\n")
    assert set(rules(decide(tmp_path / "off", texts, OverlapConfig(repeated_paragraphs=False)))) == {""}


def plainly(texts, max_fraction):
    """Who leaves and which paragraphs are cut, one document after the other from the longest on."""
    lengths = [sum(not character.isspace() for character in text) for text in texts]
    owned, gone, cuts = set(), set(), {}
    for row in sorted(range(len(texts)), key=lambda row: (-lengths[row], row)):
        paragraphs = texts[row].split("\n\n")
        cuts[row] = {paragraph for paragraph in paragraphs if paragraph in owned and len(paragraph) >= 20}
        counted = [paragraph for paragraph in paragraphs if paragraph in owned and len(paragraph) > 9]
        repeated = sum(len(paragraph.replace(" ", "")) for paragraph in counted)
        if repeated / max(1, lengths[row]) > max_fraction:
            gone.add(row)
        else:
            owned.update(paragraphs)
    return gone, cuts


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=8), min_size=1, max_size=14),
    st.sampled_from([0.3, 0.6, 0.8]),
)
@settings(deadline=None, max_examples=80)
def test_repeated_paragraphs_against_one_document_after_the_other(tmp_path_factory, choices, fraction):
    paragraphs = [f"this is paragraph number {'x' * number} of the pool" for number in range(10)]
    paragraphs += ["long-enough-to-count", "onlycounted", "uncounted"]
    texts = ["\n\n".join(paragraphs[number] for number in chosen) for chosen in choices]
    config = OverlapConfig(near_jaccard=0, min_paragraph_characters=20, max_repeated_fraction=fraction)
    decisions = decide(tmp_path_factory.mktemp("plainly"), texts, config, in_part=3, in_batch=2)
    survivors = [row for row in range(len(texts)) if decisions.rule(row) != "exact-duplicate"]
    gone, cuts = plainly([texts[row] for row in survivors], fraction)
    assert [row for row in survivors if decisions.rule(row)] == sorted(survivors[index] for index in gone)
    for index, row in enumerate(survivors):
        if index not in gone:
            left = without_repeats(texts[row], decisions.repeats(row), config)
            plain = [paragraph for paragraph in texts[row].split("\n\n") if paragraph not in cuts[index]]
            assert left == "\n\n".join(plain)


def test_a_line_that_too_many_documents_have_leaves_all_of_them(tmp_path):
    rng = random.Random(8)
    texts = [
        "\n".join([prose(rng, 9), "seen on every page" if row % 2 else "only here", prose(rng, 9), "ok"])
        for row in range(41)
    ]
    config = OverlapConfig(min_line_characters=10, max_line_documents=19)
    decisions = decide(tmp_path / "a", texts, config)
    for row, text in enumerate(texts):
        plain = text.replace("seen on every page\n", "")
        assert without_repeats(text, decisions.repeats(row), config) == plain
    for limit in (20, 0):
        other = OverlapConfig(min_line_characters=10, max_line_documents=limit)
        again = decide(tmp_path / str(limit), texts, other)
        assert not any(again.repeats(row) for row in range(len(texts)))


def test_what_is_cut_leaves_no_gap_and_nothing_else_changes():
    text = "first\n\n\nsecond stays\n  indented\n\nleaves here\nfor good\n\n\nlast\n"
    (leaves,) = sketch("leaves here\nfor good", SMALL)["paragraphs"]
    assert without_repeats(text, frozenset({leaves}), SMALL) == "first\n\n\nsecond stays\n  indented\n\nlast"
    assert without_repeats(text, frozenset(), SMALL) == text
    only = sketch("all of it", SMALL)["lines"]
    assert without_repeats("\nall of it\n", frozenset(only), SMALL) == ""


@given(st.text(st.sampled_from("abİ \t\n\n\r\u2028日"), max_size=50), st.integers(1, 4), st.randoms())
@settings(deadline=None, max_examples=200)
def test_all_paragraphs_but_those_cut_stay_in_order(text, min_characters, rng):
    config = OverlapConfig(min_paragraph_characters=min_characters, max_line_documents=0)
    row = sketch(text, config)
    found = list(zip(row["paragraphs"], row["paragraph_characters"], strict=True))
    chosen = frozenset(hash for hash, _ in found if rng.random() < 0.5)
    left = sketch(without_repeats(text, chosen, config), config)
    stays = [(hash, size) for hash, size in found if hash not in chosen or size < min_characters]
    assert list(zip(left["paragraphs"], left["paragraph_characters"], strict=True)) == stays


def test_a_paragraph_that_one_document_says_twice_stays(tmp_path):
    twice, other = prose(random.Random(10), 20), prose(random.Random(11), 20)
    decisions = decide(tmp_path, [f"{twice}\n\n{other}\n\n{twice}", f"{twice}\n\nand something else\n\n{twice}"])
    assert not decisions.repeats(0) and rules(decisions) == ["", "repeated-elsewhere"]


# Memory


MEASURE = """
import json, re, sys
from pathlib import Path
from preceptor.data.overlap import OverlapConfig, resolve

def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak_kib()
decisions = resolve(
    sorted(Path(sys.argv[1]).glob("*.arrow")), OverlapConfig(max_line_documents=50), Path(sys.argv[2]), lambda: None,
    memory_bytes=1 << 20,
)
print(json.dumps([before, peak_kib(), len(decisions.rules), sum(decisions.counts().values())]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory where Linux tells it")
def test_ten_times_the_documents_need_hardly_more_memory(tmp_path):
    measured = {}
    for num_texts in (1500, 15_000):
        rng = random.Random(9)
        texts = [f"{prose(rng, 40)}\n\n{prose(rng, 15, 9)} the line of all" for _ in range(num_texts // 2)]
        texts += [text.replace("w1 ", "changed ") for text in texts]
        folder = tmp_path / str(num_texts)
        write_parts(folder / "parts", texts, OverlapConfig(), in_part=1000, in_batch=250)
        command = [sys.executable, "-c", MEASURE, str(folder / "parts"), str(folder / "decisions")]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        measured[num_texts] = json.loads(result.stdout)
    (before, small, _, _), (_, large, num_rows, num_dropped) = measured.values()
    assert num_rows == 15_000 and num_dropped > 5000
    assert large <= 1.2 * small and large - before < 200 << 10
