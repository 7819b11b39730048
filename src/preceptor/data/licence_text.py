"""Which licence a text, a page or a file states: by header, markup, the words of a notice, or an address."""

import html
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from preceptor.data.document import UNKNOWN_LICENCE
from preceptor.data.spdx import CC_URL, OTHER_URL, licence_of_url, spdx

TextKind = Literal["html", "text", "code", "markdown"]
Where = Literal["spdx-header", "rel-license", "meta", "json-ld", "licence-url", "licence-text"]

_HEAD_CHARACTERS, _TAIL_CHARACTERS = 8192, 8192
_QUOTE_CHARACTERS = 120
_TAG_CHARACTERS = 600
_MAX_LICENCES = 8
"""A text that states more than these at one place is a list of licences and states none."""
_MAX_NAMES = 3
"""A text that names so many families of licences speaks about licences."""
_HINTS = (
    "licen",
    "permission",
    "redistribution",
    "creative commons",
    "creativecommons",
    "unencumbered",
    "cc by",
    "gpl",
)
_MARKUP_WORDS = ("icense", "ICENSE", "icence", "ICENCE", "ights", "IGHTS")

# An SPDX header has a line of its own: before it stand at most marks of a comment, after it the end of the comment.
_SPDX_HEADER = re.compile(
    r"^(?:[^\w\n]{0,12}|[ \t]{0,8}(?:REM|rem|dnl|C)[ \t]{1,8})SPDX-License-Identifier:[ \t]{0,8}"
    r"([A-Za-z0-9][A-Za-z0-9.+:() -]{1,199}?)[ \t]{0,8}(?:\*/|-{2,3}>|\*\)|#\}|%>|\*{1,80}|#{1,80})?[ \t]{0,8}\r?$",
    re.MULTILINE,
)
_URL_HINTS = (
    "creativecommons.org/",
    "/license/",
    "/licenses/",
    "/licence/",
    "/licences/",
    ".org/mpl/",
    ".org/en-us/mpl/",
)
_URL_CUE = re.compile(
    r"licen[cs]ed|(?:available|released|distributed|published|provided|shared) under|licen[cs]e\s?:|copyright|©|&copy;"
    r"|otherwise (?:noted|stated)|the licen[cs]e (?:of|for) this",
    re.IGNORECASE,
)
_CUE_BEFORE, _CUE_AFTER, _MAX_LOOKS = 250, 120, 100
# "Photo by Ann, licensed under ..." gives a picture away, not the text that it stands in, unless it goes on to say so.
_CREDIT = re.compile(
    r"\b(?:photo(?:graph|graphy)?|image|picture|cover(?: art| image| photo| design)?|icon|music|illustration|artwork"
    r"|art|video|audio|drawing|painting|logo|map)s?(?: credits?)?"
    r"(?:\s?:|(?: \w{1,20}){0,2} (?:by|courtesy of)\b|,?(?: is| are)? licen[cs]ed\b)"
    r"(?!.*(?<!for )(?<!of )(?<!in )\b(?:this|these|our|all|the) (?:text|content|page|work|article|book|document|site"
    r"|post|file|software|program|documentation|material)s?\b)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END = re.compile(
    r"[a-z0-9)\]]{2}[.!?]\s|\n\s{0,80}\n|(?<![,\n])(?<! by)\n(?=\s{0,80}[A-Z©])"
    r"|</?(?:p|div|li|br|td|tr|h[1-6]|footer)\b"
)
_REL_LICENCE = re.compile(r"""\brel\s{0,3}=\s{0,3}["']?[a-z \t]{0,60}\blicense\b""", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s{0,3}=\s{0,3}["']?([^"'\s<>]{1,300})""", re.IGNORECASE)
_META_NAME = re.compile(
    r"""\b(?:name|property|itemprop)\s{0,3}=\s{0,3}["']?(?:dcterms\.|dc\.|og:)?(?:license|licence|rights)["'\s/>]""",
    re.IGNORECASE,
)
_META_CONTENT = re.compile(r"""\bcontent\s{0,3}=\s{0,3}(?:"([^"]{1,300})"|'([^']{1,300})')""", re.IGNORECASE)
_OTHER_THINGS = ("Image", "Video", "Audio", "Media", "Photograph", "Dataset", "Software")
"""Beginnings of schema.org types whose licence is that of a thing on the page, not that of its text."""
_SPDX_IN_COMMENT = re.compile(
    r"<!--[^\w<>]{0,80}SPDX-License-Identifier:[ \t]{0,8}([A-Za-z0-9][A-Za-z0-9.+:() -]{1,199}?)"
    r"\s{0,8}(?:-{2,3}>|\r?\n)"
)
_TAG = re.compile(r"<[^<>]{0,2000}>")
_LINE_PREFIX = re.compile(r"^[^\w\n]{1,16}|^[ \t]{0,8}(?:rem|dnl)[ \t]|\*/|-->", re.MULTILINE)

_CC = (
    r"(?:creative commons )?attribution"
    r"((?:[- ](?:non-?commercial|no-?deriv(?:ative)?s?(?: works)?|share[- ]?alike)){0,2})"
    r"(?: (?:international|public|unported|generic)){0,2}(?: licen[cs]e)?,? ?v?(?:ersion )?(\d\.\d)"
)
_GNU = (
    r"(?:gnu )?(affero |lesser |library )?(?:general public licen[cs]e|a?l?gpl)(?: as published by the free software "
    r"foundation)?[ ,;:(]{0,3}(?:\(?a?l?gpl\)?,? ?)?(?:either |only )?(?:v\.? ?|version )?([123](?:\.[01])?)(?![\d])"
    r"((?:\+|[ ,;()a-z]{0,40}?\bor (?:\(?at your option\)? )?(?:\(?at your option\)?,? )?(?:any )?later)?)"
)
_NAMES: tuple[tuple[str, str], ...] = (
    ("Apache-2.0", r"apache (?:software )?(?:licen[cs]e)?[ ,-]{0,2}(?:version |v\.? ?)?2(?:\.0)?(?!\d)"),
    ("MIT-0", r"mit[ -]0\b|mit no attribution"),
    ("0BSD", r"0bsd\b|(?:bsd )?zero[ -]clause bsd|bsd zero[ -]clause"),
    ("MIT", r"mit(?:/x11)?[ -]licen[cs]e"),
    ("BSD-3-Clause", r"(?:bsd[ -]3[ -]clause|3[ -]clause bsd)"),
    ("BSD-2-Clause", r"(?:bsd[ -]2[ -]clause|2[ -]clause bsd)"),
    ("MPL-2.0", r"(?:mozilla public licen[cs]e|mpl)[ ,-]{0,2}(?:version |v\.? ?)?2\.0"),
    ("ISC", r"isc licen[cs]e"),
    ("Unlicense", r"unlicen[cs]e"),
    ("BSL-1.0", r"boost software licen[cs]e"),
    ("CC0-1.0", r"(?:creative commons )?cc0(?: 1\.0)?"),
)
# "This work is licensed under the ..."; who says so of something else, or with "not" or "if", states nothing.
_SENTENCE = re.compile(
    r"(?:^|[.!:©|•] |\b(?:this|these|our|all|unless otherwise|except where otherwise|copyright)\b[^.!?]{0,120}? "
    r"|\b(?:text|content|documentation)(?: is| are)? )"
    r"(?:(?:is|are)(?: hereby)? )?(?:(?:dual-)?licen[cs]ed|released|distributed|(?:made )?available|published|provided"
    r"|subject to the terms of|you can redistribute it and/or modify it) ?(?:to you |freely )?(?:under|by)? ?"
    r"(?:the terms (?:and conditions )?of )?(?:the |an? )?"
)
_NOT_SAID = re.compile(r"\b(?:if|not|whether|were|had|suppose|unlike)\b")
_NAMED = re.compile("|".join((f"(?P<cc>{_CC})", f"(?P<gnu>{_GNU})", *(f"({words})" for _, words in _NAMES))))
_CC_SHORT = re.compile(r"cc[- ](by(?:[- ](?:nc|nd|sa)){0,2})[- ](\d\.\d)")
_FAMILIES = re.compile(
    r"mit licen[cs]e|apache licen[cs]e|general public licen[cs]e|bsd licen[cs]e|[23]-clause|mozilla public"
    r"|creative commons|isc licen[cs]e|boost software|eclipse public|artistic licen[cs]e|unlicense"
)

# The heading of a whole licence, which stands at the beginning of its text.
_HEADING_CHARACTERS = 300
_HEADINGS = (
    ("Apache-2.0", "apache license version 2.0, january 2004"),
    ("AGPL-3.0-only", "gnu affero general public license version 3, 19 november 2007"),
    ("LGPL-3.0-only", "gnu lesser general public license version 3, 29 june 2007"),
    ("LGPL-2.1-only", "gnu lesser general public license version 2.1, february 1999"),
    ("GPL-3.0-only", "gnu general public license version 3, 29 june 2007"),
    ("GPL-2.0-only", "gnu general public license version 2, june 1991"),
    ("GFDL-1.3-only", "gnu free documentation license version 1.3, 3 november 2008"),
    ("MPL-2.0", "mozilla public license version 2.0 1. definitions"),
    ("BSL-1.0", "boost software license - version 1.0"),
    ("PSF-2.0", "python software foundation license version 2"),
    ("CC0-1.0", "cc0 1.0 universal"),
)
# What only that licence, or the notice by which it is given, says. All of a row must be there.
_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Apache-2.0", ("licensed under the apache license, version 2.0",)),
    ("MPL-2.0", ("subject to the terms of the mozilla public license, v. 2.0",)),
    ("MIT", ("permission is hereby granted, free of charge, to any person obtaining a copy", "without restriction")),
    ("ISC", ("permission to use, copy, modify, and", "for any purpose with or without fee is hereby granted")),
    ("Zlib", ("provided 'as-is', without any express or implied warranty", "altered source versions")),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
)
_GOOD_NOT_EVIL = "shall be used for good, not evil"
_BSD = "redistribution and use in source and binary forms, with or without modification, are permitted provided"
_CC_PARTS = (("commercial", "-NC"), ("deriv", "-ND"), ("alike", "-SA"))


@dataclass(frozen=True, slots=True)
class Evidence:
    """A licence that was found in a text: as SPDX, how it was found, and the words it was found by."""

    licence: str
    where: Where
    quote: str


def detect(text: str, kind: TextKind) -> Evidence | None:
    """The licence that a text states for itself, or None; ``text`` is the page with its markup where it is a page.

    Words are looked for at the beginning and the end, where notices stand. What is stated by markup or a header made
    for it wins over the words of a notice, and those over an address. Several of the same rank must all be kept to.
    """
    if kind == "html":
        return _from_page(text)
    head = text[:_HEAD_CHARACTERS]
    tail = text[max(_HEAD_CHARACTERS, len(text) - _TAIL_CHARACTERS) :]
    if not _has_hint(head) and not _has_hint(tail):
        return None
    if "SPDX-License-Identifier:" in head:
        body = _without_fences(head) if kind == "markdown" else head
        found = ((licence, match[0]) for match in _SPDX_HEADER.finditer(body) if (licence := _stated(match[1])))
        if evidence := _all_of(found, "spdx-header"):
            return evidence
    return _from_prose(f"{head}\n{tail}" if tail else head)


def _has_hint(text: str) -> bool:
    lower = text.lower()
    return any(hint in lower for hint in _HINTS)


def _without_fences(text: str) -> str:
    """Markdown without its fenced blocks, which show headers of other files."""
    return "\n".join(text.split("```")[::2])


def _all_of(found: Iterable[tuple[str, str]], where: Where) -> Evidence | None:
    """The licences that were found at places of one rank, all of which must be kept to; None for none or a list."""
    quotes: dict[str, str] = {}
    for licence, quote in found:
        quotes.setdefault(licence, quote)
    if not 0 < len(quotes) <= _MAX_LICENCES:
        return None
    if len(quotes) == 1:
        ((licence, quote),) = quotes.items()
        return Evidence(licence, where, _quote(quote))
    parts = (f"({licence})" if " OR " in licence else licence for licence in sorted(quotes))
    return Evidence(" AND ".join(parts), where, _quote("; ".join(_quote(q, 40) for q in quotes.values())))


def _from_page(page: str) -> Evidence | None:
    """What a page says of itself by header, rel, meta or JSON-LD, in this order; else by a notice or an address."""
    head = page[:_HEAD_CHARACTERS]
    tail = page[max(_HEAD_CHARACTERS, len(page) - _TAIL_CHARACTERS) :]
    if not any(word in page for word in _MARKUP_WORDS) and not _has_hint(head) and not _has_hint(tail):
        return None
    headers = ((licence, found[0]) for found in _SPDX_IN_COMMENT.finditer(head) if (licence := _stated(found[1])))
    if evidence := _all_of(headers, "spdx-header"):
        return evidence
    links, metas = [], []
    for tag in _tags_about_licences(page):
        if _REL_LICENCE.search(tag):
            if (href := _HREF.search(tag)) and (licence := licence_of_url(html.unescape(href[1]))):
                links.append((licence, tag))
        elif _META_NAME.search(tag) and (content := _META_CONTENT.search(tag)):
            metas += [(licence, tag) for licence in [_stated(html.unescape(content[1] or content[2]))] if licence]
    marked = _all_of(links, "rel-license") or _all_of(metas, "meta")
    if marked or links or metas:
        return marked
    if "ld+json" in page and '"license"' in page:
        marked = _all_of(_in_json_ld(page), "json-ld")
    if marked:
        return marked
    return _from_words(html.unescape(_TAG.sub(" ", f"{head}\n{tail}"))) or _from_urls(page)


def _tags_about_licences(page: str) -> Iterator[str]:
    """Each tag in which a word for licences stands; found by plain search, since a page is mostly something else."""
    for word in _MARKUP_WORDS:
        place = page.find(word)
        while place >= 0:
            tag = _tag_around(page, place)
            if tag:
                yield tag
            place = page.find(word, place + 1)


def _tag_around(page: str, place: int) -> str:
    """The tag that an attribute stands in; the empty string where it stands in none of a sane length."""
    start = page.rfind("<", max(0, place - _TAG_CHARACTERS), place)
    end = page.find(">", place, place + _TAG_CHARACTERS)
    return page[start : end + 1] if 0 <= start < end and ">" not in page[start:place] else ""


def _in_json_ld(page: str) -> Iterator[tuple[str, str]]:
    """The licences that the blocks of JSON-LD state for the page; those of images and the like are not its own."""
    place = page.find("ld+json")
    while place >= 0:
        start = page.find(">", place, place + _TAG_CHARACTERS) + 1
        end = page.find("</script", start) if start else -1
        if end < 0:
            return
        if '"license"' in (block := page[start:end]):
            # A browser passes over a block that is no JSON, too.
            with suppress(ValueError, RecursionError):
                yield from _in_json(json.loads(block))
        place = page.find("ld+json", end)


def _in_json(root: Any) -> Iterator[tuple[str, str]]:
    todo = [root]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict) and not str(value.get("@type", "")).startswith(_OTHER_THINGS):
            stated = value.get("license")
            for entry in stated if isinstance(stated, list) else [stated]:
                words = entry.get("@id") or entry.get("url") if isinstance(entry, dict) else entry
                if isinstance(words, str) and (licence := _stated(words)):
                    yield licence, f'"license": "{words}"'
            todo += [child for child in value.values() if isinstance(child, dict | list)]


