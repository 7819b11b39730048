"""Statistics: the same from any parts in any order, exact, small, and without what must not be shown."""

import json
import math
import random

import numpy as np
import pytest
from corpus_samples import counted, events, measures
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.data.document import Document, Drop, Rejected
from preceptor.data.histograms import Histogram, bins_of, edges_of, scale_of
from preceptor.data.statistics import EXCERPT_CHARACTERS, RIGHTS_RULES, SAMPLES_PER_RULE, Statistics

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)


def text(statistics: Statistics) -> str:
    return json.dumps(statistics.to_json(), sort_keys=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_any_parts_in_any_order_give_the_same(seed, num_parts):
    happened = events(120, seed=3)
    whole = text(counted(happened))
    chance = random.Random(seed)
    chance.shuffle(happened)
    parts = [counted(happened[start::num_parts]) for start in range(num_parts)]
    chance.shuffle(parts)
    merged = Statistics()
    for part in parts:
        merged.merge(Statistics.from_json(json.loads(json.dumps(part.to_json()))))
    assert text(merged) == whole


def test_the_json_is_the_whole_of_it():
    statistics = counted(events(300))
    table = json.loads(json.dumps(statistics.to_json(), allow_nan=False))
    assert Statistics.from_json(table).to_json() == statistics.to_json()
    assert list(statistics.to_json()["samples"]) == sorted(statistics.samples)


def test_merging_leaves_the_other_as_it_was():
    one, other = counted(events(50)), counted(events(60, seed=1))
    before = text(other)
    one.merge(other)
    one.merge(other)
    assert text(other) == before


def test_counts_are_those_of_a_plain_loop():
    happened = events(800)
    statistics = counted(happened)
    kept = [arguments for name, *arguments in happened if name == "kept"]
    dropped = [arguments for name, *arguments in happened if name in ("dropped", "rejected")]
    read = [arguments for name, *arguments in happened if name == "read"]
    assert kept and dropped
    totals = statistics.tables["totals"]
    assert totals["in"]["documents"] == len(kept) + len(dropped)
    assert totals["in"]["bytes"] == sum(num_bytes for num_bytes, _ in read)
    assert totals["kept"] == {"documents": len(kept), "bytes": sum(len(row[0].text.encode()) for row in kept)}
    for licence in ("MIT", "unknown"):
        assert statistics.tables["licences"][licence]["documents"] == sum(row[0].licence == licence for row in kept)
    assert set(statistics.tables["years"]) == {"2021", "2023", "unknown"}
    assert sum(statistics.drops_by_rule().values()) == len(dropped)
    assert list(statistics.drops_by_rule().values()) == sorted(statistics.drops_by_rule().values(), reverse=True)
    for collection in ("web", "code"):
        counts = statistics.tables["collections"][collection]
        assert counts["documents_in"] == counts["documents_kept"] + counts["documents_dropped"]
        assert counts["documents_kept"] == counts["train_documents"] + counts["validation_documents"]
    characters = statistics.histograms["kept"]["characters"]
    values = sorted(row[1]["characters"] for row in kept)
    assert (characters.total, characters.low, characters.high) == (len(kept), values[0], values[-1])
    scores = statistics.histograms["kept"]["language_score"]
    assert scores.undefined == sum(math.isnan(row[1]["language_score"]) for row in kept) > 0


def test_samples_are_few_and_do_not_depend_on_the_order():
    documents = [Document.new(f"text {number}", f"file:{number}") for number in range(200)]
    forward, backward = Statistics(), Statistics()
    for statistics, order in ((forward, documents), (backward, documents[::-1])):
        for document in order:
            statistics.dropped(document, Drop("too-short", 6, 80), {})
    assert forward.samples == backward.samples
    sampled = [row["source"] for _, row in forward.samples["too-short"]]
    assert len(set(sampled)) == SAMPLES_PER_RULE
    assert sampled != [document.source for document in documents[:SAMPLES_PER_RULE]]


def test_size_does_not_grow_with_documents():
    few, many = (len(text(counted(events(number)))) for number in (1000, 8000))
    assert many < 1.5 * few


def test_what_may_not_be_used_is_not_quoted():
    statistics = Statistics()
    document = Document.new("secret words " * 100, "file:a", licence="MIT")
    for rule in (*sorted(RIGHTS_RULES), "personal-data", "too-short"):
        statistics.dropped(document, Drop(rule, 1, 0), {})
    quoted = {rule for rule, rows in statistics.samples.items() if any("excerpt" in row for _, row in rows)}
    assert quoted == {"too-short"}
    assert len(statistics.samples["too-short"][0][1]["excerpt"]) == EXCERPT_CHARACTERS
    assert statistics.tables["refused"]["MIT"].total() == len(RIGHTS_RULES)


def test_names_that_utf8_cannot_hold_are_counted():
    statistics = Statistics()
    statistics.rejected(Rejected("file:\udcff", "unreadable", "\ud800"), "web")
    assert json.loads(text(statistics))["tables"]["drops"] == {"unreadable": {"web": 1}}


@given(st.lists(finite, max_size=60), st.sampled_from(["linear", "log"]))
def test_every_value_lies_in_its_bin_and_bins_are_in_order(values, scale):
    array = np.array(sorted(values), dtype=np.float64)
    numbers = bins_of(array, scale)
    assert (np.diff(numbers) >= 0).all()
    for value, number in zip(array.tolist(), numbers.tolist(), strict=True):
        low, high = edges_of(number, scale)
        nudge = 1e-9 * max(1.0, abs(value))
        assert low - nudge <= value <= high + nudge


def test_bins_are_narrow():
    for value in (1e-7, 0.3, 1.0, 5.3, 1e9):
        low, high = edges_of(int(bins_of(np.array([value]), "log")[0]), "log")
        assert low <= value < high <= low * 1.13


@pytest.mark.parametrize("name", ["characters", "letter_fraction"])
def test_quantiles_are_those_of_the_values_to_a_bin(name):
    chance = random.Random(5)
    values = [measures(chance)[name] for _ in range(4000)]
    histogram = Histogram(scale_of(name))
    histogram.add(values)
    for share in (0.05, 0.5, 0.95):
        assert histogram.quantile(share) == pytest.approx(float(np.quantile(values, share)), rel=0.13)
    assert histogram.quantile(1.0) == max(values)
    assert Histogram("log").quantile(0.5) is None


def test_histograms_of_two_scales_are_not_added():
    with pytest.raises(ValueError, match="linear histogram cannot be added to a log one"):
        Histogram("log").merge(Histogram("linear"))


def test_undefined_and_infinite_values_are_counted_apart():
    histogram = Histogram("log")
    histogram.add([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0, -2.0])
    assert (histogram.undefined, histogram.total, histogram.low, histogram.high) == (3, 4, -2.0, 2.0)
    assert sorted(edges_of(number, "log") for number in histogram.counts)[1] == (0.0, 0.0)
