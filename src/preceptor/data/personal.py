"""Personal data and secrets: how each kind is recognised, and what stands in its place.

Every pattern is bounded or anchored on a rare character, so that its time grows in line with the text.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import phonenumbers

Action = Literal["placeholder", "pseudonym", "drop", "keep"]
KINDS = (
    "private-key",
    "key",
    "url-credentials",
    "email",
    "mac-address",
    "ip-address",
    "iban",
    "card",
    "national-id",
    "phone",
)
"""The structured kinds, in the order in which they claim a piece of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalConfig:
    """What is done with personal data."""

    kinds: tuple[str, ...] = KINDS
    """The kinds that are looked for; empty for none."""
    action: Action = "placeholder"
    """A typed placeholder, a keyed pseudonym, dropping the document, or keeping what was found and counting it."""
    actions: dict[str, str] = field(default_factory=dict)
    """The action for a kind where it is another."""
    key_file: str = ""
    """A secret file of at least 16 bytes, from which pseudonyms are made."""
    person_model: str = ""
    """The name of an installed spaCy model, or the folder of a token classifier, that finds names of people."""
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "AU", "JP", "IR", "IN", "CN", "ES", "IT")
    """The countries whose way of writing telephone numbers without a country code is known."""

    def __post_init__(self) -> None:
        """Refuse kinds and actions that there are not, and pseudonyms without a key."""
        for kind in (*self.kinds, *self.actions):
            if kind not in (*KINDS, "person"):
                raise ValueError(f"kinds must be among {', '.join((*KINDS, 'person'))}, got {kind!r}")
        for action in self.actions.values():
            if action not in get_args(Action):
                raise ValueError(f"actions must be among {', '.join(get_args(Action))}, got {action!r}")


@dataclass(frozen=True, slots=True)
class Redaction:
    """A text after redaction, how many spans of each kind it had, and whether the document is to be dropped."""

    text: str
    counts: dict[str, int]
    drop: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text that is personal: characters ``start`` to ``end``, and its kind."""

    start: int
    end: int
    kind: str


_EMAIL_LOCAL = re.compile(r"[A-Za-z0-9._%+-]{1,64}\Z")
_EMAIL_DOMAIN = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?:\.\d{1,3}){3})?(?![\w:]|\.\d)", re.ASCII
)
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:versions?|releases?|sections?|chapter|python|firmware|build|driver|revision|rev|ver|v)[ :=#-]{0,3}"
    r"|[<>=!~]= {0,2}|[A-Za-z]/)\Z",
    re.IGNORECASE,
)
_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"A(?:KIA|SIA)[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|sk-(?=[A-Za-z_-]{0,200}[0-9])[A-Za-z0-9_-]{20,200}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,99}|whsec_[A-Za-z0-9]{24,64}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,200}"
    r"|AIza[0-9A-Za-z_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,40}|ya29\.[A-Za-z0-9_-]{20,400}"
    r"|hf_[A-Za-z0-9]{30,64}"
    r"|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{50,250}"
    r"|dop_v1_[a-f0-9]{64}"
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"
    r"|(?<![_-])eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,500}"
    r")(?![A-Za-z0-9])"
)
_PRIVATE_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_END = re.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINES = re.compile(r"(?:\s{0,8}[A-Za-z0-9+/=]{16,})+")

_PHONE_HINT = re.compile(r"(?:\+|\(\d|\d{3}|1[ .\-(]|0\d[ .\-])[\d ().\-/]{6,24}\d")
_PHONE_WORD = re.compile(r"\b(?:phone|tel|telephone|call|mobile|cell|fax|sms|whatsapp)\b[^\w\n]{0,4}\Z", re.IGNORECASE)
# Area code, exchange and line of the North American plan; with nothing but spaces between, they may be any numbers.
_NORTH_AMERICAN = re.compile(r"(?:1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])\d{3}[ .-]\d{4}")
_FRENCH_PAIRS = re.compile(r"0\d(?:[ .\-]\d\d){4}")
_TRUNK_REGIONS = ("GB", "DE", "FR", "AU", "JP", "IR")
"""Where national numbers start with a zero, which sets them apart from other groups of digits."""
_SPOKEN_REGIONS = ("US", *_TRUNK_REGIONS, "IN", "CN", "ES", "IT")
"""The countries tried for a number after a word such as phone."""


def find_emails(text: str) -> Iterator[Span]:
    """E-mail addresses, found outwards from each at sign."""
    at = text.find("@")
    while at >= 0:
        local = _EMAIL_LOCAL.search(text, max(0, at - 64), at)
        domain = _EMAIL_DOMAIN.match(text, at + 1)
        if local and domain and local.start() < at and not domain.group().rpartition(".")[2].isdigit():
            start = local.start()
            while start < at and text[start] in ".%+-":
                start += 1
            if start < at:
                yield Span(start, domain.end(), "email")
        at = text.find("@", at + 1)


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Addresses of both versions; what stands where a version number stands, masks and loopback are left."""
    for match in _IPV6.finditer(text):
        if _is_written_ipv6(match.group()) and _is_somebodys(match.group()):
            yield Span(match.start(), match.end(), "ip-address")
    for match in _IPV4.finditer(text):
        before = _VERSION_BEFORE.search(text, max(0, match.start() - 14), match.start())
        if not before and _is_somebodys(match.group()):
            yield Span(match.start(), match.end(), "ip-address")


