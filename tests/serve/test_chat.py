"""The conversation: commands, the end of input, interruption, and bytes that are no text."""

import io
import json

import pytest

from preceptor.serve.chat import chat, terminal_lines


class Parrot:
    """Answers with the question, word by word; "stop" is interrupted after one word."""

    def answer(self, question):
        for number, word in enumerate(question.split()):
            if number and question.startswith("stop"):
                raise KeyboardInterrupt
            yield word + " "


def talk(lines):
    output = io.StringIO()
    chat(Parrot(), lines, output, lambda: None)
    return output.getvalue()


def test_each_piped_line_is_answered_until_they_end():
    assert talk(["What is it?\n", "\n", "And this?"]) == "What is it? \nAnd this? \n"


def test_quit_leaves_and_help_lists_every_command():
    text = talk(["/help\n", "/quit\n", "never\n"])
    assert "never" not in text
    assert all(command in text for command in ("/help", "/clear", "/save", "/quit"))


def test_save_writes_what_was_said_since_clear_and_overwrites_nothing(tmp_path):
    path = tmp_path / "talk.jsonl"
    talk(["first\n", "/clear\n", "second 日本\n", f"/save {path}\n"])
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"question": "second 日本", "answer": "second 日本 "}
    ]
    assert "is there already" in talk(["third\n", f"/save {path}\n"])
    assert "name a file" in talk(["/save\n"])
    assert "To fix it" in talk(["fourth\n", f"/save {path}/below\n"])


def test_an_interruption_ends_the_answer_not_the_conversation():
    assert talk(["stop here now\n", "go on\n"]) == "stop  [stopped]\ngo on \n"


def test_an_interruption_while_a_line_is_awaited_leaves():
    def lines():
        yield "one\n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk(lines())


def test_bytes_that_are_no_text_are_replaced():
    source = io.TextIOWrapper(io.BytesIO(b"caf\xff\xc3\xa9\nnext"), encoding="ascii")
    assert list(terminal_lines(source)) == ["caf\ufffdé\n", "next"]