def _stated(words: str) -> str:
    """The licence that a field made for one holds, as an address or a name; the empty string for none."""
    licence = licence_of_url(words) or spdx(words) or ""
    return "" if licence == UNKNOWN_LICENCE else licence


def _from_prose(text: str) -> Evidence | None:
    return _from_words(text) or _from_urls(text)


def _from_urls(text: str) -> Evidence | None:
    """The one licence whose address stands beside words by which one is given; a text with several speaks of them."""
    # Plain searches are ten times as fast as a pattern that ignores case.
    lower = text.lower()
    if not any(hint in lower for hint in _URL_HINTS):
        return None
    found: dict[str, str] = {}
    is_given, looks = False, 0
    for pattern in (CC_URL, OTHER_URL):
        for match in pattern.finditer(text):
            if licence := licence_of_url(match[0]):
                before = text[max(0, match.start() - _CUE_BEFORE) : match.start()]
                if looks < _MAX_LOOKS and _is_credit(before):
                    looks += 1
                    continue
                found.setdefault(licence, match[0])
                if len(found) > 1:
                    return None
                looks += 1
                if not is_given and looks <= _MAX_LOOKS:
                    is_given = bool(_URL_CUE.search(before + text[match.end() : match.end() + _CUE_AFTER]))
    return _all_of(found.items(), "licence-url") if is_given else None


