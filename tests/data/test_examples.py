"""Examples: read in the shapes people have, and split so that no group is on both sides."""

import json

import pytest

from preceptor.core.errors import ConfigError, DataError
from preceptor.data.examples import Example, read_examples, split_examples
from preceptor.data.spdx import normalise_licence


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
