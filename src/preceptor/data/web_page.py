"""The main text of a web page, and what the page says of itself: title, date, author, language, address."""

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import accumulate, islice
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from preceptor.core.errors import DataError
from preceptor.data.records import Flaw, FlawError, Record

Extractor = Callable[[str, Any], str]
"""From the text of a page and its tree to the main text."""
_SNIFFED_BYTES = 8192
# The names are bounded so that no page makes the search go over the same bytes again and again.
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s{0,4}=\s{0,4}["']?\s{0,4}([\w-]{2,20})""", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"""<\?xml[^>]{0,100}encoding\s{0,4}=\s{0,4}["']([\w-]{2,20})""", re.IGNORECASE)
_CHARSETS = re.compile(
    r"iso-8859-(?:[2-9]|1[013-6])|windows-(?:125\d|874|932|949)|koi8-[ru]|gb2312|gbk|gb18030|big5(?:-hkscs)?"
    r"|euc-(?:jp|kr)|shift_jis|iso-2022-(?:jp|kr)|tis-620"
)
# What is said to be plain Latin is read as browsers read it.
_AS_BROWSERS = {
    **dict.fromkeys(("ascii", "us-ascii", "iso-8859-1", "latin1", "latin-1", "cp1252"), "cp1252"),
    **{"macintosh": "mac-roman", "sjis": "shift_jis", "x-sjis": "shift_jis", "ks_c_5601-1987": "cp949"},
}
_LANGUAGE = re.compile(r"""<html\s[^>]{0,500}?\blang\s{0,4}=\s{0,4}["']?([\w-]{2,35})""", re.IGNORECASE)
_TAG = re.compile(r"<(/?[a-zA-Z]\w{0,20})")
# Finding the main content takes time that grows with the square of the depth; no page that people read is so deep.
_MAX_DEPTH = 500
# These hold no elements, or end where the next begins, so that they add nothing to the depth.
_FLAT = {
    *("area", "base", "br", "col", "dd", "dt", "hr", "img", "input", "li", "link", "meta", "option", "p", "path"),
    *("param", "rp", "rt", "source", "tbody", "td", "th", "thead", "tr", "track", "wbr", "body", "html", "head"),
}
_FIELDS_BY_META = {
    "article:author": "author",
    "article:published_time": "date",
    "author": "author",
    "citation_author": "author",
    "citation_date": "date",
    "citation_publication_date": "date",
    "date": "date",
    "dc.creator": "author",
    "dc.date": "date",
    "dc.date.issued": "date",
    "dc.language": "language",
    "dc.title": "title",
    "dcterms.created": "date",
    "dcterms.creator": "author",
    "dcterms.date": "date",
    "dcterms.title": "title",
    "og:title": "title",
    "og:url": "url",
    "pubdate": "date",
    "publish-date": "date",
}
_LONG_TAG = re.compile(r"<[a-zA-Z][^<>]{10000,}")
_MAX_ATTRIBUTES = 1000
_HIDDEN = re.compile(r"<(?:(script|style|template|noscript)\b|!--)", re.IGNORECASE)
_BLOCK = re.compile(r"</?(?:p|div|br|li|tr|h[1-6]|table|ul|ol|pre|section|article)\b", re.IGNORECASE)
_LINKED_DATA = "application/ld+json"
_MAX_LINKED_DATA = 200_000
_LINKED_DATA_SCRIPT = re.compile(r"""<script[^<>]{0,200}application/ld\+json[^<>]{0,200}>""", re.IGNORECASE)
_MAX_SCRIPTS = 20
_MAX_ITEMS = 400


class _Steps(dict[str, int]):
    """How a tag changes the depth."""

    def __missing__(self, tag: str) -> int:
        name = tag.lstrip("/").lower()
        self[tag] = step = 0 if name in _FLAT else -1 if tag[0] == "/" else 1
        if len(self) > 10_000:
            self.clear()
        return step


_STEPS = _Steps()


def page_record(raw: bytes, extractor: Extractor, charset: str = "", fallback: bool = False) -> Record:
    """The record of a page.

    ``charset`` is what was said beside the page; with ``fallback`` bytes that are of no declared encoding are guessed.

    Raises:
        FlawError: it is of another encoding than it says, or no text.
    """
    page = _decode(raw, charset, fallback)
    if _is_too_deep(page) or _has_endless_tag(page):
        return Record(without_tags(page), {}, raw=page, kind="html")
    try:
        tree = HTMLTree.parse(page)
    except (ValueError, RuntimeError) as error:
        raise FlawError(Flaw("broken-html", str(error))) from error
    main = extractor(page, tree)
    text = main if main.strip() else extract_plain_text(tree)
    return Record(text, page_fields(tree, page), raw=page, kind="html")