def _is_credit(before: str) -> bool:
    """Whether the sentence that an address or a name ends speaks of a picture or a sound."""
    start = 0
    for end in _SENTENCE_END.finditer(before):
        start = end.end()
    return _CREDIT.search(before, start) is not None


def _from_words(text: str) -> Evidence | None:
    """The licence whose own words, or the sentence by which it is given, stand in a text."""
    # Marks of comments and quotation stand at the beginnings of lines, between the words of a notice.
    words = " ".join(_LINE_PREFIX.sub(" ", text.lower()).split())
    if not any(hint in words for hint in _HINTS):
        return None
    start = words[:_HEADING_CHARACTERS]
    for licence, heading in _HEADINGS:
        if heading in start:
            return Evidence(licence, "licence-text", heading)
    if len({match[0].replace("licence", "license") for match in _FAMILIES.finditer(words)}) >= _MAX_NAMES:
        return None
    found = [(licence, rows[0]) for licence, rows in _PHRASES if all(row in words for row in rows)]
    found = [(_narrower(licence, words), quote) for licence, quote in found if not _is_phrase_of_credit(quote, words)]
    if _BSD in words:
        is_endorsing = "neither the name" in words or "used to endorse or promote" in words
        clauses = "4" if "all advertising materials" in words else "3" if is_endorsing else "2"
        found.append((f"BSD-{clauses}-Clause", _BSD))
    return _all_of([*found, *_in_sentences(words)], "licence-text")


