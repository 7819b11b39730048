"""Scores of numbers, tags, answers, texts and preferences: by hand and against the field's libraries."""

import json
import logging

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2, IOBES
from sklearn import metrics as sklearn

from preceptor.evaluate.extraction import extraction_baselines, extraction_scores
from preceptor.evaluate.preference import preference_scores
from preceptor.evaluate.regression import number_scores, regression_scores
from preceptor.evaluate.sentences import first_sentences
from preceptor.evaluate.tagging import commonest_tags, is_iob, tagging_scores
from preceptor.evaluate.texts import summary_scores, translation_scores

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "another",
    "one",
    "running",
    "fast",
    "through",
    "old",
    "long",
    "grass",
]
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def scores_of(found):
    return {each.name: each.score for each in found.judged}


def baselines_of(found, name):
    return next(each.baselines for each in found.judged if each.name == name)


def numbers(count=120, seed=0):
    generator = np.random.default_rng(seed)
    wanted = generator.integers(0, 6, count).astype(float)
    return wanted, np.round(wanted + generator.normal(0, 1.5, count), 1)


def test_numbers_are_scored_as_scikit_learn_and_scipy_do():
    wanted, said = numbers()
    found = scores_of(regression_scores(wanted, said))
    assert found["mean squared error"].value == pytest.approx(sklearn.mean_squared_error(wanted, said))
    assert found["mean absolute error"].value == pytest.approx(sklearn.mean_absolute_error(wanted, said))
    assert found["R2"].value == pytest.approx(sklearn.r2_score(wanted, said))
    assert found["Pearson correlation"].value == pytest.approx(stats.pearsonr(wanted, said).statistic)
    assert found["Spearman correlation"].value == pytest.approx(stats.spearmanr(wanted, said).statistic)
    assert not found["mean squared error"].higher_is_better and found["R2"].higher_is_better