def _decode(raw: bytes, charset: str, fallback: bool) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FlawError(Flaw("invalid-utf8", "this is UTF-16, not UTF-8", byte=0))
    if b"\0" in raw[:_SNIFFED_BYTES]:
        raise FlawError(Flaw("binary", "bytes of zero in what should be text"))
    found = _META_CHARSET.search(raw, 0, _SNIFFED_BYTES) or _XML_CHARSET.match(raw)
    try:
        return raw.decode(encoding_of(charset or (found[1].decode("ascii", "replace") if found else "")))
    except UnicodeDecodeError as error:
        if fallback:
            return _guessed(raw)
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte {raw[error.start]:#04x} at {error.start} is not {error.encoding}"
        raise FlawError(Flaw("invalid-utf8", message, line=line)) from error


def encoding_of(charset: str) -> str:
    """How bytes are decoded that are said to be of a charset; as UTF-8 where that is none a page can be of.

    Not every codec of Python may be named by a page: some are no charsets, and some take time without bound.
    """
    name = charset.lower()
    if name in _AS_BROWSERS:
        return _AS_BROWSERS[name]
    return name if _CHARSETS.fullmatch(name) else "utf-8-sig"


def _guessed(raw: bytes) -> str:
    try:
        return raw.decode(detect_encoding(raw[:100_000]) or "cp1252", "replace")
    except LookupError:
        return raw.decode("cp1252", "replace")


def depth(page: str) -> int:
    """About how deep the elements of a page are nested."""
    return max(accumulate(map(_STEPS.__getitem__, _TAG.findall(page))), default=0)


def _is_too_deep(page: str) -> bool:
    # Most pages have too few elements to be deep, and counting them costs a tenth of following them.
    return page.count("<") - page.count("</") > _MAX_DEPTH and depth(page) > _MAX_DEPTH


def _has_endless_tag(page: str) -> bool:
    return any(len(tag[0].split(None, _MAX_ATTRIBUTES)) > _MAX_ATTRIBUTES for tag in _LONG_TAG.finditer(page))


def without_tags(page: str) -> str:
    """The text of a page that no parser reads in bounded time, found in one pass: tags and scripts left out."""
    found, place = [], 0
    while (start := page.find("<", place)) >= 0:
        found.append(page[place:start])
        hidden = _HIDDEN.match(page, start)
        closing = f"</{hidden[1].lower()}" if hidden and hidden[1] else "-->" if hidden else ">"
        end = page.find(closing, start)
        if end < 0 and hidden is None:
            place = start + 1
            found.append("<")
            if page.find(">", start) < 0:
                break  # no tag ends from here on
            continue
        if end < 0:
            place = len(page)
            break
        place = end + len(closing) if closing != ">" else end + 1
        found.append("\n" if closing != ">" or _BLOCK.match(page, start) else "")
    found.append(page[place:])
    return html.unescape("".join(found))


def resiliparse_main_text(page: str, tree: Any) -> str:
    """The main content by the rules of resiliparse."""
    return str(extract_plain_text(tree, main_content=True))


@cache
def extractor_named(name: str) -> Extractor:
    """The extractor that a recipe names.

    Raises:
        DataError: it is not installed.
    """
    if name == "resiliparse":
        return resiliparse_main_text
    try:
        from trafilatura import extract  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise DataError(
            "the extractor trafilatura is not installed",
            remedy='install it with "pip install trafilatura", or leave extractor out of data.sources',
        ) from error
    return lambda page, tree: extract(page) or ""


def page_fields(tree: Any, page: str) -> dict[str, object]:
    """What a page says of itself; linked data wins over meta elements, and these over the rest."""
    fields: dict[str, object] = {}
    _take(fields, "title", tree.title)
    if language := _LANGUAGE.search(page, 0, _SNIFFED_BYTES):
        _take(fields, "language", language[1])
    if "datetime" in page and (time := tree.document.query_selector("time[datetime]")) is not None:
        _take(fields, "date", time.getattr("datetime"))
    head = tree.head
    if head is None:
        return fields
    for element in _children(head):
        if element.tag == "link" and (element.getattr("rel") or "").lower() == "canonical":
            _take(fields, "url", element.getattr("href"))
        if element.tag != "meta":
            continue
        key = _FIELDS_BY_META.get((element.getattr("name") or element.getattr("property") or "").lower())
        if key is not None and not (key == "title" and "title" in fields):
            _take(fields, key, element.getattr("content"))
    if _LINKED_DATA in page:
        for key, value in _linked_data(page):
            _take(fields, key, value)
    return fields


def _children(head: Any) -> Iterator[Any]:
    """The first elements of a head, one after the other: a list of them takes time that grows with its square."""
    element = head.first_element_child
    for _ in range(_MAX_ITEMS):
        if element is None:
            return
        yield element
        element = element.next_element_sibling


def _take(fields: dict[str, object], key: str, value: object) -> None:
    if isinstance(value, str) and (value := " ".join(value[:2000].split())):
        fields[key] = value


def _linked_data(page: str) -> Iterator[tuple[str, object]]:
    """What the JSON-LD of a page says; of several articles the first."""
    taken = set()
    for start in islice(_LINKED_DATA_SCRIPT.finditer(page), _MAX_SCRIPTS):
        end = page.find("</script", start.end(), start.end() + _MAX_LINKED_DATA)
        source = page[start.end() : max(end, start.end())]
        try:
            found = json.loads(source)
        except (ValueError, RecursionError):
            # Broken linked data takes nothing from the page's text, and the meta elements still speak.
            continue
        for item in _items(found):
            for key, value in (("date", item.get("datePublished")), ("author", _name(item.get("author")))):
                if value and key not in taken:
                    taken.add(key)
                    yield key, value


def _items(found: object) -> Iterator[Mapping[str, object]]:
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, dict):
            yield item
            graph = item.get("@graph")
            yield from (inner for inner in (graph if isinstance(graph, list) else []) if isinstance(inner, dict))


def _name(author: object) -> str:
    """The names of the authors in the shapes that JSON-LD has for them."""
    if isinstance(author, str):
        return author
    if isinstance(author, dict):
        return _name(author.get("name"))
    if isinstance(author, list):
        return ", ".join(filter(None, (_name(one) for one in author[:20] if not isinstance(one, list))))
    return ""
