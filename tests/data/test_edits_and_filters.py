"""Edits never judge, filters never edit; personal data goes, version numbers stay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.data import personal
from preceptor.data.document import KEEP, Document, Drop
from preceptor.data.edits import normalise, remove_markup
from preceptor.data.filters import FilterConfig, judge

PROSE = "The committee met on Tuesday to discuss the budget for the coming year and agreed on three points. "


def document(text: str) -> Document:
    return Document.new(text, "test:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("trailing   \n\n\n\n\n\nspace\t\n", "trailing\n\n\nspace"),
        ("zero\u200bwidth\ufeff and \x07bell", "zerowidth and bell"),
        ("cafe\u0301", "café"),
        ("â€œquotedâ€\x9d schÃ¶n", "“quoted” schön"),
        ("‘curly’ ﬁne ＡＢＣ stay", "‘curly’ ﬁne ＡＢＣ stay"),
    ],
)
def test_normalise(text, expected):
    assert normalise(document(text)).text == expected


def test_left_over_markup_goes_and_code_stays():
    assert remove_markup(document('<div class="x">one</div><br/>two &amp; three')).text.split() == [
        "one", "two", "&", "three",
    ]  # fmt: skip
    code = "if a < b and c > d: x = y &amp; z; List<int>"
    assert remove_markup(document(code)).text == code


def test_an_edit_names_its_parent_and_nothing_changes_in_place():
    before = document("a  \n")
    after = normalise(before)
    assert before.text == "a  \n" and after.parent == before.id and after.id != before.id
    assert normalise(after) is after


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=200)
def test_normalise_is_idempotent(text):
    once = normalise(document(text))
    assert normalise(once).text == once.text


@given(st.text(max_size=400))
@settings(deadline=None, max_examples=200)
def test_filters_never_edit_and_always_say_keep_or_drop(text):
    before = document(text)
    verdict, _ = judge(before, FilterConfig())
    assert verdict is KEEP or isinstance(verdict, Drop)
    assert before.text == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE * 3, None),
        ("def f(x):\n    return x + 1\n\nclass A:\n    '''Holds things.'''\n    def g(self):\n        pass\n", None),
        ("short", "too-short"),
        (PROSE * 20_000, "too-long"),
        (PROSE + "\ufffd" * 40, "corrupt"),
        ("1 2 3 4 5 6 7 8 9 0 | + - = " * 20, "few-letters"),
        ("the same line again and again\n" * 40, "repeated-lines"),
        ("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg" * 3, "long-words"),
    ],
)
def test_each_rule_drops_what_it_is_for(text, rule):
    verdict, _ = judge(document(text), FilterConfig())
    if rule is None:
        assert verdict is KEEP
    else:
        assert isinstance(verdict, Drop) and verdict.rule == rule
        assert verdict.measured != verdict.limit


KEY = "ghp_" + "a1B2" * 9
PRIVATE = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail jane.doe+x@example.co.uk now", "mail <email> now"),
        ("<jane@example.org>, bob@example.com.", "<<email>>, <email>."),
        ("call +44 20 7946 0958 today", "call <phone> today"),
        ("call (212) 555-0147 today", "call <phone> today"),
        ("host 93.184.216.34 answered", "host <ip-address> answered"),
        ("host 2606:2800:220:1:248:1893:25c8:1946 answered", "host <ip-address> answered"),
        (f"token {KEY} leaked", "token <key> leaked"),
        ("AKIAIOSFODNN7EXAMPLE", "<key>"),
        (f"key:\n{PRIVATE}\nend", "key:\n<private-key>\nend"),
    ],
)
def test_personal_data_becomes_a_typed_placeholder(text, expected):
    assert personal.redact(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 of the library",
        "Python 3.11.7 and 2.0",
        "@property\ndef f(self): ...",
        "array[1:2, 3:4] and a::b and std::vector",
        "1234567890 and 3.14159265358979",
        "127.0.0.1 and ::1 and 255.255.255.0",
        "2026-11-21 12:30:45 and 10/12/2026",
        "x = 100 - 200 - 300 + 4000",
        "a @ b, user at the dot",
    ],
)
def test_what_only_looks_like_personal_data_stays(text):
    assert personal.redact(text) == (text, {})


@given(
    st.text(alphabet="abc XYZ.,\n", max_size=60),
    st.sampled_from(["ann@example.org", "93.184.216.34", "+1 212 555 0147", KEY]),
    st.text(alphabet="abc XYZ,\n", max_size=60),
)
@settings(deadline=None, max_examples=150)
def test_a_planted_span_never_survives(before, planted, after):
    text, counts = personal.redact(f"{before} {planted} {after}")
    assert planted not in text and sum(counts.values()) >= 1


@pytest.mark.parametrize("code", ["english", "EN", "en-US", ""])
def test_a_language_that_is_no_code_is_refused(code):
    with pytest.raises(ValueError, match="ISO 639 codes"):
        FilterConfig(languages=("de", code))