def test_intervals_of_numbers_are_those_of_the_libraries_on_the_same_resamples():
    from preceptor.evaluate.regression import _resampled
    from preceptor.evaluate.resampling import resampled_counts

    wanted, said = numbers(40)
    wanted = wanted + 1e6
    said = said + 1e6
    counts = np.concatenate(list(resampled_counts(40, 3)))[:25].astype(int)
    for row, values in enumerate(zip(*(each[:25] for each in _resampled(wanted, said, 3)), strict=True)):
        one, other = (np.repeat(side, counts[row]) for side in (wanted, said))
        expected = (
            sklearn.mean_squared_error(one, other),
            sklearn.mean_absolute_error(one, other),
            sklearn.r2_score(one, other),
            stats.pearsonr(one, other).statistic,
            stats.spearmanr(one, other).statistic,
        )
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_the_mean_is_the_baseline_and_stands_for_what_is_not_said():
    found = regression_scores([1.0, 2.0, 6.0], [1.0, np.nan, 6.0], mean=3.0)
    assert found.unanswered == 1
    assert scores_of(found)["mean squared error"].value == pytest.approx(1 / 3)
    baseline = baselines_of(found, "R2")["always saying the mean (3)"]
    assert baseline.value == 0.0 and baselines_of(found, "Pearson correlation")["always saying the mean (3)"].value == 0
    json.dumps(found.facts(), allow_nan=False)
    several = number_scores([[1, 5], [2, 5], [3, 5]], [[1, 5], [2, 5], [2, 4]], ["x", "y"])
    assert scores_of(several["x"])["mean absolute error"].value == pytest.approx(1 / 3)
    assert scores_of(several["y"])["Spearman correlation"].value == 0
    for wrong in (([1.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="at least two finite"):
            regression_scores(*wrong)


def tagged(count=60, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 14, count)
    wanted = [[TAGS[i] for i in generator.integers(0, 5, length)] for length in lengths]
    return wanted, [
        [tag if generator.random() < 0.8 else TAGS[generator.integers(5)] for tag in each] for each in wanted
    ]


def test_tags_are_scored_as_seqeval_does():
    wanted, said = tagged()
    found = tagging_scores(wanted, said)
    scores = scores_of(found)
    for way, more in (("entity", {}), ("strict entity", {"mode": "strict", "scheme": IOB2})):
        assert scores[f"{way} F1"].value == pytest.approx(seqeval.f1_score(wanted, said, **more))
        assert scores[f"{way} precision"].value == pytest.approx(seqeval.precision_score(wanted, said, **more))
        assert scores[f"{way} recall"].value == pytest.approx(seqeval.recall_score(wanted, said, **more))
        assert scores[f"{way} F1"].low < scores[f"{way} F1"].value < scores[f"{way} F1"].high
    assert scores["token accuracy"].value == pytest.approx(seqeval.accuracy_score(wanted, said))
    report = seqeval.classification_report(wanted, said, output_dict=True)
    for name in ("PER", "LOC"):
        assert found.by_type[name].value == pytest.approx(report[name]["f1-score"])
        assert found.support[name] == report[name]["support"]


def test_a_worked_example_of_entities():
    wanted = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    found = tagging_scores(wanted, [["B-PER", "O", "O"], ["B-LOC", "O"]])
    # One of two entities is found whole, and four of five words are right.
    assert scores_of(found)["entity F1"].value == 0.5 and scores_of(found)["token accuracy"].value == 0.8
    assert baselines_of(found, "entity F1")["always saying 'O'"].value == 0
    assert baselines_of(found, "token accuracy")["always saying 'O'"].value == 0.4
    loose = tagging_scores([["B-PER"]], [["I-PER"]])
    assert scores_of(loose)["entity F1"].value == 1 and scores_of(loose)["strict entity F1"].value == 0


def test_entities_with_ends_and_a_tag_that_marks_none():
    wanted = [["S-PER", "O", "B-LOC", "I-LOC", "E-LOC"], ["B-LOC", "E-LOC"]]
    said = [["S-PER", "O", "B-LOC", "E-LOC", "O"], ["B-LOC", "I-LOC"]]
    scores = scores_of(tagging_scores(wanted, said))
    assert scores["entity F1"].value == pytest.approx(seqeval.f1_score(wanted, said))
    assert scores["strict entity F1"].value == pytest.approx(
        seqeval.f1_score(wanted, said, mode="strict", scheme=IOBES)
    )
    assert scores["entity F1"].value > scores["strict entity F1"].value
    assert "entity F1" not in scores_of(tagging_scores([["B-PER"]], [["NOUN"]]))


def test_unanswered_texts_are_wrong_and_other_tags_are_scored_word_by_word():
    found = tagging_scores([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], None])
    scores = scores_of(found)
    assert not is_iob([["NOUN"]]) and "entity F1" not in scores and found.unanswered == 1
    assert scores["token accuracy"].value == pytest.approx(1 / 3)
    assert found.by_type["NOUN"].value == pytest.approx(0.5) and scores["macro F1"].value == pytest.approx(0.25)
    json.dumps(found.facts(), allow_nan=False)
    with pytest.raises(ValueError, match="text 0 has 2 words and 1 tags"):
        tagging_scores([["A", "B"]], [["A"]])
    with pytest.raises(ValueError, match="with words"):
        tagging_scores([[]], [[]])


def test_the_commonest_tag_of_each_word_as_a_baseline():
    said = commonest_tags([["a", "b"], ["a", "c", "a"]], [["X", "Y"], ["X", "Z", "Y"]], [["a", "c", "new"]])
    assert said == [["X", "Z", "X"]]
    found = tagging_scores([["X", "Z", "Z"]], [["X", "Z", "Z"]], baselines={"by word": said})
    assert baselines_of(found, "token accuracy")["by word"].value == pytest.approx(2 / 3)


def test_answers_are_scored_as_in_squad():
    references = [("the Eiffel Tower", "Eiffel tower in Paris"), ("1889",), (), ()]
    found = extraction_scores(references, ["Eiffel Tower", "in 1889", "", "a guess"])
    scores = scores_of(found)
    # Against the nearest of the references: 1, then precision 1/2 and recall 1, then right, then wrong.
    assert scores["token F1"].value == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    assert scores["exact match"].value == pytest.approx(2 / 4)
    assert scores["token F1, has an answer"].value == pytest.approx((1 + 2 / 3) / 2)
    assert scores["exact match, has no answer"].value == 0.5
    silent = extraction_scores([("x",), ()], [None, None])
    assert silent.unanswered == 2 and scores_of(silent)["exact match"].value == 0
    assert "exact match, has an answer" not in scores_of(extraction_scores([("x",)], ["x"]))
    with pytest.raises(ValueError, match="give as many"):
        extraction_scores([], [])


def test_baselines_of_answers():
    contexts = ["Ada wrote it. Bob read it.", "No one knows"]
    baselines = extraction_baselines(contexts, [("Ada",), ()])
    assert baselines["the first sentence"] == ["Ada wrote it.", "No one knows"]
    found = extraction_scores([("Ada",), ()], ["Ada", ""], baselines=baselines)
    values = {name: score.value for name, score in baselines_of(found, "token F1").items()}
    assert values == pytest.approx({"the first sentence": 0.25, "always saying that there is no answer": 0.5})
    assert list(extraction_baselines(contexts, [("Ada",), ("one",)])) == ["the first sentence"]


def test_first_sentences():
    assert first_sentences("One. Two! Three?", 2) == "One. Two!"
    assert first_sentences(" Only this ", 1) == "Only this"
    assert first_sentences('"Stop!" he said. She did.', 1) == '"Stop!"'
    assert first_sentences("今日は。明日も。", 1) == "今日は。"
    assert first_sentences("It is 3.14 high. Really.", 1) == "It is 3.14 high."
    assert first_sentences("A title\n\nA text. More.", 1) == "A title"


def written(count=40, seed=0):
    generator = np.random.default_rng(seed)
    wanted = [" ".join(WORDS[i] for i in generator.integers(0, len(WORDS), 14)) + "." for _ in range(count)]
    said = [" ".join(w if generator.random() < 0.8 else "dog" for w in text.split()) for text in wanted]
    return wanted, said


def test_translations_are_scored_as_sacrebleu_does():
    wanted, said = written()
    found = translation_scores([[text] for text in wanted], said, wanted[::-1])
    scores = scores_of(found)
    assert scores["BLEU"].value == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score)
    assert scores["chrF"].value == pytest.approx(sacrebleu.corpus_chrf(said, [wanted]).score)
    assert found.signatures["BLEU"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert scores["BLEU"].low < scores["BLEU"].value < scores["BLEU"].high
    copied = baselines_of(found, "BLEU")["a copy of the source"].value
    assert copied == pytest.approx(sacrebleu.corpus_bleu(wanted[::-1], [wanted]).score)


def test_the_interval_of_bleu_is_about_that_of_sacrebleus_own_bootstrap(caplog):
    wanted, said = written(80)
    score = scores_of(translation_scores([[text] for text in wanted], said, wanted))["BLEU"]
    theirs = sacrebleu.BLEU().corpus_score(said, [wanted], n_bootstrap=500)
    assert (score.high - score.low) / 2 == pytest.approx(theirs._ci, rel=0.2)


def test_several_references_and_texts_that_were_not_written(caplog):
    caplog.set_level(logging.INFO)
    references = [["a cat sat on the mat", "one cat sat there"], ["the dog ran far away home"]]
    found = translation_scores(references, ["one cat sat there", None], ["x", "y"], tokenize="char")
    assert found.unanswered == 1 and "tok:char" in found.signatures["BLEU"]
    expected = sacrebleu.CHRF().corpus_score(
        ["one cat sat there", ""], [[r[0] for r in references], [references[0][1], None]]
    )
    assert scores_of(found)["chrF"].value == pytest.approx(expected.score)
    assert not caplog.records
    json.dumps(found.facts(), allow_nan=False)
    with pytest.raises(ValueError, match="one reference or more"):
        translation_scores([[]], ["x"], ["y"])


@pytest.mark.parametrize("use_stemmer", [False, True])
def test_summaries_are_scored_as_rouge_score_does(use_stemmer):
    wanted, said = written()
    found = scores_of(summary_scores([[text] for text in wanted], said, wanted, use_stemmer=use_stemmer))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=use_stemmer)
    theirs = [scorer.score(one, other) for one, other in zip(wanted, said, strict=True)]
    for kind, name in (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("rougeL", "ROUGE-L")):
        assert found[name].value == pytest.approx(np.mean([each[kind].fmeasure for each in theirs]))
        assert found[name].low < found[name].value < found[name].high


