"""Whoever asks to be left out is left out, under every spelling of an address, and no wish is passed over."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError, DataError
from preceptor.data.document import KEEP, Document, Drop
from preceptor.data.opt_out import OptOut

ROBOTS = "User-agent: GPTBot\nDisallow: /\n\nUser-agent: *\nDisallow: /private/\n"


def _load(folder, text, name="wishes.toml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return OptOut.load(str(path))


def _is_left_out(wishes, origin="", **metadata):
    verdict = wishes.judge(Document.new("t", "s", metadata=metadata, origin=origin))
    assert verdict == KEEP or (isinstance(verdict, Drop) and verdict.rule == "opted-out" and verdict.detail)
    return verdict != KEEP


@pytest.mark.parametrize(
    ("url", "is_left_out"),
    [
        ("https://example.org/a", True),
        ("https://www.example.org/a", True),
        ("http://a.b.EXAMPLE.org.:8080/a?b#c", True),
        ("https://name:word@example.org/", True),
        ("example.org/a//b", True),
        ("//example.org/a", True),
        (" https://exam\nple.org/", True),
        ("https:\\\\example.org\\a", True),
        ("https://[broken.example.org/", True),
        ("https://example.org", True),
        ("https://notexample.org/", False),
        ("https://example.org.evil.net/", False),
        ("https://evil.net/example.org", False),
        ("https://evil.net/?u=https://example.org/", False),
        ("https://bücher.example/", True),
        ("https://xn--bcher-kva.example/", True),
        ("file:docs/example.org", False),
        ("", False),
    ],
)
def test_domains(tmp_path, url, is_left_out):
    wishes = _load(tmp_path, 'domains = ["*.Example.org", "bücher.example"]')
    assert _is_left_out(wishes, url) is is_left_out
    assert _is_left_out(wishes, "", url=url) is is_left_out
    assert _is_left_out(wishes, "https://other.net/", url=url) is is_left_out
    assert _is_left_out(wishes, url, url="https://other.net/") is is_left_out


LABELS = st.text("abcdefghij0123456789", min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=4), st.lists(LABELS, min_size=2, max_size=3), st.sampled_from(["", ":80"]))
def test_every_host_below_a_domain_is_left_out(below, domain, port):
    wishes = OptOut(frozenset([".".join(domain)]))
    assert _is_left_out(wishes, f"https://{'.'.join([*below, *domain])}{port}/x")
    assert not _is_left_out(wishes, f"https://{''.join(below)}-{'.'.join(domain)}{port}/x")


@pytest.mark.parametrize(
    ("author", "is_left_out"),
    [
        ("Ann Lee", True),
        ("  ann   LEE ", True),
        ("\uff21nn Lee", True),
        ("Bo Ek; Ann Lee", True),
        ("Bo Ek and Ann Lee", True),
        ("Bo Ek, Ann Lee", True),
        ("Lee, Ann", True),
        ("Joann Lee", False),
        ("Ann Leeson", False),
        ("", False),
    ],
)
def test_authors(tmp_path, author, is_left_out):
    wishes = _load(tmp_path, 'authors = ["Ann Lee", "Lee, Ann"]')
    assert _is_left_out(wishes, author=author) is is_left_out
    assert _is_left_out(wishes, creator=author) is is_left_out


def test_ids(tmp_path):
    document = Document.new("text", "file:a.txt#3", metadata={"id": "77"})
    child = document.edited("other")
    for id in (document.id, child.id, "file:a.txt#3", " 77 "):
        assert _load(tmp_path, json.dumps({"ids": [id]}), "w.json").judge(child).detail == f"id {id.strip()}"
    assert _load(tmp_path, 'ids = ["7"]').judge(child) == KEEP


@pytest.mark.parametrize(
    ("rules", "url", "is_left_out"),
    [
        (ROBOTS, "https://example.org/open", True),
        ("User-agent: *\nDisallow: /private/\n", "https://example.org/private/a", True),
        ("User-agent: *\nDisallow: /private/\n", "example.org/private/a", True),
        ("User-agent: *\nDisallow: /private/\n", "https://www.example.org/private/a", True),
        ("User-agent: *\nDisallow: /private/\n", "https://example.org/open", False),
        ("User-agent: *\nDisallow: /*.pdf$\n", "https://example.org/a/b.pdf", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b\n", "https://example.org/a/b", False),
        ("User-agent: Other\nDisallow: /\n", "https://example.org/", False),
        ("User-agent: CCBot\nDisallow: /\n", "https://other.net/", False),
    ],
)
def test_robots_rules_stand_in_the_file_or_beside_it(tmp_path, rules, url, is_left_out):
    (tmp_path / "robots.txt").write_text(rules)
    for value in (rules, "robots.txt"):
        wishes = _load(tmp_path, json.dumps({"robots": {"Example.org": value}}), "wishes.json")
        assert _is_left_out(wishes, url) is is_left_out


def test_the_rules_nearest_to_a_host_are_its_own():
    wishes = OptOut(robots={"example.org": ROBOTS, "open.example.org": "User-agent: *\nAllow: /\n"})
    assert not _is_left_out(wishes, "https://a.open.example.org/x")
    assert _is_left_out(wishes, "https://a.example.org/x")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "domains = [", "cannot be read"),
        ("a.toml", b'ids = ["\xff"]', "cannot be read"),
        ("a.toml", 'ids = ["a"]\nids = ["b"]', "cannot be read"),
        ("a.json", '{"ids": ["a"], "ids": ["b"]}', "'ids' stands there twice"),
        ("a.json", "[" * 200_000, "cannot be read"),
        ("a.json", "[]", "must be a table"),
        ("a.toml", 'domain = ["example.org"]', "'domain' is not one of"),
        ("a.toml", 'domains = "example.org"', "must be a list"),
        ("a.toml", 'authors = ["a", 3]', "must be a list"),
        ("a.toml", 'ids = [" "]', "must be a list"),
        ("a.toml", 'domains = ["https://example.org/"]', "not the name of a domain"),
        ("a.toml", 'domains = ["example.org:80"]', "not the name of a domain"),
        ("a.toml", 'domains = ["a.*.org"]', "not the name of a domain"),
        ("a.toml", 'domains = ["."]', "not the name of a domain"),
        ("a.toml", 'robots = ["example.org"]', "must be a table from"),
        ("a.toml", '[robots]\n"example.org" = 3', "must be a table from"),
        ("a.toml", '[robots]\n"example.org" = "missing.txt"', "cannot be read from missing.txt"),
        ("a.toml", '[robots]\n"example.org" = "a\\u0000b"', "cannot be read from"),
        ("a.toml", '[robots]\n"example.org" = "Disallow: /"', "no User-agent"),
        ("a.toml", '[robots]\n"example.org" = ""', "no User-agent"),
        ("a.toml", '[robots]\n"a.org" = "User-agent: *"\n"A.org" = "User-agent: *"', "stand there twice"),
    ],
)
def test_a_broken_file_is_refused_with_its_fault(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message) as caught:
        _load(tmp_path, text, name)
    assert name in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"^data\.rights\.opt_out: ") as raised:
            OptOut.load(str(path))
        assert str(path) in raised.value.message and raised.value.remedy
        assert raised.value.path == "data.rights.opt_out"


def test_wishes_travel_to_workers(tmp_path):
    wishes = _load(tmp_path, '\ufeffdomains = ["a.org"]\n[robots]\n"b.org" = "User-agent: *\\nDisallow: /"')
    again = pickle.loads(pickle.dumps(wishes))
    assert again == wishes and _is_left_out(again, "https://a.org") and _is_left_out(again, "https://b.org/x")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_address_breaks_it(address):
    wishes = OptOut(frozenset(["a.org"]), robots={"b.org": ROBOTS})
    assert isinstance(_is_left_out(wishes, address), bool)
    assert _is_left_out(wishes, f"https://b.org/{address}")
