"""The published rules say what datatrove 0.10.1 says, on made and on real text; each rule drops what it is for."""

import importlib.util
import json
import math
from itertools import pairwise
from pathlib import Path

import growth
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.data import gopher, language, outliers, web_rules
from preceptor.data.document import KEEP, Document, Drop
from preceptor.data.edits import keep_c4_lines
from preceptor.data.filters import MEASURES, FilterConfig, judge, judge_rules, measure
from preceptor.data.outliers import OutlierConfig, Sample
from preceptor.data.words import treebank_words

HERE = Path(__file__).parent
PROSE = "The committee met on Tuesday to discuss the budget of the year, and agreed with what the mayor had said. "


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("quality_rules", HERE.parents[1] / "benchmarks" / "quality_rules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record():
    return json.loads((HERE / "quality_oracle.json").read_text())


def assert_same_verdicts(rules, ours, theirs):
    for place, rule in enumerate(rules):
        peer = [said[place] == "1" for said in theirs]
        same = sum(bool(mine[place]) == dropped for mine, dropped in zip(ours, peer, strict=True))
        assert same >= 0.99 * len(peer), rule
        assert 0.03 < sum(peer) / len(peer) < 0.97, f"the texts must hold both kinds for {rule}"


def test_verdicts_on_made_pages_are_those_that_datatrove_gave(benchmark, record):
    ours = benchmark.run_ours(benchmark.pages(len(record["dropped"])))["verdicts"]
    assert record["seed"] == benchmark.SEED and len(ours) >= 500
    assert_same_verdicts(record["rules"], ours, record["dropped"])


def test_verdicts_on_real_text_are_those_that_datatrove_gave(benchmark, record):
    real = benchmark.documentation()
    # Another Python words some of its documentation differently: only what is the same to the letter is compared.
    told = [(real[name], flags) for name, digest, flags in record["real"] if benchmark.digest(real.get(name)) == digest]
    assert len(told) >= 300
    assert_same_verdicts(
        record["rules"], benchmark.run_ours([text for text, _ in told])["verdicts"], [f for _, f in told]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop.", ["Do", "n't", "stop", "."]),
        ("It's well-known (maybe)", ["It", "'s", "well", "-", "known", "(", "maybe", ")"]),
        ("e.g. 3.14 in the U.S. today...", ["e.g.", "3.14", "in", "the", "U.S.", "today", "..."]),
        ("Dr. Smith and/or C++", ["Dr.", "Smith", "and/or", "C++"]),
        ("call f(x), (well-known)", ["call", "f(x", ")", ",", "(", "well", "-", "known", ")"]),
        ("os.path a.B x=y 3-4 'd'", ["os.path", "a.", "B", "x", "=", "y", "3", "-", "4", "'d", "'"]),
        ("see docs.python.org/3/a-b. 64K", ["see", "docs.python.org/3/a-b", ".", "64", "K"]),
        ("can't cannot id >>> U.S.A. end.", ["ca", "n't", "can", "not", "i", "d", ">", ">", ">", "U.S.A.", "end", "."]),
    ],
)
def test_words_are_those_of_a_treebank(text, words):
    assert treebank_words(text) == words


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        ("Too few words.", "gopher-quality", "gopher-few-words"),
        ("the of a b c d e f g h i j " * 10, "gopher-quality", "gopher-short-words"),
        ("# " * 20 + PROSE * 3, "gopher-quality", "gopher-hashes"),
        (("- " + PROSE + "\n") * 3, "gopher-quality", "gopher-bullets"),
        ("banana " * 80, "gopher-quality", "gopher-stop-words"),
        ("same line\n" * 40, "gopher-repetition", "gopher-repeated-lines"),
        ("to be or " * 40, "gopher-repetition", "gopher-top-2-gram"),
        (" ".join(f"word{number}" for number in range(60)) * 2, "gopher-repetition", "gopher-repeated-5-grams"),
        (PROSE, "c4", "c4-few-sentences"),
        ("Lorem ipsum dolor sit amet.\n" + PROSE * 6, "c4", "c4-lorem-ipsum"),
        (PROSE * 6 + "And { is not a word.", "c4", "c4-curly-bracket"),
        ("no end here\n" * 20, "fineweb", "fineweb-ended-lines"),
        ("Short.\n" * 20, "fineweb", "fineweb-short-lines"),
        ((PROSE.strip() + "\n") * 3, "fineweb", "fineweb-repeated-lines"),
    ],
)
def test_each_published_rule_drops_what_it_is_for(text, rules, expected):
    verdict = judge_rules(text, (rules,))
    assert isinstance(verdict, Drop) and verdict.rule == expected


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), min_size=1, max_size=60))
@settings(deadline=None, max_examples=150)
def test_repeated_pairs_are_those_of_a_plain_search(words):
    kinds = sorted(set(words))
    ids = np.array([kinds.index(word) for word in words])
    ends = np.concatenate(([0], np.cumsum([len(word) for word in words])))
    pairs = gopher._standing_again(gopher._Runs(np.arange(len(ids)), ids, ids[:0]), ids[1:], len(kinds))
    assert sorted(pairs.places) == [
        place for place, pair in enumerate(pairwise(words)) if list(pairwise(words)).count(pair) > 1
    ]
    found = gopher._repeated_characters(pairs, ends, 2, -1)
    seen, expected, place = set(), 0, 0
    while place + 1 < len(words):
        pair = (words[place], words[place + 1])
        if pair in seen:
            expected += len("".join(pair))
            place += 1
        seen.add(pair)
        place += 1
    assert found == expected


