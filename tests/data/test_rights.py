"""What a text states of its licence is found, what it merely says of licences is not, and the policy judges both."""

import itertools
import re

import growth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError
from preceptor.data import licence_text
from preceptor.data.document import KEEP, Document
from preceptor.data.licence_text import Evidence, detect, licence_of_url
from preceptor.data.rights import Policy, RightsConfig, settle
from preceptor.data.spdx import _spdx, licensing, normalise_licence, spdx

GPL = (
    "This program is free software: you can redistribute it and/or modify\n"
    "it under the terms of the GNU General Public License as published by\n"
    "the Free Software Foundation, either version 3 of the License, or\n"
    "(at your option) any later version."
)
NOTICES = {
    "GPL-3.0-or-later": GPL,
    "GPL-2.0-or-later": GPL.replace("version 3", "version 2"),
    "GPL-2.0-only": GPL.replace("either version 3 of the License, or\n(at your option) any later version", "version 2"),
    "AGPL-3.0-or-later": GPL.replace("General", "Affero General"),
    "LGPL-2.1-or-later": GPL.replace("General", "Lesser General").replace("version 3", "version 2.1"),
    "Apache-2.0": 'Licensed under the Apache License, Version 2.0 (the "License");\nyou may not use this file except',
    "MPL-2.0": "This Source Code Form is subject to the terms of the Mozilla Public\nLicense, v. 2.0.",
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining\na copy of this software, to deal in "
    "the Software without restriction, including",
    "ISC": "Permission to use, copy, modify, and/or distribute this software\nfor any purpose with or without fee is "
    "hereby granted, provided that the above copyright notice appears.",
    "0BSD": "Permission to use, copy, modify, and/or distribute this software\nfor any purpose with or without fee is "
    "hereby granted.",
    "MIT-0": "Permission is hereby granted, free of charge, to any person obtaining\na copy of this software, without "
    "restriction, and to permit persons to whom it is furnished to do so.",
    "JSON": "Permission is hereby granted, free of charge, to any person obtaining\na copy of this software, without "
    "restriction.\nThe Software shall be used for Good, not Evil.",
    "BSD-2-Clause": "Redistribution and use in source and binary forms, with or without\nmodification, are permitted "
    "provided that the following conditions are met:",
    "BSD-3-Clause": "Redistribution and use in source and binary forms, with or without\nmodification, are permitted "
    "provided that\n3. Neither the name of the author",
    "Unlicense": "This is free and unencumbered software released into\nthe public domain.",
    "CC-BY-SA-4.0": "This work is licensed under a Creative Commons\nAttribution-ShareAlike 4.0 International License.",
    "CC-BY-NC-ND-3.0": "These notes are licensed under the Creative Commons\n"
    "Attribution-NonCommercial-NoDerivs 3.0 Unported License.",
}
COMMENTS = (("", "", ""), ("", "# ", ""), ("", "// ", ""), ("/*\n", " * ", "\n */"), ("<!--\n", "", "\n-->"))
COMMENTS += (("", "-- ", ""), ("", ";; ", ""), ("", "% ", ""), ("", "/// ", ""), ("", "> ", ""), ("", "dnl ", ""))
FILLER = "\n\nThe river runs from the hills to the sea, past mills and small towns.\n" * 8
HOME = "https://creativecommons.org/licenses"
PAGES = {
    f'<link rel="license" href="{HOME}/by/4.0/">': "CC-BY-4.0",
    f"<a class=x rel='license nofollow' href='{HOME}/by-sa/3.0/deed.de'>": "CC-BY-SA-3.0",
    "<a href=https://www.gnu.org/licenses/fdl-1.3.html rel=license>": "GFDL-1.3-only",
    '<meta name="dcterms.license" content="Apache License, Version 2.0">': "Apache-2.0",
    "<meta property='og:rights' content=\"CC BY-NC 4.0\">": "CC-BY-NC-4.0",
    f'<script type="application/ld+json">{{"@type": "Article", "license": "{HOME}/by/4.0"}}</script>': "CC-BY-4.0",
    '<script type="application/ld+json">{"@graph": [{"license": {"@id": "https://spdx.org/licenses/MIT"}}]}</script>'
    "": "MIT",
    f"<p>Content is licensed under <a href='{HOME}/by-nd/4.0/'>this licence</a></p>": "CC-BY-ND-4.0",
    "<p>This page is licensed under the <b>MIT</b> License</p>": "MIT",
}
CREDITS = [
    f"Photo by Ann Lee, licensed under {HOME}/by/4.0/",
    f"Photo by A. Lee,\nlicensed under {HOME}/by/4.0/",
    "Image: the mill, licensed under CC BY 4.0",
    "Cover art by Ann, released under the Creative Commons Attribution 4.0 International License",
    "Icon by Bo, licensed under the Apache License, Version 2.0",
    f"Music: River Song, available under {HOME}/by-sa/3.0/",
    f"Copyright of the image by Bo: {HOME}/by-sa/3.0/",
]
SILENT = [
    *(("text", credit) for credit in CREDITS),
    ("html", f"<p>Photo by <b>Ann</b>, licensed under <a href='{HOME}/by/4.0/'>CC BY</a></p>"),
    ("text", f"This text is licensed under {HOME}/by/9.9/"),
    ("text", "This text is licensed under CC BY 9.9"),
    ("html", f'<a rel="license" href="{HOME}/by/9.9/">'),
    ("html", "<p>Write SPDX-License-Identifier: MIT</p>"),
    ("text", "Many programs use the MIT License. What does such a license permit?"),
    ("text", "The kernel is licensed under the GNU General Public License version 2."),
    ("text", "If this work is licensed under the MIT License, you may copy it."),
    ("text", "This file is not licensed under the Apache License, Version 1.1 but differs."),
    ("text", "Write SPDX-License-Identifier: MIT at the beginning of a file."),
    ("code", 'HEADER = "# SPDX-License-Identifier: MIT"\n'),
    ("code", "# SPDX-License-Identifier: Our-Own-Thing\n"),
    ("markdown", "Begin with:\n\n```\n# SPDX-License-Identifier: MIT\n```\n"),
    ("text", f"{NOTICES['Apache-2.0']} And the MIT License, the BSD License and the Mozilla Public License differ."),
    ("text", f"Compare {HOME}/by/4.0/ with {HOME}/by-sa/4.0/, licensed differently."),
    ("html", f"<p>Read <a href='{HOME}/by/4.0/'>it</a> if you like.</p>"),
    ("html", f"<p>licensed under <a href='{HOME}/by/4.0/'>a</a> or <a href='{HOME}/by-sa/4.0/'>b</a></p>"),
    ("html", '<pre>{"name": "x", "license": "MIT"}</pre>'),
    ("html", '<script type="application/ld+json">{"@type": "ImageObject", "license": "MIT"}</script>'),
    ("html", '<script type="application/ld+json">{"license": "MIT"'),
    ("html", '<meta name="license" content="all rights reserved">'),
    ("html", "&lt;a rel=license href=https://creativecommons.org/licenses/by/4.0/&gt;"),
    ("html", '<meta name="copyrights-license-help" content="MIT">'),
]


