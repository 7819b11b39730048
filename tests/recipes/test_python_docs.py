"""The embedded default: documents and questions from the Python that runs."""

import itertools
from collections import Counter

import pytest

from preceptor.core.errors import EmptyDataError
from preceptor.data.examples import split_examples
from preceptor.recipes import python_docs
from preceptor.recipes.python_docs import MAX_ANSWER_WORDS, first_sentence


def test_documents_are_headed_by_what_they_document_and_carry_their_licence():
    documents = {document.source: document for document in python_docs.documents()}
    assert len(documents) > 1000 and sum(len(document.text) for document in documents.values()) > 1_500_000
    assert {(d.licence, d.consent) for d in documents.values()} == {("PSF-2.0", "by-licence")}
    assert "textwrap.dedent(text)\n\nRemove any common leading whitespace" in documents["python:textwrap"].text
    assert documents["python:textwrap.TextWrapper"].text.startswith("class textwrap.TextWrapper\n\n")
    assert "python:topic.lambda" in documents
    assert not any(part in source for source in documents for part in ("site-packages", ".test.", "idlelib"))


def test_both_are_the_same_every_time():
    first = [document.id for document in python_docs.documents()]
    python_docs._modules.cache_clear()
    assert [document.id for document in python_docs.documents()] == first


def test_questions_are_short_unambiguous_and_never_on_both_sides():
    examples = list(python_docs.examples())
    assert len(examples) > 2500
    assert max(Counter(example.question for example in examples).values()) == 1
    for example in examples:
        assert "\n" not in example.answer and 0 < len(example.answer.split()) <= MAX_ANSWER_WORDS
    answers = {example.question: example.answer for example in examples}
    assert answers["Which module has `dedent`?"] == "textwrap"
    assert answers["What does `textwrap.dedent` do?"].startswith("Remove any common leading whitespace")
    assert "Which module has `open`?" not in answers, "many modules have it"
    train, held_out = split_examples(examples, 0, 0.1)
    assert held_out and {e.group for e in train}.isdisjoint(e.group for e in held_out)
    what = [{e.answer.lower().rstrip(".") for e in side if e.kind == "what"} for side in (train, held_out)]
    assert what[0].isdisjoint(what[1]), "an answer that is trained on must not be asked for"


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the sum.\n\nMore of it.", "Return the sum."),
        ("Join two lines,\ne.g. these. And more.", "Join two lines, e.g. these."),
        ("f(a, b=()) -> the sum\n\nReturn the sum of both.", "Return the sum of both."),
        ("f(x) -- Return the sine of x.", "Return the sine of x."),
        ("f(a, b)", ""),
        ("a=1, b=2, c=3", ""),
        ("word " * 40, ""),
        ("The options are these:\n  one\n  two", ""),
        (">>> f(1)\n2", ""),
        ("", ""),
    ],
)
def test_the_first_sentence_of_a_docstring(docstring, expected):
    assert first_sentence(docstring, "f") == expected


def test_a_python_without_its_sources_is_said(monkeypatch, tmp_path):
    python_docs._modules.cache_clear()
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(EmptyDataError, match="standard library"):
        list(itertools.islice(python_docs.documents(), 1000))
    python_docs._modules.cache_clear()