def _is_phrase_of_credit(phrase: str, words: str) -> bool:
    place = words.find(phrase)
    return phrase.startswith("licensed under") and _is_credit(words[max(0, place - _CUE_BEFORE) : place + 9])


def _narrower(licence: str, words: str) -> str:
    """The licence that begins with the words of another, and says less or more after them."""
    if licence == "MIT" and _GOOD_NOT_EVIL in words:
        return "JSON"
    if licence == "MIT" and "furnished to do so." in words and "furnished to do so, subject to" not in words:
        return "MIT-0"
    ends = "without fee is hereby granted."
    return "0BSD" if licence == "ISC" and ends in words and f"{ends[:-1]}, provided" not in words else licence


def _in_sentences(words: str) -> Iterator[tuple[str, str]]:
    """The licences that sentences give the text itself."""
    for sentence in _SENTENCE.finditer(words):
        if _NOT_SAID.search(words, max(0, sentence.start() - 20), sentence.end()):
            continue
        place = sentence.end()
        if _is_credit(words[max(0, place - _CUE_BEFORE) : place]):
            continue
        named, short = _NAMED.match(words, place), _CC_SHORT.match(words, place)
        if named:
            licence = _licence_named(named)
        else:
            licence = (short and spdx(f"CC-{short[1].replace(' ', '-')}-{short[2]}")) or ""
        if licence and (found := named or short):
            yield licence, words[sentence.start() : found.end()]


def _licence_named(named: re.Match[str]) -> str:
    """The SPDX id of a licence that a sentence names."""
    if words := named["cc"]:
        parts = "".join(code for part, code in _CC_PARTS if part in words)
        return spdx(f"CC-BY{parts}-{words[-3:]}") or ""
    if words := named["gnu"]:
        start = named.re.groupindex["gnu"]
        family, version, later = named[start + 1], named[start + 2], named[start + 3]
        is_short = "agpl" in words or "lgpl" in words
        letter = words.replace("gnu ", "")[0] if is_short else {"a": "a", "l": "l"}.get((family or " ")[0], "")
        version = version if "." in version else f"{version}.0"
        return spdx(f"{letter}gpl-{version}-{'or-later' if later else 'only'}") or ""
    first = named.re.groups - len(_NAMES) + 1
    return next(licence for place, (licence, _) in enumerate(_NAMES, first) if named[place])


def _quote(words: str, limit: int = _QUOTE_CHARACTERS) -> str:
    return " ".join(words.split())[:limit]