def labelled():
    """Files with the licence that each states, or the empty string: made of notices, comments, markup and none."""
    for (licence, notice), (start, prefix, end) in itertools.product(NOTICES.items(), COMMENTS):
        body = start + "\n".join(prefix + line for line in notice.splitlines()) + end
        yield "code", body + FILLER, licence
        yield "text", FILLER * 30 + body, licence
    for licence, (start, prefix, end) in itertools.product(("MIT", "GPL-2.0-only", "Apache-2.0 OR MIT"), COMMENTS):
        yield "code", f"{start}{prefix}SPDX-License-Identifier: {licence}{end}{FILLER}", licence
    for page, licence in PAGES.items():
        yield "html", f"<html><body>{FILLER}{page}{FILLER * 30}</body></html>", licence
    for kind, text in SILENT:
        yield kind, text, ""
        yield kind, FILLER + text + FILLER, ""


def test_detection_on_a_labelled_set():
    right = found = stated = 0
    wrong = []
    for kind, text, licence in labelled():
        evidence = detect(text, kind)
        stated += bool(licence)
        found += evidence is not None
        is_right = evidence is not None and evidence.licence == licence
        right += is_right
        if bool(licence) != is_right or (evidence and not licence):
            wrong.append((licence, evidence, text.strip()[:80]))
    assert stated > 300
    assert right / stated >= 0.98, wrong
    assert right / found >= 0.99, wrong


