"""The steps of a corpus together: outliers, contamination, augmentation, and what the datasheet says of them."""

import json
import random

import pytest
from test_corpus import HERE, documents, make, text

from preceptor.core.errors import DataError
from preceptor.data.augment import AugmentConfig
from preceptor.data.contamination import ContaminationConfig
from preceptor.data.corpus import Corpus, Workshop, build
from preceptor.data.document import Document
from preceptor.data.filters import MEASURES, FilterConfig
from preceptor.data.outliers import OutlierConfig, Sample, limits


def test_an_outlier_leaves_under_its_measure_and_takes_nobody_with_it(tmp_path):
    records = documents(150)
    table = " ".join(f"{n} {n * n}" for n in range(300))
    # A near copy of the outlier is one too; neither leaves for the other.
    records += [Document.new(f"numbers {table}", "test:table"), Document.new(f"number {table}", "test:copy")]
    config = {"filters": FilterConfig(min_letter_fraction=0.0), "outliers": OutlierConfig(max_robust_z=8)}
    datasheet, corpus = make(tmp_path, records, **config)
    rules = {row["source"]: row["rule"] for row in corpus.ledger()}
    assert rules["test:table"].startswith("outlier:") and rules["test:copy"].startswith("outlier:")
    assert sum(rule != "" for rule in rules.values()) == 2
    assert set(datasheet["outliers"]) <= set(OutlierConfig().measures) and datasheet["outliers"]
    off, _ = make(tmp_path / "off", records, filters=config["filters"])
    assert not any(rule.startswith("outlier") for rule in off["drops_by_rule"])


def test_a_sample_is_the_same_from_any_parts():
    draw = random.Random(5)
    names = ("characters", "letter_fraction")
    rows = [(f"{n:016x}", {name: draw.random() for name in names}) for n in range(300)]
    full = dict.fromkeys(MEASURES, 0.0)
    whole, parts = Sample(), [Sample() for _ in range(3)]
    for number, (id, measures) in enumerate(rows):
        whole.add(id, full | measures)
        parts[number % 3].add(id, full | measures)
    merged = Sample()
    for part in reversed(parts):
        merged.merge(part)
    config = OutlierConfig(max_robust_z=3)
    assert limits(merged, config) == limits(whole, config) != {}


def test_what_an_evaluation_set_asks_leaves_and_is_named(tmp_path):
    question = text(500, 30)
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": question, "answer": "ridge"}) + "\n")
    records = [*documents(5), Document.new(f"{text(501, 40)} {question} {text(502, 40)}", "test:leak")]
    paths = (str(tmp_path / "exam.jsonl"),)
    _, corpus = make(tmp_path / "a", records, contamination=ContaminationConfig(paths=paths))
    (row,) = [row for row in corpus.ledger() if row["rule"] == "contaminated"]
    assert row["source"] == "test:leak" and "exam" in row["detail"]
    reported, _ = make(tmp_path / "b", records, contamination=ContaminationConfig(paths=paths, action="report"))
    assert reported["documents_kept"] == 6 and "exam" in json.dumps(reported["contamination"])


def test_noisy_copies_are_of_training_documents_only_and_name_them(tmp_path):
    config = AugmentConfig(copies=2, spelling=0.2)
    datasheet, corpus = make(tmp_path, documents(40), augmentation=config, validation_fraction=0.3)
    kept = {document.id: document for document in corpus.documents() if "augmented" not in document.metadata}
    copies = [document for document in corpus.documents() if "augmented" in document.metadata]
    train = {document.id for document in corpus.documents("train") if "augmented" not in document.metadata}
    assert len(copies) == 2 * len(train) == datasheet["augmented"]["documents"]
    assert {copy.parent for copy in copies} == train
    assert all(copy.text != kept[copy.parent].text and copy.licence == kept[copy.parent].licence for copy in copies)
    assert datasheet["documents_in"] == datasheet["documents_kept"] == 40


def upper(texts):
    return [each.upper() for each in texts]


def lower(texts):
    return [each.lower() for each in texts]


def test_back_translation_asks_the_two_models_and_needs_them(tmp_path):
    config = AugmentConfig(copies=1, translate_there="a", translate_back="b")
    with pytest.raises(DataError, match="two models"):
        make(tmp_path / "none", documents(4), augmentation=config)
    _, corpus = make(tmp_path / "both", documents(6), augmentation=config, translators=(upper, lower))
    texts = {document.id: document.text for document in corpus.documents()}
    copies = [document for document in corpus.documents() if "augmented" in document.metadata]
    assert copies and all(copy.text == texts[copy.parent].lower() for copy in copies)


def test_a_workshop_without_a_reader_for_a_source_reads_files(tmp_path):
    from preceptor.core.artifact import write_folder
    from preceptor.data.config import DataConfig
    from preceptor.data.sources import SourceConfig

    for number, document in enumerate(documents(6)):
        (tmp_path / f"{number}.txt").write_text(document.text)
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "*.txt"), licence="MIT"),))
    with write_folder(tmp_path / "corpus", "corpus", "key", {}) as draft:
        build(config, 0, draft, Workshop(tmp_path / "work", "key", HERE))
    assert {document.licence for document in Corpus.load(tmp_path / "corpus").documents()} == {"MIT"}