def _is_written_ipv6(candidate: str) -> bool:
    """Whether it looks like an address and not like a slice ``::2``, a time or a name ``dead::beef`` in a program."""
    groups = [group for group in candidate.split(":") if group]
    return len(groups) >= 2 and max(map(len, groups)) >= 3 and any(character.isdigit() for character in candidate)


def _is_somebodys(candidate: str) -> bool:
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return False
    is_mask = candidate.startswith(("255.", "0."))
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or is_mask)


def find_keys(text: str) -> Iterator[Span]:
    """Keys and tokens by the prefixes that their issuers give them, and private keys as a block."""
    for match in _KEYS.finditer(text):
        yield Span(match.start(), match.end(), "key")
    begins = list(_PRIVATE_KEY_BEGIN.finditer(text))
    next_starts = [*(begin.start() for begin in begins[1:]), len(text)]
    ends = _PRIVATE_KEY_END.finditer(text)
    end = next(ends, None)
    for begin, next_start in zip(begins, next_starts, strict=False):
        while end and end.start() < begin.end():
            end = next(ends, None)
        if end and end.start() < next_start:
            yield Span(begin.start(), end.end(), "key")
        else:
            lines = _KEY_LINES.match(text, begin.end())
            yield Span(begin.start(), lines.end() if lines else begin.end(), "key")


def find_phones(text: str) -> Iterator[Span]:
    """Telephone numbers: with a country code, in the shape or with the zero of a country, or after a word that says so.

    Source: the number plans of libphonenumber.
    """
    for hint in _PHONE_HINT.finditer(text):
        candidate = hint.group()
        digits = sum(character.isdigit() for character in candidate)
        before, after = text[max(0, hint.start() - 1) : hint.start()], text[hint.end() : hint.end() + 1]
        if not 8 <= digits <= 15 or _joins(before) or _joins(after):
            continue
        if _is_phone(candidate, bool(_PHONE_WORD.search(text, max(0, hint.start() - 16), hint.start()))):
            yield Span(hint.start(), hint.end(), "phone")


def _joins(neighbour: str) -> bool:
    """Whether the character beside a run of digits makes it part of a word or a calculation."""
    return bool(neighbour) and neighbour.isascii() and (neighbour.isalnum() or neighbour in "_*/=%^")


def _is_phone(candidate: str, is_announced: bool) -> bool:
    groups = re.findall(r"\d+", candidate)
    if candidate.startswith("+"):
        # A number with one point is a decimal fraction, unless the point stands after the country code.
        is_fraction = candidate.count(".") == 1 and len(groups[0]) > 3
        return not is_fraction and _plan_knows(candidate, (None,), phonenumbers.is_possible_number)
    if _NORTH_AMERICAN.fullmatch(candidate):
        return True
    if is_announced:
        return _plan_knows(candidate, _SPOKEN_REGIONS, phonenumbers.is_valid_number)
    if not candidate.lstrip("(").startswith("0") or len(groups) < 2 or "/" in candidate or ". " in candidate:
        return False
    if len(groups) == 2 and "." in candidate:
        return False
    if len(groups[0]) == 2 and not candidate.startswith("("):
        return bool(_FRENCH_PAIRS.fullmatch(candidate))
    return _plan_knows(candidate, _TRUNK_REGIONS, phonenumbers.is_valid_number)


def _plan_knows(
    candidate: str, regions: Iterable[str | None], is_known: Callable[[phonenumbers.PhoneNumber], bool]
) -> bool:
    for region in regions:
        try:
            if is_known(phonenumbers.parse(candidate, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


RECOGNISERS: tuple[Callable[[str], Iterator[Span]], ...] = (find_keys, find_emails, find_ip_addresses, find_phones)


def find(text: str) -> list[Span]:
    """All personal spans of a text from left to right; where two overlap, the one of the earlier recogniser stays."""
    taken: list[Span] = []
    for recognise in RECOGNISERS:
        taken = _merged(taken, recognise(text))
    return taken


def _merged(taken: list[Span], added: Iterable[Span]) -> list[Span]:
    """Both in order, without the added spans that overlap; one pass, since a text may be nothing but addresses."""
    merged: list[Span] = []
    place = 0
    for span in sorted(added, key=lambda span: span.start):
        while place < len(taken) and taken[place].end <= span.start:
            merged.append(taken[place])
            place += 1
        is_free = place == len(taken) or taken[place].start >= span.end
        if is_free and (not merged or merged[-1].end <= span.start):
            merged.append(span)
    return merged + taken[place:]


class Redactor:
    """What finds personal data in texts and puts something else in its place."""

    def __init__(self, config: PersonalConfig) -> None:
        self.config = config

    def redact(self, text: str) -> Redaction:
        """The text with a typed placeholder for each personal span, and how many of each kind there were."""
        spans = find(text)
        if not spans:
            return Redaction(text, {})
        pieces, counts, place = [], dict[str, int](), 0
        for span in spans:
            pieces += [text[place : span.start], f"<{span.kind}>"]
            counts[span.kind] = counts.get(span.kind, 0) + 1
            place = span.end
        return Redaction("".join(pieces) + text[place:], counts)


_DEFAULT = Redactor(PersonalConfig())


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with a typed placeholder for each personal span, and how many of each kind there were."""
    redaction = _DEFAULT.redact(text)
    return redaction.text, redaction.counts