@pytest.mark.parametrize(("page", "licence"), PAGES.items())
def test_page(page, licence):
    evidence = detect(page, "html")
    assert evidence is not None and evidence.licence == licence and evidence.quote


@pytest.mark.parametrize(("kind", "text"), SILENT)
def test_nothing_is_stated(kind, text):
    assert detect(text, kind) is None


def test_markup_for_it_wins_over_words_and_says_where():
    page = f'<p>This page is licensed under the MIT License<a rel="license" href="{HOME}/by/4.0/">x</a>'
    assert detect(page, "html").where == "rel-license"
    assert detect(NOTICES["MIT"], "code").where == "licence-text"
    assert detect("# SPDX-License-Identifier: ISC\n# " + NOTICES["MIT"], "code").licence == "ISC"
    assert detect(f"Licensed under it, see {HOME}/by/4.0/", "text").where == "licence-url"


def test_several_of_one_rank_must_all_be_kept_to():
    assert detect("# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: ISC OR 0BSD\n", "code").licence == (
        "(ISC OR 0BSD) AND MIT"
    )
    links = "".join(f'<a rel="license" href="{HOME}/{kind}/4.0/">' for kind in ("by-nc", "by"))
    assert detect(links, "html").licence == "CC-BY-4.0 AND CC-BY-NC-4.0"
    many = "".join(
        f'<a rel=license href="{HOME}/{k}/{v}/">' for k in ("by", "by-nc", "by-nd") for v in ("2.0", "3.0", "4.0")
    )
    assert detect(many, "html") is None


@pytest.mark.parametrize(
    ("url", "licence"),
    [
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://opensource.org/licenses/MIT.", "MIT"),
        ("https://opensource.org/license/bsd-3-clause", "BSD-3-Clause"),
        ("https://spdx.org/licenses/0BSD.html", "0BSD"),
        ("http://www.apache.org/licenses/LICENSE-2.0.txt", "Apache-2.0"),
        ("https://www.gnu.org/licenses/lgpl-3.0.html", "LGPL-3.0-only"),
        ("https://mozilla.org/MPL/2.0/", "MPL-2.0"),
        ("https://spdx.org/licenses/nothing-such", ""),
        ("https://example.org/", ""),
    ],
)
def test_addresses(url, licence):
    assert licence_of_url(url) == licence


HOSTILE = ["icense ", "<a rel=license ", "<", "rel=license href=", f"{HOME}/by/4.0 ", "https://spdx.org/licenses/MIT "]
HOSTILE += ["SPDX-License-Identifier: ", "this licensed ", '<script ld+json>"license"', "# \n", "<meta name=license "]


@pytest.mark.parametrize("kind", ["html", "text"])
def test_time_grows_in_line_with_the_text(kind):
    for atom in HOSTILE:
        growth.assert_in_line(lambda text: detect(text, kind), atom)


@pytest.mark.parametrize("kind", ["html", "text", "code", "markdown"])
def test_no_expression_is_run_on_a_page_that_states_nothing(kind, monkeypatch):
    for name, value in list(vars(licence_text).items()):
        if isinstance(value, re.Pattern):
            monkeypatch.setattr(licence_text, name, None)
    assert detect("<p>The quick brown fox jumps over it.</p>\n" * 98, kind) is None
    with pytest.raises(AttributeError, match="NoneType"):
        detect(GPL, kind)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*HOSTILE, *PAGES, *NOTICES.values(), "\x00", "\ud800", "<", ">", '"']), max_size=6))