def test_a_glance_at_pairs_of_words_changes_no_verdict(benchmark, monkeypatch):
    texts = [*benchmark.pages(200), *list(benchmark.documentation().values())[:200]]
    given = [(text, treebank_words(text)) for text in texts]
    quick = [gopher.repetition(*each) for each in given]
    seen = []
    glance = gopher._are_longer_runs_rare
    monkeypatch.setattr(gopher, "_are_longer_runs_rare", lambda *each: seen.append(glance(*each)))
    assert [gopher.repetition(*each) for each in given] == quick
    assert True in seen and False in seen


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=150)
def test_every_text_has_a_verdict_and_every_measure(text):
    config = FilterConfig(min_characters=0, rules=("gopher-quality", "gopher-repetition", "c4", "fineweb"))
    verdict, measures = judge(Document.new(text, "test:1"), config)
    assert verdict is KEEP or isinstance(verdict, Drop)
    assert sorted(measures) == sorted(MEASURES) and all(isinstance(value, float) for value in measures.values())
    assert isinstance(web_rules.c4(text), Drop) or len(text) > 10


def test_c4_lines_stay_and_the_others_go():
    text = "Menu\nThis line ends well [1].\nWe use cookies on this page.\nIt has no end\nTwo words.\n"
    assert web_rules.c4_lines(text) == (["This line ends well ."], "")
    assert keep_c4_lines(Document.new(text, "test:1")).text == "This line ends well ."
    assert web_rules.c4_lines(text + "A { of some kind.")[1] == "c4-curly-bracket"


ATTACKS = ["don't", "a_", "http://", "a.", "_", "(", ".", "a" * 500 + "." * 500, "a@", "a-", "'s"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_words_need_linear_time(attack):
    growth.assert_in_line(treebank_words, attack)


def test_measures_are_what_they_say():
    said = measure("ab 12 +\ufffd\n")
    assert said["letter_fraction"] == pytest.approx(2 / 6) and said["digit_fraction"] == pytest.approx(2 / 6)
    assert said["replacement_fraction"] == pytest.approx(1 / 9) and math.isnan(said["line_repetition"])
    assert measure("абв где")["letter_fraction"] == 1
    assert measure("strength and xkcdqwrtz")["gibberish"] > 0.3 and measure(PROSE)["gibberish"] == 0
    assert measure(PROSE * 20)["compression_ratio"] > 5 * measure(PROSE)["compression_ratio"] / 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE, "en"),
        ("Der Ausschuss traf sich am Dienstag und sprach über den Haushalt des kommenden Jahres.", "de"),
        ("Комитет собрался во вторник, чтобы обсудить бюджет на следующий год.", "ru"),
        ("12 34 56", "und"),
    ],
)
def test_languages_are_recognised(text, expected):
    assert language.detect(text)[0] == expected


def test_only_the_named_languages_stay_and_no_blocked_word():
    german = Document.new("Der Ausschuss traf sich am Dienstag und sprach lange über den Haushalt. " * 2, "test:1")
    verdict, _ = judge(german, FilterConfig(languages=("en",)))
    assert isinstance(verdict, Drop) and verdict.rule == "other-language" and verdict.detail == "de"
    verdict, _ = judge(german, FilterConfig(blocked_words=("haushalt",)))
    assert isinstance(verdict, Drop) and verdict.rule == "blocked-word"
    assert judge(german, FilterConfig(languages=("de",), blocked_words=("haus",)))[0] is KEEP


def sample(values):
    filled = Sample()
    for number, value in enumerate(values):
        filled.add(str(number), dict.fromkeys(MEASURES, 0.5) | {"characters": float(value)})
    return filled


def test_outliers_lie_beyond_robust_deviations_whatever_the_order():
    values = [1000 + number % 97 for number in range(500)]
    config = OutlierConfig(max_robust_z=6, measures=("characters", "letter_fraction"))
    limits = outliers.limits(sample(values), config)
    assert set(limits) == {"characters"}, "a measure that is equal everywhere has no outliers"
    usual = dict.fromkeys(MEASURES, 0.5) | {"characters": 1040.0}
    assert outliers.judge(usual, limits) is KEEP
    for far in (100.0, 9000.0):
        verdict = outliers.judge(usual | {"characters": far}, limits)
        assert isinstance(verdict, Drop) and verdict.rule == "outlier:characters"
    first, second = Sample(), Sample()
    for number, value in enumerate(values):
        (first if number % 3 else second).add(str(number), dict.fromkeys(MEASURES, 0.5) | {"characters": float(value)})
    second.merge(first)
    assert outliers.limits(second, config) == limits
    assert outliers.limits(sample(values), OutlierConfig()) == {}
