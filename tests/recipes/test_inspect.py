"""Browsing a corpus: the right documents with the right reasons, on a terminal and in a pipe."""

import io
import json

import pytest

from preceptor.core.errors import ConfigError
from preceptor.data.document import Document
from preceptor.recipes.inspect import Selection, browse, select
from preceptor.recipes.reasons import reason

LICENCES = ("MIT", "CC-BY-4.0", "unknown")
RULES = ("too-short", "outlier:characters", "near-duplicate")
ESCAPE = "\x1b[2J\x1b]0;stolen\x07"


class Shelf:
    """What browsing needs of a corpus: twelve documents, of which every third was dropped."""

    def __init__(self, count: int = 12) -> None:
        self.rows, self.kept = [], []
        for number in range(count):
            source, licence = f"file:{'web' if number % 2 else 'books'}/{number}.html", LICENCES[number % 3]
            document = Document.new(
                f"Document {number} speaks of amber {'and Birch ' * (number % 4)}{ESCAPE}\n" + "word " * 30,
                source,
                licence=licence,
                collection=source[5:].partition("/")[0],
            ).edited(f"Document {number} speaks of amber {'and Birch ' * (number % 4)}{ESCAPE}\n" + "word " * 2000)
            row = {"id": document.root_id, "source": source, "collection": document.collection, "licence": licence}
            if number % 3 == 2:
                rule = RULES[number // 3 % 3]
                row |= {
                    "verdict": "drop",
                    "rule": rule,
                    "measured": 0.25 * number,
                    "limit": 80.0,
                    "detail": "of file:x",
                }
            else:
                row |= {"verdict": "keep", "rule": "", "measured": 0.0, "limit": 0.0, "detail": document.id}
                self.kept.append(("validation" if number == 4 else "train", document))
                if number == 3:
                    copied = {"augmented": "1"}
                    copy = Document.new("a noisy copy", source, licence=licence, metadata=copied)
                    self.kept.append(("train", copy))
            self.rows.append(row)
        dropped = [row for row in self.rows if row["verdict"] == "drop"]
        sample = {"id": dropped[0]["id"], "source": dropped[0]["source"], "excerpt": f"gone {ESCAPE}"}
        self.datasheet = {
            "drops_by_rule": {rule: 1 for rule in RULES},
            "drop_samples": {"too-short": [sample], "near-duplicate": [{"id": "", "source": "x"}]},
        }

    def documents(self, split=None):
        return (document for place, document in self.kept if split in (None, place))

    def ledger(self):
        return iter(self.rows)


@pytest.fixture(autouse=True)
def size(monkeypatch):
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "40")):
        monkeypatch.setenv(name, value)


@pytest.fixture
def shelf():
    return Shelf()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def sources(shelf, **asked) -> list[int]:
    return [int(entry.source.split("/")[1].split(".")[0]) for entry in select(shelf, Selection(**asked))]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [*range(12)]),
        ({"verdict": "kept"}, [0, 1, 3, 6, 7, 9, 10, 4]),
        ({"verdict": "dropped"}, [2, 5, 8, 11]),
        ({"rule": "too-short"}, [2, 11]),
        ({"rule": "outlier"}, [5]),
        ({"rule": "outlier:characters"}, [5]),
        ({"source": "web"}, [1, 3, 5, 7, 9, 11]),
        ({"source": "/7.html"}, [7]),
        ({"licence": "mit"}, [0, 3, 6, 9]),
        ({"search": "AND BIRCH AND BIRCH"}, [3, 6, 7, 10]),
        ({"search": "gone"}, [2]),
        ({"search": "of file:x", "source": "books"}, [2, 8]),
        ({"limit": 3}, [0, 1, 2]),
        ({"verdict": "kept", "licence": "CC-BY-4.0", "source": "web", "limit": 2}, [1, 7]),
    ],
)
def test_what_is_asked_for_is_shown(shelf, asked, expected):
    assert sources(shelf, **asked) == expected


def test_every_text_stands_with_its_own_verdict(shelf):
    texts = {document.id: document.text for _, document in shelf.kept}
    for entry in select(shelf, Selection()):
        if entry.verdict == "kept":
            assert entry.text == texts[entry.document] and entry.reason == ""
        else:
            assert entry.reason == reason(entry.rule, entry.measured, 80.0, "of file:x")
    assert [entry.reason for entry in select(shelf, Selection(search="Document 4 "))] == [""]
    assert [entry.reason for entry in select(shelf, Selection(verdict="kept", search="Document 4 "))] == [
        "for validation"
    ]


def test_it_reads_no_more_than_it_shows(shelf):
    def rows():
        yield from Shelf().rows[:2]
        raise AssertionError("the whole ledger was read")

    shelf.ledger = rows
    assert sources(shelf, limit=2) == [0, 1]


def test_a_rule_that_dropped_nothing_is_an_error_that_names_the_others(shelf):
    with pytest.raises(ConfigError, match="nothing was dropped by the rule 'too-shirt'") as caught:
        sources(shelf, rule="too-shirt")
    assert "too-short, outlier:characters, near-duplicate" in caught.value.remedy


@pytest.mark.parametrize("asked", [{"limit": -1}, {"verdict": "kept", "rule": "too-short"}])
def test_what_no_document_can_be_is_refused(asked):
    with pytest.raises(ConfigError):
        Selection(**asked)