def test_whatever_is_found_is_an_expression(parts):
    for kind in ("html", "text", "code", "markdown"):
        if evidence := detect("".join(parts), kind):
            assert licensing().parse(evidence.licence, validate=True) is not None
            assert evidence.quote and "\n" not in evidence.quote


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gplv3+", "GPL-3.0-or-later"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("The MIT License", "MIT"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("LicenseRef-House OR MIT", "LicenseRef-House OR MIT"),
        ("NOASSERTION", "unknown"),
        (" ", "unknown"),
        ("all rights reserved", None),
        ("MIT AND Foo", None),
        ("LicenseRef-a AND Foo", None),
        ("()", None),
        ("M" * 300, None),
    ],
)
def test_spdx(text, meant):
    assert spdx(text) == meant


def test_an_expression_that_is_none_is_refused_with_its_place():
    with pytest.raises(ConfigError, match=r"sources.a.*'Foo'"):
        normalise_licence("Foo", "sources.a")


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (f"Photo: the mill.\nThis text is licensed under {HOME}/by/4.0/", "CC-BY-4.0"),
        (
            f"Photo by Ann, licensed under {HOME}/by/4.0/\n\nThis text is licensed under {HOME}/by-sa/4.0/",
            "CC-BY-SA-4.0",
        ),
        ("Image: the mill. This work is licensed under CC BY 4.0.", "CC-BY-4.0"),
        ("This work is licensed under the Creative Commons Attribution-Share Alike 3.0 license", "CC-BY-SA-3.0"),
        ("This work is licensed under the Creative Commons Attribution Share Alike 3.0 license", "CC-BY-SA-3.0"),
        ("This software is released under the MIT-0 license", "MIT-0"),
        ("This software is released under the BSD Zero Clause license", "0BSD"),
        (NOTICES["BSD-2-Clause"] + " The name of the author may not be used to endorse or promote it", "BSD-3-Clause"),
        (NOTICES["BSD-3-Clause"] + " All advertising materials must say so", "BSD-4-Clause"),
    ],
)
def test_what_looks_alike_is_told_apart(text, licence):
    assert detect(text, "text").licence == licence


def test_a_header_in_a_comment_of_a_page():
    for start, end in (("<!-- ", " -->"), ("<html><!--\n  ", "\n-->")):
        evidence = detect(f"{start}SPDX-License-Identifier: MIT{end}<p>words</p>", "html")
        assert (evidence.licence, evidence.where) == ("MIT", "spdx-header")


def test_strange_licences_of_millions_of_documents_are_not_all_kept():
    policy = Policy(RightsConfig())
    for number in range(5000):
        spdx(f"strange {number}")
        policy.judge(Document.new("t", "s", licence=f"LicenseRef-{number}"))
    assert _spdx.cache_info().currsize <= 4096 and len(policy._known) <= 4096
    long = " AND ".join(f"LicenseRef-{number}" for number in range(200))
    assert spdx(long) is None and settle("MIT", _found(long))[0] == "unknown"
    assert _drops(long, allow=("LicenseRef-*",)) == "unknown-licence"


def _found(licence):
    return Evidence(licence, "meta", "words")


@pytest.mark.parametrize(
    ("declared", "found", "settled"),
    [
        ("unknown", "MIT", "MIT"),
        ("MIT", "MIT", "MIT"),
        ("MIT", "CC-BY-4.0", "CC-BY-4.0 AND MIT"),
        ("MIT AND ISC", "ISC", "MIT AND ISC"),
        ("MIT", "ISC OR MIT", "MIT"),
        # Whoever may choose by what is declared may not by what the text says.
        ("MIT OR GPL-3.0-only", "GPL-3.0-only", "GPL-3.0-only"),
        ("ISC OR MIT", "CC-BY-4.0", "CC-BY-4.0 AND (ISC OR MIT)"),
    ],
)
def test_declared_and_detected_are_both_kept_to(declared, found, settled):
    licence, notes = settle(declared, _found(found))
    assert licence == settled
    assert notes == ({} if licence == declared else {"licence_from": "meta: words"})


def test_what_the_record_states_wins_over_its_source():
    assert settle("MIT", None, "CC BY 4.0") == ("CC-BY-4.0", {})
    assert settle("MIT", None, "ask us") == ("unknown", {"stated_licence": "ask us"})
    licence, notes = settle("MIT", _found("ISC"), "ask us")
    assert licence == "unknown" and notes == {"stated_licence": "ask us", "licence_from": "meta: words"}
    assert settle("MIT", _found("ISC"), "unknown")[0] == "ISC"


