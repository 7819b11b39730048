"""Edits: each takes a text and returns another one, and never decides whether a document stays."""

import html
import re
import unicodedata

import ftfy
from ftfy import TextFixerConfig
from ftfy.badness import is_bad

from preceptor.data.document import Document
from preceptor.data.web_rules import c4_lines

# Only the encoding is repaired: quotes, ligatures and full-width letters are the author's choice.
_REPAIR = TextFixerConfig(
    uncurl_quotes=False, fix_character_width=False, fix_latin_ligatures=False, unescape_html=False, normalization=None
)
_NEWLINE = re.compile(r"\r\n?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff]")
_MANY_NEWLINES = re.compile(r"\n{4,}")
# A tag in quotes is one that the text speaks about.
_LEFT_OVER_TAG = re.compile(
    r"(?<![`'\"])</?(?:div|span|p|br|hr|font|table|thead|tbody|tr|td|th|ul|ol|li|img|h[1-6]|script|style)\b"
    r"[^<>\n]{0,200}>(?![`'\"])",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,6});")


def normalise(document: Document) -> Document:
    """The document with its encoding repaired, in composed form, without control characters or loose space."""
    text = _plain(document.text)
    if not text.isascii():
        text = _plain("".join(_repaired(line) for line in text.splitlines(keepends=True)))
        text = unicodedata.normalize("NFC", text.replace("\u00a0", " "))
    # Line by line, since a pattern for space before a line's end is quadratic in a long run of spaces.
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return document.edited(_MANY_NEWLINES.sub("\n\n\n", text).strip("\n"))


def _plain(text: str) -> str:
    return _CONTROL.sub("", _NEWLINE.sub("\n", text))


def _repaired(line: str) -> str:
    return line if line.isascii() or not is_bad(line) else ftfy.fix_text(line, config=_REPAIR)


def remove_markup(document: Document) -> Document:
    """The document without what a careless extraction left of HTML: layout tags, and entities where there were tags."""
    text, num_tags = _LEFT_OVER_TAG.subn(" ", document.text)
    if num_tags:
        text = _ENTITY.sub(lambda match: html.unescape(match.group()).replace("\u00a0", " "), text)
        text = _CONTROL.sub("", text)
    return document.edited(text)


EDITS = (normalise, remove_markup)
"""In the order in which they are applied."""


def keep_c4_lines(document: Document) -> Document:
    """The document with only the lines that C4 keeps; see ``web_rules.c4_lines``."""
    lines, refusal = c4_lines(document.text)
    return document if refusal else document.edited("\n".join(lines))