def test_summaries_by_hand_in_any_script_beside_their_first_sentences():
    source = "Der Zug fährt nicht. Es schneit. Alle warten. Niemand klagt."
    found = summary_scores([["Der Zug fährt nicht"]], ["Der Zug fährt"], [source])
    assert scores_of(found)["ROUGE-1"].value == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert scores_of(found)["ROUGE-2"].value == pytest.approx(2 * 1 * (2 / 3) / (5 / 3))
    baselines = baselines_of(found, "ROUGE-1")
    assert baselines["the first sentence"].value == 1.0 and baselines["the first three sentences"].value < 1.0
    assert scores_of(summary_scores([["поезд стоит"]], ["поезд едет"], ["x"]))["ROUGE-1"].value == 0.5
    assert scores_of(summary_scores([["a"]], [None], ["x"]))["ROUGE-1"].value == 0


def test_preferences():
    found = preference_scores([1.0, 2.0, 0.0, 3.0, np.nan], [0.0, 3.0, 0.0, 1.0, 0.0])
    scores = scores_of(found)
    assert scores["preference accuracy"].value == 2 / 5 and found.ties == 1 and found.unanswered == 1
    assert scores["mean margin"].value == pytest.approx((1 - 1 + 0 + 2) / 4)
    assert baselines_of(found, "preference accuracy")["tossing a coin"].value == 0.5
    json.dumps(found.facts(), allow_nan=False)
    assert len(preference_scores([np.nan], [1.0]).judged) == 1
    with pytest.raises(ValueError, match="at least one"):
        preference_scores([], [])
