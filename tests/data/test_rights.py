"""Rights: what licence a text states, which one counts, what may train, and who asked to be left out."""

import pickle
import time

import pytest

from preceptor.core.errors import DataError
from preceptor.data.document import KEEP, Document, Drop
from preceptor.data.opt_out import OptOut
from preceptor.data.rights import Policy, RightsConfig, detect, settle

CC = "https://creativecommons.org/licenses"
GPL_NOTICE = """# This program is free software: you can redistribute it and/or modify it
# under the terms of the GNU General Public License as published by
# the Free Software Foundation, either version 3 of the License, or
# (at your option) any later version.
"""
STATED = [
    ("code", "# SPDX-License-Identifier: Apache-2.0\nimport os\n", "Apache-2.0", "spdx-header"),
    ("code", "/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */\n", "GPL-2.0-only OR MIT", "spdx-header"),
    ("code", GPL_NOTICE, "GPL-3.0-or-later", "licence-text"),
    ("text", "Licensed under the Apache License, Version 2.0 (the License);", "Apache-2.0", "licence-text"),
    ("html", f'<p><a href="{CC}/by-nc-sa/3.0/" rel="license noopener">x</a>', "CC-BY-NC-SA-3.0", "rel-license"),
    ("html", f"<link rel='license' href='{CC}/by/4.0'>", "CC-BY-4.0", "rel-license"),
    ("html", '<meta name="dcterms.license" content="MIT">', "MIT", "meta"),
    (
        "html",
        '<script>{"license": "https:\\/\\/spdx.org\\/licenses\\/BSD-3-Clause"}</script>',
        "BSD-3-Clause",
        "json-ld",
    ),
    ("html", "<a rel=license href=https://creativecommons.org/publicdomain/zero/1.0/>", "CC0-1.0", "rel-license"),
    ("markdown", f"This page is under [CC BY-SA]({CC}/by-sa/4.0/).", "CC-BY-SA-4.0", "licence-url"),
    (
        "text",
        "It may be used under the Creative Commons Attribution-NoDerivatives 4.0 International License.",
        "CC-BY-ND-4.0",
        "licence-text",
    ),
]
SILENT = [
    ("text", "The driver's licence office opens at nine, and permission slips are due on Monday."),
    ("html", f'<a href="{CC}/by/4.0/">one</a> and <a href="{CC}/by-sa/4.0/">another licence</a> compared'),
    ("html", '<p>How to write rel="license" in a page</p>'),
    ("code", "license = input('which licence? ')\n"),
    ("text", "The GNU General Public License is a licence that many programs are under."),
]


@pytest.mark.parametrize(("kind", "text", "licence", "where"), STATED)
def test_a_licence_that_a_text_states_is_found_with_the_words_that_state_it(kind, text, licence, where):
    found = detect(text, kind)
    assert found is not None and (found.licence, found.where) == (licence, where) and found.quote
    padded = detect(f"{text}\n{'filling words ' * 3000}", kind)
    assert padded is not None and padded.licence == licence


@pytest.mark.parametrize(("kind", "text"), SILENT)
def test_a_text_that_speaks_of_licences_states_none(kind, text):
    assert detect(text, kind) is None


