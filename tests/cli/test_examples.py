"""`preceptor examples`: a file of examples as a user looks at it before training."""

import io
import json
import sys

import pytest
from rich.console import Console

from preceptor import cli
from preceptor.data.example_types import (
    AnswerExample,
    ClassExample,
    Conversation,
    Message,
    NumberExample,
    PairExample,
    PreferenceExample,
    TaggedExample,
)
from preceptor.objectives.instruct import InstructObjective
from preceptor.recipes.examples_view import Marked, described, pieces_of
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["preceptor", "examples", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        said = capsys.readouterr()
        return leaving.value.code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train([f"number {n} of many" for n in range(60)], TokenizerConfig(vocab_size=300), folder).save(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder)


def printed(renderable, **settings):
    stream = io.StringIO()
    Console(file=stream, highlight=False, width=200, **settings).print(renderable)
    return stream.getvalue()


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_file_of_conversations_is_shown_as_the_model_sees_it(call, tmp_path, folder):
    said = [
        {"role": "user", "content": "q [0]"},
        {"role": "assistant", "content": "日本.", "weight": 1},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b", "weight": 0},
    ]
    rows = [{"messages": said, "group": f"{n}"} for n in range(40)]
    path = lines(tmp_path / "a.jsonl", *rows, "{", {"messages": []})
    code, out, _ = call(path, "--tokenizer", folder, "--show", 1)
    assert not code
    assert "42 rows, messages, median" in out and "tokens\n2 rejected:\n  line 41: broken JSON" in out
    assert "  line 42: there is no answer to learn from" in out
    shown = "<|endoftext|><|user|>q [0]<|assistant|>[日本.<|endoftext|>]<|user|>r<|assistant|>b<|endoftext|>"
    assert out.count(shown) == 1 and "to train on" in out and "held out" in out
    code, out, _ = call(path)
    assert "words" in out and out.count("user: q [0]\nassistant: [日本.]\nuser: r\nassistant: b") == 3


def test_a_table_with_other_columns(call, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review,stars\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)))
    code, out, err = call(path)
    assert code == 1 and "found the columns review, stars" in err and "finetuning.columns" in err
    code, out, _ = call(path, "--column", "text=review", "--column", "label=stars", "--show", "1")
    assert not code and "40 rows, text/label, 2 classes, 50/50, median 2 words" in out
    assert "taken as classes" in out and "text 0\n-> [0]\n" in out
    code, out, _ = call(path, "--column", "text=review", "--column", "label=stars", "--task", "regress")
    assert "numbers from 0 to 1" in out
    assert call(path, "--column", "text")[0] == 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": f"t{n}", "label": "a"} for n in range(40)], "have one class, 'a'"),
        ([{"text": f"t{n}", "label": f"{n}x"} for n in range(40)], "occur in held-out examples only"),
        ([{"question": "q", "answer": ""}], "answer is empty"),
        ([{"question": "q", "answer": "a"}, {"text": "t", "label": "a"}], "a file has one shape"),
        ([{"question": "q", "answer": "a"}], "none would be held out"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(call, tmp_path, rows, words):
    code, _, err = call(lines(tmp_path / "a.jsonl", *rows))
    assert code == 1 and words in err and "To fix it:" in err


def test_a_held_out_file_with_texts_that_are_trained_on_is_refused(call, tmp_path):
    rows = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(40)]
    path, other = lines(tmp_path / "a.jsonl", *rows), lines(tmp_path / "b.jsonl", *rows[:2])
    code, out, err = call(path, "--held-out", other)
    assert code == 1 and "40 to train on, 2 held out" in out and "2 of 2 held-out texts are also trained on" in err


def test_what_is_learned_is_coloured_on_a_terminal_and_in_brackets_elsewhere(tokenizer, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    objective = InstructObjective(
        [Conversation.of("q", "a \x1b[31m")], tokenizer, 40, prefix_ids=[tokenizer.vocab_size]
    )
    shown = Marked("", pieces_of(*objective.document(0), tokenizer))
    plain = printed(shown)
    assert "<|prompt 0|><|endoftext|><|user|>q<|assistant|>[a ␛[31m<|endoftext|>]\n" in plain
    colours = {"force_terminal": True, "color_system": "standard"}
    coloured = printed(shown, **colours)
    assert "\x1b[1;32ma ␛[31m<|endoftext|>\x1b[0m" in coloured and "[a" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[a ␛[31m<|endoftext|>]" in printed(shown, **colours)


@pytest.mark.parametrize(
    ("example", "shown"),
    [
        (ClassExample(text="t", second="u", labels=("a", "b"), group="t"), "t\nu\n-> [a, b]\n"),
        (ClassExample(text="t", labels=(), group="t"), "t\n-> [none]\n"),
        (NumberExample(text="t", targets=(0.5,), group="t"), "t\n-> [0.5]\n"),
        (TaggedExample(words=("Ann", "sat"), tags=("B-PER", "O"), group="t"), "Ann/[B-PER] sat/O \n"),
        (AnswerExample(question="q", context="a cat.", answers=(("cat", 2),), group="q"), "q\na [cat].\n"),
        (AnswerExample(question="q", context="a cat.", answers=(), group="q"), "q\na cat.\n-> [no answer]\n"),
        (PairExample(source="s", target="t", group="s"), "s\n-> [t]\n"),
        (
            PreferenceExample(messages=(Message("user", "q"),), chosen="c", rejected="r", group="q"),
            "user: q\npreferred: [c]\nto: r\n",
        ),
    ],
)
def test_examples_of_every_task_are_shown_with_what_is_learned(example, shown):
    assert printed(described(example)) == shown


def test_long_texts_are_cut_and_the_answer_is_still_seen():
    context = "x" * 5000 + "cat" + "y" * 5000
    shown = printed(described(AnswerExample(question="q", context=context, answers=(("cat", 5000),), group="q")))
    assert "x[cat]y" in shown.replace("\n", "") and len(shown) < 2000
    assert " ... " in printed(described(PairExample(source="s" * 9000, target="t", group="s")))