def test_a_pipe_gets_lines_that_steer_no_terminal(shelf):
    output = io.StringIO()
    assert browse(shelf, Selection(), output=output) == 12
    lines = output.getvalue().splitlines()
    assert [line for line in lines if not line.startswith("    ")] == [
        line for line in lines if line.startswith(("kept", "dropped"))
    ]
    assert lines[4].startswith("dropped  file:books/2.html  unknown  ")
    assert lines[4].endswith("  too-short: 0.5 characters, at least 80 needed; of file:x")
    assert lines[5].startswith("    gone ")
    assert all(len(line) <= 104 for line in lines if line.startswith("    "))
    assert not set("\x1b\x07") & set(output.getvalue())


def test_json_has_a_line_for_each_document_with_its_whole_text(shelf):
    output = io.StringIO()
    assert browse(shelf, Selection(verdict="kept"), as_json=True, output=output) == 8
    rows = [json.loads(line) for line in output.getvalue().splitlines()]
    first = shelf.kept[0][1]
    assert (rows[0]["text"], rows[0]["id"], rows[0]["document"]) == (first.text, first.root_id, first.id)
    assert rows[-1]["split"] == "validation"


def test_nothing_to_show_is_said(shelf, capsys):
    for output in (io.StringIO(), Terminal()):
        assert browse(shelf, Selection(search="no such word"), output=output) == 0
        assert output.getvalue() == ""
        assert capsys.readouterr().err == "no document is like that\n"


def leaf(shelf, keys: str, **asked) -> tuple[int, list[str]]:
    """How many were shown, and the head of each screen."""
    waiting = iter([key.replace("<", "\x1b[D").replace(">", "\x1b[C") for key in keys])
    output = Terminal()
    shown = browse(shelf, Selection(**asked), output=output, read_key=lambda: next(waiting))
    assert next(waiting, None) is None
    screens = output.getvalue().split("\x1b[2J\x1b[H")[1:]
    assert not set("\x07") & set(output.getvalue())
    return shown, [screen.split(".html")[0].split("file:")[-1] for screen in screens]


@pytest.mark.parametrize(
    ("keys", "shown", "screens"),
    [
        ("q", 1, ["books/0"]),
        ("nnq", 3, ["books/0", "web/1", "books/2"]),
        ("nxpq", 2, ["books/0", "web/1", "books/0"]),
        ("npnnq", 3, ["books/0", "web/1", "books/0", "web/1", "books/2"]),
        ("ppn\x03", 2, ["books/0", "books/0", "books/0", "web/1"]),
        (" \r><>q", 4, ["books/0", "web/1", "books/2", "web/3", "books/2", "web/3"]),
    ],
)
def test_keys_lead_forward_and_back(shelf, keys, shown, screens):
    assert leaf(shelf, keys) == (shown, screens)


def test_the_last_document_is_the_end(shelf):
    assert leaf(shelf, "nn", rule="too-short") == (2, ["books/2", "web/11"])


def test_a_screen_says_the_reason_and_shows_no_escape_of_the_text(shelf):
    output = Terminal()
    browse(shelf, Selection(rule="too-short"), output=output, read_key=lambda: "q")
    said = output.getvalue()
    assert "too-short: 0.5 characters, at least 80 needed; of file:x" in said
    assert "gone ␛[2J" in said and "\x1b]0;" not in said
    output = Terminal()
    browse(shelf, Selection(verdict="kept"), output=output, read_key=lambda: "q")
    assert "more characters]" in output.getvalue()


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        (("too-short", 12, 80, ""), "too-short: 12 characters, at least 80 needed"),
        (("too-long", 2_000_000, 1_000_000, ""), "too-long: 2,000,000 characters, at most 1,000,000 allowed"),
        (("near-duplicate", 0.8612, 0.8, "of file:x"),
         "near-duplicate of file:x: 0.861 of the word n-grams in common, at most 0.8 allowed"),
        (("exact-duplicate", 1, 0, "of file:x"), "exact-duplicate of file:x"),
        (("duplicate-id", 1, 0, "of file:x"), "duplicate-id of file:x"),
        (("repeated-elsewhere", 0.9, 0.8, "of file:x"),
         "repeated-elsewhere: 0.9 of it stands in other documents, at most 0.8 allowed; for example in file:x"),
        (("unknown-licence", 1, 0, "none is declared or stated"), "unknown-licence: none is declared or stated"),
        (("withdrawn", 1, 0, "by its id"), "withdrawn: by its id"),
        (("c4-lorem-ipsum", 1, 0, ""), "c4-lorem-ipsum"),
        (("other-language", 0.98, 0, "de"), "other-language: 0.98 sure of its language; de"),
        (("personal-data", 2, 0, "email, phone"), "personal-data: 2 found; email, phone"),
        (("outlier:characters", 9, 20.5, ""), "outlier:characters: 9, at least 20.5 needed"),
    ],
)  # fmt: skip
def test_a_reason_says_what_was_measured_only_where_something_was(dropped, said):
    assert reason(*dropped) == said


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, EOFError, OSError])
def test_a_key_that_interrupts_or_a_terminal_that_is_gone_ends_like_q(shelf, leaving):
    def read_key():
        raise leaving

    assert browse(shelf, Selection(), output=Terminal(), read_key=read_key) == 1
    assert browse(shelf, Selection(), output=Terminal(), read_key=lambda: "") == 1


def test_a_long_text_leaves_the_reason_on_the_screen(shelf, monkeypatch):
    monkeypatch.setenv("LINES", "12")
    output = Terminal()
    browse(shelf, Selection(verdict="kept", limit=1), output=output, read_key=lambda: "q")
    assert len(output.getvalue().splitlines()) <= 12
    assert "more characters]" in output.getvalue() and "n next" in output.getvalue()
