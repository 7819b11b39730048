"""Personal data and secrets: how each kind is recognised, and what stands in its place.

Every pattern is bounded or anchored on a rare character, so that its time grows in line with the text.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import phonenumbers


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text that is personal: characters ``start`` to ``end``, and its kind."""

    start: int
    end: int
    kind: str


_EMAIL_LOCAL = re.compile(r"[A-Za-z0-9._%+-]{1,64}\Z")
_EMAIL_DOMAIN = re.compile(r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_VERSION_BEFORE = re.compile(r"(?:version|release|section|python|v)\s{0,2}\Z", re.IGNORECASE)
_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|sk-[A-Za-z0-9_-]{20,200}"
    r"|sk_live_[A-Za-z0-9]{16,99}|rk_live_[A-Za-z0-9]{16,99}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,200}"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|hf_[A-Za-z0-9]{30,64}"
    r"|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{50,250}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,500}"
    r")(?![A-Za-z0-9])"
)
_PRIVATE_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")
_PRIVATE_KEY_END = re.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY-----")
_PHONE_HINT = re.compile(r"(?:\+|\(\d|\d{3})[\d ().\-/]{6,24}\d")
PHONE_REGIONS = ("US", "GB")


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
    """Addresses of both versions; numbers with the word version before them, masks and special ranges are left."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            if match.group().count(":") < 2 and match.group().count(".") != 3:
                continue
            if _VERSION_BEFORE.search(text, max(0, match.start() - 12), match.start()):
                continue
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            # Loopback, unspecified, multicast and documentation addresses name no person's machine.
            if (
                address.is_loopback
                or address.is_unspecified
                or address.is_multicast
                or match.group().startswith("255.")
            ):
                continue
            yield Span(match.start(), match.end(), "ip-address")


def find_keys(text: str) -> Iterator[Span]:
    """Keys and tokens by the prefixes that their issuers give them, and private keys as a block."""
    for match in _KEYS.finditer(text):
        yield Span(match.start(), match.end(), "key")
    begin = _PRIVATE_KEY_BEGIN.search(text)
    while begin:
        end = _PRIVATE_KEY_END.search(text, begin.end())
        stop = end.end() if end else len(text)
        yield Span(begin.start(), stop, "key")
        begin = _PRIVATE_KEY_BEGIN.search(text, stop)


def find_phones(text: str) -> Iterator[Span]:
    """Telephone numbers that are valid with their country code, or in the first of the regions that has them."""
    for hint in _PHONE_HINT.finditer(text):
        candidate = hint.group()
        digits = sum(character.isdigit() for character in candidate)
        if not 9 <= digits <= 15 or (not candidate.startswith("+") and _looks_like_arithmetic(text, hint)):
            continue
        regions: tuple[str | None, ...] = (None,) if candidate.startswith("+") else PHONE_REGIONS
        for region in regions:
            try:
                number = phonenumbers.parse(candidate, region)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(number):
                yield Span(hint.start(), hint.end(), "phone")
                break


def _looks_like_arithmetic(text: str, hint: re.Match[str]) -> bool:
    """Whether a run of digits is no telephone number: without separators, or part of a word or a calculation."""
    run = hint.group()
    before, after = text[max(0, hint.start() - 1) : hint.start()], text[hint.end() : hint.end() + 1]
    if before.isalnum() or after.isalnum() or (before and before in "._-+*/=") or (after and after in "_*/=%"):
        return True
    separators = [character for character in run if not character.isdigit()]
    groups = [group for group in re.split(r"\D+", run) if group]
    return not separators or max(map(len, groups)) > 5 or len(groups) < 3 or "/" in run or ". " in run


RECOGNISERS: tuple[Callable[[str], Iterator[Span]], ...] = (find_keys, find_emails, find_ip_addresses, find_phones)


def find(text: str) -> list[Span]:
    """All personal spans of a text from left to right; where two overlap, the one of the earlier recogniser stays."""
    taken: list[Span] = []
    for recognise in RECOGNISERS:
        for span in recognise(text):
            if all(span.end <= other.start or span.start >= other.end for other in taken):
                taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with a typed placeholder for each personal span, and how many of each kind there were."""
    spans = find(text)
    if not spans:
        return text, {}
    pieces, counts, place = [], dict[str, int](), 0
    for span in spans:
        pieces += [text[place : span.start], f"<{span.kind}>"]
        counts[span.kind] = counts.get(span.kind, 0) + 1
        place = span.end
    return "".join(pieces) + text[place:], counts
