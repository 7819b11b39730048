"""A piece of a text that is personal, and the text as recognisers read it."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text that is personal: characters ``start`` to ``end``, and its kind."""

    start: int
    end: int
    kind: str
    scheme: str = ""
    """What it is within its kind: the country and name of a national number."""


_DIGIT_ZEROS = (
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0xA620, 0xA8D0, 0xA900, 0xFF10,
    0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6,
)  # fmt: skip
"""The zeros of the decimal digits of Unicode; the other nine follow each."""
_INVISIBLE = (0xAD, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
_SPACES = (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
_DASHES = (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63)
_FULL_WIDTH = (*range(0xFF08, 0xFF0A), 0xFF0B, *range(0xFF0D, 0xFF10), 0xFF1A, 0xFF3F, *range(0xFF20, 0xFF3B),
               *range(0xFF41, 0xFF5B))  # fmt: skip
_FOLDED: dict[str, str] = {
    **{chr(code): "" for code in _INVISIBLE},
    **{chr(code): " " for code in _SPACES},
    **{chr(code): "-" for code in _DASHES},
    **{chr(code): chr(code - 0xFEE0) for code in _FULL_WIDTH},
    **{chr(zero + digit): str(digit) for zero in _DIGIT_ZEROS for digit in range(10)},
    "\ufe6b": "@",
    "\uff61": ".",
}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ENTITY = re.compile(r"&(?:#[0-9]{1,5}|#[xX][0-9A-Fa-f]{1,4}|commat|period);")
_ESCAPE = re.compile(r"\\(?:u00[2-7][0-9A-Fa-f]|[nrt](?=[0-9A-Za-z.@+(]))")
_PERCENT = re.compile(r"%(?:40|2[Bb])")
_NAMED = {"&commat;": "@", "&period;": ".", "\\n": "\n", "\\r": "\r", "\\t": "\t"}

_SHAPE = bytes(
    ord("0") if chr(code).isdigit() and code < 128
    else ord("a") if code < 128 and (chr(code).isalpha() or chr(code) == "_")
    else ord(" ") if code in (9, 10, 11, 12, 13)
    else code
    for code in range(256)
)  # fmt: skip
_TOKEN = bytes(ord("a") if code < 128 and (chr(code).isalnum() or chr(code) in "_-") else 32 for code in range(256))
_RUN = re.compile(rb"0(?:[^0a]{0,4}0)*")
_WINDOW_CHARACTERS = 48
OTHER_NUMBER = re.compile(
    r"\b(?:order|invoice|tracking|isbn|imei|reference|ref|ticket|serial|sku|ean|upc|gtin|part|build|commit|case"
    r"|timestamp|parcel|article)\b[^\d\n]{0,12}\Z",
    re.IGNORECASE,
)
"""The word before a number that is somebody's only by chance."""


@dataclass(slots=True)
class View:
    """A text as recognisers read it: look-alikes as ASCII, invisible characters gone, with the way back.

    ``shape`` has one byte for each character: ``0`` for a digit, ``a`` for a letter, a space for white space, ``?`` for
    what is not ASCII. Searching it for what a number must look like is many times faster than matching the number.
    """

    text: str
    original: str
    shape: bytes
    plain: bytes
    """The text with ``?`` for what is not ASCII."""
    starts: list[int] = field(default_factory=list)
    """Where in ``text`` each shift begins to hold."""
    shifts: list[int] = field(default_factory=list)
    """How far the original is ahead from there on."""

    @classmethod
    def of(cls, text: str) -> "View":
        """The view of a text."""
        original, starts, shifts = text, list[int](), list[int]()
        if matches := _foldings(text):
            text, starts, shifts = _fold(text, matches)
        plain = text.encode("ascii", "replace")
        return cls(text, original, plain.translate(_SHAPE), plain, starts, shifts)

    def place(self, position: int) -> int:
        """Where in the original a position of ``text`` stands."""
        at = bisect_right(self.starts, position)
        return position + self.shifts[at - 1] if at else position

    def placed(self, span: Span) -> Span:
        """A span of ``text`` as a span of the original."""
        if not self.starts:
            return span
        return Span(self.place(span.start), self.place(span.end), span.kind, span.scheme)

    def runs(self, num_digits: int) -> list[tuple[int, int]]:
        """The stretches of digits with at most four signs or spaces between them, and at least so many digits."""
        return [
            match.span()
            for match in _RUN.finditer(self.shape)
            if match.end() - match.start() >= num_digits and match.group().count(b"0") >= num_digits
        ]

    def long_tokens(self, num_characters: int) -> Iterator[tuple[int, int]]:
        """Where letters, digits, ``_`` and ``-`` stand in a row so often, with a digit among them, as in a key."""
        tokens, needle = self.plain.translate(_TOKEN), b"a" * num_characters
        start = tokens.find(needle)
        while start >= 0:
            end = tokens.find(b" ", start)
            end = end if end >= 0 else len(tokens)
            if self.shape.find(b"0", start, end) >= 0:
                yield start, end
            start = tokens.find(needle, end)


def windows(spans: Iterable[tuple[int, int]], length: int, margin: int = _WINDOW_CHARACTERS) -> list[tuple[int, int]]:
    """The spans with a margin on both sides, joined where they touch, so that no character is read twice."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        start, end = max(0, start - margin), min(length, end + margin)
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def positions(needle: bytes, hay: bytes) -> Iterator[int]:
    """Every position of a piece of bytes, overlapping ones too."""
    at = hay.find(needle)
    while at >= 0:
        yield at
        at = hay.find(needle, at + 1)


def merged(taken: list[Span], added: Iterable[Span]) -> list[Span]:
    """Both in order, without the added spans that overlap; one pass, since a text may be nothing but addresses."""
    result: list[Span] = []
    place = 0
    for span in sorted(added, key=lambda span: (span.start, -span.end)):
        while place < len(taken) and taken[place].end <= span.start:
            result.append(taken[place])
            place += 1
        is_free = place == len(taken) or taken[place].start >= span.end
        if is_free and (not result or result[-1].end <= span.start):
            result.append(span)
    return result + taken[place:]


Recogniser = Callable[[View], Iterable[Span]]


def _foldings(text: str) -> list[re.Match[str]]:
    """Everything in the text that is read as something else, in order; nothing in nearly every text."""
    patterns = []
    if not text.isascii() and (odd := _FOLDED.keys() & set("".join(_NOT_ASCII.findall(text)))):
        # A pattern of the few that are there is many times faster than one of all.
        patterns.append(re.compile(f"[{''.join(map(re.escape, sorted(odd)))}]"))
    if "&" in text:
        patterns.append(_ENTITY)
    if "\\" in text:
        patterns.append(_ESCAPE)
    if "%" in text:
        patterns.append(_PERCENT)
    # Each pattern has signs of its own to begin with, and none of another's within.
    return sorted((match for pattern in patterns for match in pattern.finditer(text)), key=re.Match.start)


def _fold(text: str, matches: Iterable[re.Match[str]]) -> tuple[str, list[int], list[int]]:
    pieces, starts, shifts = [], list[int](), list[int]()
    place, length, shift = 0, 0, 0
    for match in matches:
        found = match.group()
        read = _read_as(found)
        pieces += [text[place : match.start()], read]
        length += match.start() - place + len(read)
        place = match.end()
        if len(found) != len(read):
            shift += len(found) - len(read)
            starts.append(length)
            shifts.append(shift)
    pieces.append(text[place:])
    return "".join(pieces), starts, shifts


def _read_as(found: str) -> str:
    """What a look-alike, an entity or an escape stands for; itself where that is not a printed ASCII character."""
    if len(found) == 1:
        return _FOLDED[found]
    if found in _NAMED:
        return _NAMED[found]
    if found.startswith(("%", "\\u")):
        return chr(int(found[-2:], 16))
    code = int(found[3:-1], 16) if found[2] in "xX" else int(found[2:-1])
    return chr(code) if 32 < code < 127 else found
