"""Which licence a text, a page or a file states: by header, markup, address, or the words of the licence itself."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from preceptor.data.document import UNKNOWN_LICENCE
from preceptor.data.spdx import spdx

TextKind = Literal["html", "text", "code", "markdown"]

_HEAD_CHARACTERS, _TAIL_CHARACTERS = 8192, 4096
_QUOTE_CHARACTERS = 120
_TAG_CHARACTERS = 600
_MARKUP_WORDS = ("icense", "ICENSE", "icence", "ights", "IGHTS")
_HINT = re.compile(r"licen[cs]e|permission|redistribution|public domain|creative ?commons|copyleft", re.IGNORECASE)
_SPDX_HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{2,120})")
_CC_URL = re.compile(
    r"creativecommons\.org/(?:licenses/(by(?:-(?:nc|nd|sa)){0,2})/(\d\.\d)|(publicdomain/zero)/(1\.0))", re.IGNORECASE
)
_OTHER_URL = re.compile(
    r"(?:opensource\.org/licen[sc]es?/([A-Za-z0-9.-]{2,40})|spdx\.org/licenses/([A-Za-z0-9.-]{2,40})"
    r"|(apache\.org/licenses/LICENSE-2\.0)|gnu\.org/licenses/(?:old-licenses/)?((?:a|l|f)?(?:gpl|dl)-\d\.\d))",
    re.IGNORECASE,
)
_REL_LICENCE = re.compile(r"""\brel\s{0,3}=\s{0,3}["']?[a-z \t]{0,60}\blicense\b""", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s{0,3}=\s{0,3}["']?([^"'\s<>]{1,300})""", re.IGNORECASE)
_META_NAME = re.compile(
    r"""\b(?:name|property)\s{0,3}=\s{0,3}["']?(?:dcterms\.|dc\.|og:)?(?:license|licence|rights)\b""", re.IGNORECASE
)
_META_CONTENT = re.compile(r"""\bcontent\s{0,3}=\s{0,3}["']([^"']{1,300})["']""", re.IGNORECASE)
_JSON_LD = re.compile(r'"license"\s{0,9}:\s{0,9}"([^"]{1,300})"')

# What only that licence, or the notice by which it is given, says. All of a row must be there; the first row wins.
_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Apache-2.0", ("licensed under the apache license, version 2.0",)),
    ("Apache-2.0", ("apache license version 2.0, january 2004",)),
    ("MPL-2.0", ("subject to the terms of the mozilla public license, v. 2.0",)),
    ("AGPL-3.0-or-later", ("gnu affero general public license", "version 3", "any later version")),
    ("AGPL-3.0-only", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0-or-later", ("gnu lesser general public license", "version 3", "any later version")),
    ("LGPL-2.1-or-later", ("gnu lesser general public license", "version 2.1", "any later version")),
    ("LGPL-2.1-only", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0-or-later", ("gnu general public license", "version 3", "any later version")),
    ("GPL-2.0-or-later", ("gnu general public license", "version 2", "any later version")),
    ("GPL-3.0-only", ("under the terms of the gnu general public license", "version 3")),
    ("GPL-2.0-only", ("under the terms of the gnu general public license", "version 2")),
    ("GFDL-1.3-or-later", ("gnu free documentation license", "version 1.3", "any later version")),
    ("GFDL-1.2-or-later", ("gnu free documentation license", "version 1.2", "any later version")),
    (
        "MIT",
        ("permission is hereby granted, free of charge, to any person obtaining a copy", "this permission notice"),
    ),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "with or without modification")),
    ("ISC", ("permission to use, copy, modify, and", "for any purpose with or without fee is hereby granted")),
    ("Zlib", ("provided 'as-is', without any express or implied warranty", "altered source versions")),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
)
_CC_NAMES = re.compile(
    r"creative commons attribution((?:[- ](?:non-?commercial|no-?deriv(?:ative)?s?(?: works)?|share-?alike)){0,2})"
    r"(?: (?:international|public|unported|generic)){0,2}(?: licen[cs]e)?,? ?v?(?:ersion )?(\d\.\d)"
)
_CC_PARTS = (("commercial", "-NC"), ("deriv", "-ND"), ("alike", "-SA"))


@dataclass(frozen=True, slots=True)
class Evidence:
    """A licence that was found in a text: as SPDX, how it was found, and the words it was found by."""

    licence: str
    where: Literal["spdx-header", "rel-license", "meta", "json-ld", "licence-url", "licence-text"]
    quote: str


def detect(text: str, kind: TextKind) -> Evidence | None:
    """The licence that a text states for itself, or None; ``text`` is the page with its markup where it is a page.

    Looks at the beginning and the end of a text, where notices stand. What is stated by markup made for it wins over
    an address, and an address over words.
    """
    head = text[:_HEAD_CHARACTERS]
    tail = text[max(_HEAD_CHARACTERS, len(text) - _TAIL_CHARACTERS) :]
    if kind == "html":
        return _from_markup(text) or _from_words(head, tail)
    if not _HINT.search(head) and not _HINT.search(tail):
        return None
    if header := _SPDX_HEADER.search(head):
        licence = spdx(header[1].strip().removesuffix("*/").strip())
        if licence is not None and licence != UNKNOWN_LICENCE:
            return Evidence(licence, "spdx-header", _quote(header[0]))
    return _from_urls(head + "\n" + tail) or _from_words(head, tail)


def _from_markup(page: str) -> Evidence | None:
    """What a page says of itself by rel, meta or JSON-LD, in this order; else by the one licence that it links."""
    found: dict[str, Evidence] = {}
    for tag in _tags_about_licences(page):
        if _REL_LICENCE.search(tag) and (href := _HREF.search(tag)) and (licence := licence_of_url(href[1])):
            found.setdefault("rel-license", Evidence(licence, "rel-license", _quote(tag)))
        elif _META_NAME.search(tag) and (content := _META_CONTENT.search(tag)) and (licence := _stated(content[1])):
            found.setdefault("meta", Evidence(licence, "meta", _quote(tag)))
    if '"license"' in page:
        for entry in _JSON_LD.finditer(page):
            if licence := _stated(entry[1].replace("\\/", "/")):
                found.setdefault("json-ld", Evidence(licence, "json-ld", _quote(entry[0])))
    for where in ("rel-license", "meta", "json-ld"):
        if where in found:
            return found[where]
    return _from_urls(page)


def _tags_about_licences(page: str) -> Iterator[str]:
    """Each tag in which a word for licences stands; found by plain search, since a page is mostly something else."""
    for word in _MARKUP_WORDS:
        place = page.find(word)
        while place >= 0:
            if tag := _tag_around(page, place):
                yield tag
            place = page.find(word, place + 1)


def _tag_around(page: str, place: int) -> str:
    """The tag that an attribute stands in; the empty string where it stands in none of a sane length."""
    start = page.rfind("<", max(0, place - _TAG_CHARACTERS), place)
    end = page.find(">", place, place + _TAG_CHARACTERS)
    return page[start : end + 1] if 0 <= start < end else ""


def _stated(words: str) -> str:
    """The licence that a field made for one holds, as an address or a name."""
    if licence := licence_of_url(words):
        return licence
    licence = spdx(words) or ""
    return "" if licence == UNKNOWN_LICENCE else licence


def _from_urls(text: str) -> Evidence | None:
    """The one licence whose address stands in a text; where several stand, it speaks about licences."""
    if "creativecommons.org" not in text:
        return None
    found = {licence: match[0] for match in _CC_URL.finditer(text) if (licence := licence_of_url(match[0]))}
    if len(found) != 1:
        return None
    ((licence, quote),) = found.items()
    return Evidence(licence, "licence-url", _quote(quote))


def licence_of_url(url: str) -> str:
    """The SPDX id of the licence that has an address, or the empty string."""
    if match := _CC_URL.search(url):
        return "CC0-1.0" if match[3] else f"CC-{match[1].upper()}-{match[2]}"
    if match := _OTHER_URL.search(url):
        if match[3]:
            return "Apache-2.0"
        name = match[1] or match[2] or match[4] or ""
        name = f"{name}-only" if match[4] and not name.lower().startswith("fdl") else name
        name = f"GFDL-{name[-3:]}-only" if name.lower().startswith("fdl") else name
        licence = spdx(name) or ""
        return "" if licence == UNKNOWN_LICENCE else licence
    return ""


def _from_words(head: str, tail: str) -> Evidence | None:
    """The licence whose own words stand in a text."""
    words = " ".join((head + " " + tail).lower().split())
    # Marks of comments and quotation stand between the words of a notice.
    words = re.sub(r" (?:[#*;%>]|//|--|\.\.) ", " ", words)
    for licence, phrases in _PHRASES:
        if all(phrase in words for phrase in phrases):
            return Evidence(licence, "licence-text", phrases[0])
    if match := _CC_NAMES.search(words):
        parts = "".join(code for part, code in _CC_PARTS if part in match[1])
        if named := spdx(f"CC-BY{parts}-{match[2]}"):
            return Evidence(named, "licence-text", _quote(match[0]))
    return None


def _quote(words: str) -> str:
    return " ".join(words.split())[:_QUOTE_CHARACTERS]
