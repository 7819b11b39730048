"""IP and MAC addresses, and credentials in URLs."""

import ipaddress
import re
from collections.abc import Iterator

from preceptor.data.spans import Span, View, windows

_DOT = r"(?:\.|\[\.\]|\(\.\)|\[dot\]|\(dot\))"
_IPV4 = re.compile(rf"(?<![\w.])\d{{1,3}}(?:{_DOT}\d{{1,3}}){{3}}(?!\w|\.\d)", re.ASCII)
_IPV4_SHAPES = (re.compile(rb"0\.0{1,3}\.0{1,3}\.0"), re.compile(rb"0[\[(](?:\.|aaa)[\])]0"))
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?:\.\d{1,3}){3})?(?![\w:]|\.\d)", re.ASCII
)
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:versions?|releases?|sections?|chapter|python|firmware|build|driver|revision|rev|ver|v|oid|kernel)"
    r"[ :=#\"'(-]{0,3}|[<>=!~]= {0,2}|[A-Za-z]/)\Z",
    re.IGNORECASE,
)
_VERSION_AFTER = re.compile(r"[-+~][\w.+~-]{1,24}\)|[-~+](?:ubuntu|deb|dfsg|rc|beta|alpha|build|git|bpo)")
_MAC = re.compile(
    r"(?<![\w:.-])(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}"
    r"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![\w-]|[:.]\w)"
)
_MAC_PARTS = (
    re.compile(r":[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}:"),
    re.compile(r"-[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-"),
    re.compile(r"\.[0-9A-Fa-f]{4}\."),
)
_MAC_WORD = re.compile(r"\b(?:mac|ether|hwaddr|bssid|physical address|hardware address)\b[^\n]{0,12}\Z", re.IGNORECASE)
_DATE_AND_TIME = re.compile(r"\d\d-[01]\d-[0-3]\d-[0-2]\d-[0-5]\d-[0-5]\d")
_NOBODYS_MAC = re.compile(r"0+|[fF]+|(?:01005[eE]|3333)[0-9a-fA-F]+")
_USER = re.compile(r"[^\s/@:?#\"'<>\[\]{}`|]{0,64}(?::[^\s/@?#\"'<>\[\]`|]{1,128})?@(?=[\w\[])")
_QUERY_SECRET = re.compile(
    r"[?&;](?:access_token|auth_token|refresh_token|id_token|token|api_?key|apikey|password|passwd|pwd|pass|secret"
    r"|client_secret|signature|sig|session_?id|auth)=([^&\s#\"'<>)\]};,]{6,512})",
    re.IGNORECASE,
)
_NO_PASSWORD = {"password", "passwd", "pass", "pwd", "secret", "token", "xxx", "xxxx", "changeme", "your_password"}


DISCARDED = ipaddress.IPv6Network("100::/64")
"""Addresses that lead nowhere, in which pseudonyms lie. Source: RFC 6666."""


def find_ip_addresses(view: View) -> Iterator[Span]:
    """Addresses of both versions; what stands where a version number stands, masks and loopback are left."""
    text = view.text
    for start, end in windows((match.span() for match in _COLONS.finditer(text)), len(text)):
        for match in _IPV6.finditer(text, start, end):
            if _is_written_ipv6(match.group()) and _is_somebodys(match.group()):
                yield Span(match.start(), match.end(), "ip-address")
    hints = [match.span() for shape in _IPV4_SHAPES for match in shape.finditer(view.shape)]
    for start, end in windows(sorted(hints), len(text)):
        for match in _IPV4.finditer(text, start, end):
            before = _VERSION_BEFORE.search(text, max(0, match.start() - 14), match.start())
            if not (before or _VERSION_AFTER.match(text, match.end())) and _is_somebodys(
                re.sub(r"[^\d]+", ".", match.group())
            ):
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
    if address.version == 4:
        # Masks, and the reserved block 240.0.0.0/4, in which pseudonyms lie.
        is_nobodys = candidate.startswith("0.") or int(candidate.partition(".")[0]) >= 240
    else:
        is_nobodys = address in DISCARDED
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or is_nobodys)


def find_mac_addresses(view: View) -> Iterator[Span]:
    """Hardware addresses in the notations of IEEE 802 and of routers, but not broadcast, multicast or fingerprints."""
    text = view.text
    for pattern in _MAC_PARTS:
        for start, end in windows((match.span() for match in pattern.finditer(text)), len(text)):
            for match in _MAC.finditer(text, start, end):
                digits = re.sub(r"[:.-]", "", match.group())
                announced = _MAC_WORD.search(text, max(0, match.start() - 40), match.start())
                if not _NOBODYS_MAC.fullmatch(digits) and (announced or not _DATE_AND_TIME.fullmatch(match.group())):
                    yield Span(match.start(), match.end(), "mac-address")


def find_url_credentials(view: View) -> Iterator[Span]:
    """The name and password before the host of a URL, and what stands after ``token=`` and its like in the query."""
    text = view.text
    at = text.find("://")
    while at >= 0:
        found = _USER.match(text, at + 3)
        if found and _is_credential(found.group()[:-1]):
            yield Span(found.start(), found.end() - 1, "url-credentials")
        at = text.find("://", at + 3)
    if "=" in text and ("?" in text or "&" in text):
        for found in _QUERY_SECRET.finditer(text):
            if _is_value(found.group(1)):
                yield Span(found.start(1), found.end(1), "url-credentials")


def _is_credential(user: str) -> bool:
    name, colon, password = user.partition(":")
    if colon:
        return _is_value(password)
    return len(name) >= 20 and any(map(str.isdigit, name)) and any(map(str.isalpha, name))


def _is_value(value: str) -> bool:
    """Whether it is a value and not a gap to be filled: ``${PASSWORD}``, ``%s``, ``***``, ``password``."""
    is_gap = value[0] in "$%{*" or value.startswith(("...", "your", "YOUR", "<")) or set(value) <= set("xX*.")
    return not is_gap and value.lower() not in _NO_PASSWORD