def test_time_grows_in_line_with_a_hostile_page():
    for piece in (
        'rel="license" ',
        "<a license ",
        '"license": "',
        "creativecommons.org/licenses/by-",
        "<meta name=license ",
    ):
        seconds = []
        for size in (200_000, 400_000):
            page = piece * (size // len(piece))
            started = time.process_time()
            detect(page, "html")
            seconds.append(time.process_time() - started)
        assert seconds[1] < 3.5 * seconds[0] + 0.05, piece


def test_what_a_record_states_wins_and_what_conflicts_must_both_be_kept_to():
    evidence = detect("SPDX-License-Identifier: GPL-2.0-or-later", "code")
    assert settle("MIT", None) == ("MIT", {})
    assert settle("MIT", None, "cc by 4.0")[0] == "CC-BY-4.0"
    assert settle("MIT", None, "free as in beer") == ("unknown", {"stated_licence": "free as in beer"})
    licence, notes = settle("unknown", evidence)
    assert licence == "GPL-2.0-or-later" and notes["licence_from"].startswith("spdx-header")
    both, notes = settle("MIT", evidence)
    assert both == "GPL-2.0-or-later AND MIT" and "licence_from" in notes
    assert settle("MIT OR GPL-2.0-or-later", evidence)[0] == "MIT OR GPL-2.0-or-later"


def judge(licence, **policy):
    return Policy(RightsConfig(**policy)).judge(Document.new("t", "s", licence=licence, consent="by-licence"))


@pytest.mark.parametrize(
    ("licence", "policy", "rule"),
    [
        ("unknown", {}, "unknown-licence"),
        ("unknown", {"unknown": "keep"}, ""),
        ("MIT", {}, ""),
        ("CC-BY-NC-4.0", {"deny": ("*-NC-*",)}, "licence-denied"),
        ("CC-BY-NC-4.0", {"allow": ("CC-*",), "deny": ("*-NC-*",)}, "licence-denied"),
        ("Apache-2.0", {"allow": ("MIT",)}, "licence-not-allowed"),
        ("Apache-2.0 OR MIT", {"allow": ("MIT",)}, ""),
        ("Apache-2.0 AND MIT", {"allow": ("MIT",)}, "licence-not-allowed"),
        ("Apache-2.0 AND MIT", {"allow": ("MIT", "Apache-2.0")}, ""),
        ("GPL-2.0-or-later", {"allow": ("GPL-3.0-only",)}, ""),
        ("GPL-3.0-or-later", {"allow": ("GPL-2.0-only",)}, "licence-not-allowed"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", {"allow": ("GPL-2.0-only",)}, ""),
        ("MIT OR CC-BY-NC-4.0", {"deny": ("*-NC-*",)}, ""),
        ("MIT AND CC-BY-NC-4.0", {"deny": ("*-NC-*",)}, "licence-denied"),
    ],
)
def test_the_policy_says_what_may_train(licence, policy, rule):
    verdict = judge(licence, **policy)
    assert (verdict.rule if isinstance(verdict, Drop) else "") == rule


def test_consent_can_be_required():
    policy = Policy(RightsConfig(consent=("granted",)))
    assert policy.judge(Document.new("t", "s", licence="MIT", consent="granted")) is KEEP
    assert policy.judge(Document.new("t", "s", licence="MIT", consent="unknown")).rule == "consent-missing"
    with pytest.raises(ValueError, match="allow must hold SPDX ids"):
        RightsConfig(allow=("free as in beer",))


def wishes(tmp_path):
    path = tmp_path / "opt-out.toml"
    path.write_text(
        'domains = ["example.org"]\nauthors = ["Ann  Author"]\nids = ["file:a.txt", "17"]\n'
        '[robots]\n"news.test" = """User-agent: *\nDisallow: /private\nUser-agent: GPTBot\nDisallow: /*/archive$"""\n'
    )
    return pickle.loads(pickle.dumps(OptOut.load(str(path))))


@pytest.mark.parametrize(
    ("fields", "is_out"),
    [
        ({"origin": "https://example.org/a"}, True),
        ({"origin": "https://www.blog.example.org:8080/a"}, True),
        ({"origin": "https://notexample.org/a"}, False),
        ({"metadata": {"author": "ann author"}}, True),
        ({"metadata": {"author": "Ann Authority"}}, False),
        ({"metadata": {"id": "17"}}, True),
        ({"metadata": {"id": "170"}}, False),
        ({"source": "file:a.txt"}, True),
        ({"origin": "https://news.test/private/x"}, True),
        ({"origin": "https://news.test/2024/archive"}, True),
        ({"origin": "https://news.test/2024/archive/old"}, False),
        ({"origin": "https://news.test/open"}, False),
        ({"origin": "http://[broken"}, False),
    ],
)
def test_a_wish_is_found_and_nothing_else(tmp_path, fields, is_out):
    fields = {"source": "file:b.txt", **fields}
    verdict = wishes(tmp_path).judge(Document.new("text", **fields))
    assert (isinstance(verdict, Drop) and verdict.rule == "opted-out") == is_out


@pytest.mark.parametrize(
    ("content", "words"),
    [("domain = ['a']", "'domain' is not one of"), ("domains = 'a'", "list"), ("domains = [", "cannot be read")],
)
def test_a_wish_that_is_not_understood_is_refused(tmp_path, content, words):
    path = tmp_path / "opt-out.toml"
    path.write_text(content)
    with pytest.raises(DataError, match=words) as raised:
        OptOut.load(str(path))
    assert "opt-out.toml" in str(raised.value) and raised.value.remedy
