"""The guards before training: what nothing can be learned from is refused, what is odd is said."""

from dataclasses import replace

import pytest

from preceptor.core.errors import DataError
from preceptor.data.example_checks import check_examples
from preceptor.data.example_types import (
    AnswerExample,
    ClassExample,
    Conversation,
    ExampleSet,
    Message,
    NumberExample,
    PairExample,
    PreferenceExample,
    TaggedExample,
)


def example_set(examples, task, shape):
    found = {label for each in examples for label in getattr(each, "labels", getattr(each, "tags", ()))}
    return ExampleSet(task=task, examples=examples, labels=tuple(sorted(found)), shape=shape)


def classes(*pairs, start=0, task="classify"):
    examples = [
        ClassExample(text=text, labels=(label,) if isinstance(label, str) else label, group=text, place=f"a, line {n}")
        for n, (text, label) in enumerate(pairs, start)
    ]
    return example_set(examples, task, "text/label")


GOOD = [(f"t{n}", "ab"[n % 2]) for n in range(10)]
KEPT = classes(("u", "a"), ("v", "b"))


def test_good_examples_have_nothing_odd():
    assert check_examples(classes(*GOOD), KEPT, is_split=False) == []


def test_one_class_only_is_refused():
    with pytest.raises(DataError, match="have one class, 'a'"):
        check_examples(classes(("s", "a"), ("t", "a")), classes(("u", "a")), is_split=True)
    tagged = example_set([TaggedExample(words=("x",), tags=("O",), group="x")], "tag", "tokens/tags")
    with pytest.raises(DataError, match="have one tag, 'O'"):
        check_examples(tagged, tagged, is_split=True)
    numbers = example_set([NumberExample(text=text, targets=(2.0,), group=text) for text in "ab"], "regress", "")
    with pytest.raises(DataError, match="same number"):
        check_examples(numbers, numbers, is_split=True)


def test_held_out_labels_that_are_never_trained_on_are_refused():
    with pytest.raises(DataError, match=r"label 'c' occurs in held-out examples only \(1 times\)"):
        check_examples(classes(*GOOD), classes(("u", "a"), ("v", "c")), is_split=True)
    found = check_examples(classes(*GOOD, ("w", "c"), ("x", "d")), KEPT, is_split=True)
    assert found == ["labels 'c', 'd' have no held-out example to be measured on"]


def test_sides_with_other_sorts_of_labels_are_refused():
    lists = replace(classes(("u", ("a",)), ("v", ("a", "b"))), multi_label=True)
    with pytest.raises(DataError, match="lists of classes"):
        check_examples(classes(*GOOD), lists, is_split=False)
    assert check_examples(replace(classes(*GOOD), multi_label=True), KEPT, is_split=False) == []

    def numbers(*rows):
        examples = [NumberExample(text=f"{row}", targets=row, group=f"{row}") for row in rows]
        return example_set(examples, "regress", "text/label")

    with pytest.raises(DataError, match="a held-out text has 1 numbers, and one that is trained on 2"):
        check_examples(numbers((1.0, 2.0), (2.0, 3.0)), numbers((1.0,)), is_split=False)


def test_a_rare_tag_that_is_never_trained_on_is_only_said():
    def tagged(*tags):
        return example_set([TaggedExample(words=("x",) * len(tags), tags=tags, group="x")], "tag", "tokens/tags")

    train = tagged("O", "A")
    found = check_examples(train, tagged(*["O"] * 200, "A", "B"), is_split=True)
    assert "label 'B' occurs in held-out examples only (1 times); they cannot be told" in found
    with pytest.raises(DataError, match="'B' occurs in held-out examples only"):
        check_examples(train, tagged(*["O"] * 20, "A", "B"), is_split=True)


def test_texts_of_a_held_out_file_that_are_trained_on_are_refused():
    held_out = classes(("T0 ", "a"), ("t1", "b"), ("new", "a"), start=7)
    with pytest.raises(DataError, match="2 of 3 held-out texts are also trained on, the first at a, line 7"):
        check_examples(classes(*GOOD), held_out, is_split=False)
    assert check_examples(classes(*GOOD), held_out, is_split=True) == [
        "2 of 3 held-out texts are also trained on, the first at a, line 7, as their groups differ"
    ]


def test_contradicting_labels_are_said():
    found = check_examples(classes(*GOOD, ("T0", "b"), ("t1", "b")), KEPT, is_split=True)
    assert found == ["1 text has several labels that contradict each other"]
    asked = (Message("user", "q"),)
    both = [
        PreferenceExample(messages=asked, chosen=one, rejected=other, group="q") for one, other in ("cr", "rc", "cs")
    ]
    other = PreferenceExample(messages=(Message("user", "r"),), chosen="c", rejected="r", group="r")
    found = check_examples(example_set(both, "prefer", ""), example_set([other], "prefer", ""), is_split=True)
    assert found == ["1 preferences are there both ways"]


@pytest.mark.parametrize(
    "empty",
    [
        Conversation(messages=(Message("user", "q"), Message("assistant", " ")), group="q"),
        Conversation(messages=(Message("user", "q"), Message("assistant", "a", trains=False)), group="q"),
        PairExample(source="s", target="", group="s"),
        PreferenceExample(messages=(Message("user", "q"),), chosen="c", rejected="", group="q"),
    ],
)
def test_empty_answers_are_refused(empty):
    good = example_set([Conversation.of("x", "y")], "instruct", "")
    with pytest.raises(DataError, match="1 of 2 examples have an empty answer"):
        check_examples(good, example_set([empty], "instruct", ""), is_split=True)


def test_questions_without_an_answer_are_no_empty_answers():
    asked = [AnswerExample(question=q, context="c", answers=(), group=q) for q in "pq"]
    train, held_out = (example_set([each], "answer", "SQuAD") for each in asked)
    assert check_examples(train, held_out, is_split=True) == []


def test_sides_that_are_empty_or_of_two_tasks_are_refused():
    with pytest.raises(DataError, match="of 10 examples none would be held out"):
        check_examples(classes(*GOOD), classes(), is_split=True)
    pairs = example_set([PairExample(source="s", target="t", group="s")], "translate", "source/target")
    with pytest.raises(DataError, match=r"task classify \(text/label\), .* translate \(source/target\)"):
        check_examples(classes(*GOOD), pairs, is_split=False)


def test_texts_with_one_class_or_none_can_be_told_apart():
    train = classes(("s", ("a",)), ("t", ()))
    with pytest.raises(DataError, match="one class"):
        check_examples(train, classes(("u", "a")), is_split=True)
    assert check_examples(replace(train, multi_label=True), classes(("u", "a")), is_split=True) == []