IDS = st.sampled_from(["MIT", "ISC", "CC-BY-4.0", "GPL-3.0-only", "Apache-2.0"])
EXPRESSIONS = st.recursive(
    IDS, lambda inner: st.builds("({}) {} ({})".format, inner, st.sampled_from(["AND", "OR"]), inner), max_leaves=5
)


def _drops(licence, **policy):
    verdict = Policy(RightsConfig(**policy)).judge(Document.new("t", "s", licence=licence, consent="granted"))
    return "" if verdict == KEEP else verdict.rule


@settings(deadline=None)
@given(EXPRESSIONS, EXPRESSIONS, st.sets(IDS, min_size=1).map(sorted).map(tuple))
def test_settled_may_train_only_where_both_may(declared, found, allow):
    may = [_drops(licence, allow=allow) == "" for licence in (declared, found)]
    settled = settle(declared, _found(found))[0]
    if _drops(settled, allow=allow) == "":
        assert all(may)
    assert (_drops(f"({declared}) AND ({found})", allow=allow) == "") == all(may)
    assert (_drops(f"({declared}) OR ({found})", allow=allow) == "") == any(may)


@pytest.mark.parametrize(
    ("licence", "policy", "rule"),
    [
        ("MIT", {}, ""),
        ("unknown", {}, "unknown-licence"),
        ("unknown", {"unknown": "keep"}, ""),
        ("CC-BY-4.0", {"allow": ("CC-BY-*",)}, ""),
        ("CC-BY-NC-4.0", {"allow": ("CC-BY-*",), "deny": ("*-NC-*",)}, "licence-denied"),
        ("MIT", {"allow": ("MIT",), "deny": ("mit",)}, "licence-denied"),
        ("MIT OR GPL-3.0-only", {"deny": ("GPL-*",)}, ""),
        ("MIT AND GPL-3.0-only", {"deny": ("GPL-*",)}, "licence-denied"),
        ("MIT AND ISC", {"allow": ("MIT",)}, "licence-not-allowed"),
        ("GPL-2.0-or-later", {"allow": ("GPL-3.0-only",)}, ""),
        ("GPL-3.0-or-later", {"allow": ("GPL-2.0-only",)}, "licence-not-allowed"),
        ("GPL-2.0-only", {"allow": ("GPL-3.0-only",)}, "licence-not-allowed"),
        ("LGPL-2.1-or-later", {"allow": ("GPL-3.0-only",)}, "licence-not-allowed"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", {"allow": ("GPL-2.0-only",)}, ""),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", {"allow": ("GPL-3.0-only",)}, ""),
        ("GPL-2.0-only WITH Classpath-exception-2.0", {"deny": ("GPL-2.0",)}, "licence-denied"),
        ("LicenseRef-House", {}, "licence-not-allowed"),
        ("LicenseRef-House", {"allow": ("*",)}, "licence-not-allowed"),
        ("LicenseRef-House", {"allow": ("LicenseRef-House",)}, ""),
        ("LicenseRef-House OR MIT", {"deny": ("LicenseRef-*",)}, ""),
    ],
)
def test_policy(licence, policy, rule):
    assert _drops(licence, **policy) == rule


def test_consent_is_asked_for_after_the_licence():
    policy = Policy(RightsConfig(consent=("granted",)))
    verdict = policy.judge(Document.new("t", "s", licence="MIT", consent="by-licence"))
    assert verdict.rule == "consent-missing" and "by-licence" in verdict.detail
    stated = policy.judge(Document.new("t", "s", metadata={"stated_licence": "ask us"}))
    assert stated.rule == "unknown-licence" and "ask us" in stated.detail


@pytest.mark.parametrize("pattern", ["CCBY-*", "MIT OR ISC", "unknown", " ", "Foo"])
def test_a_pattern_that_can_match_nothing_is_refused(pattern):
    with pytest.raises(ValueError, match="allow must hold"):
        RightsConfig(allow=(pattern,))
    with pytest.raises(ValueError, match="consent"):
        RightsConfig(consent=())
