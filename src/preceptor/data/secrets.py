"""Keys and tokens by the prefixes that their issuers give them, values that a program calls a secret, private keys."""

import re
from collections.abc import Iterator
from itertools import pairwise
from math import log2

from preceptor.data.spans import Span, View, windows

_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"A(?:KIA|SIA|BIA|CCA)[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|gl(?:pat|dt|rt|cbt|ptt|soat)-[A-Za-z0-9_-]{20,64}"
    r"|sk-(?=[A-Za-z_-]{0,200}[0-9])[A-Za-z0-9_-]{20,200}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,120}|whsec_[A-Za-z0-9+/]{24,64}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,200}|xapp-[0-9]-[A-Za-z0-9-]{20,200}"
    r"|AIza[0-9A-Za-z_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,40}|ya29\.[A-Za-z0-9_-]{20,400}"
    r"|hf_[A-Za-z0-9]{30,64}|r8_[A-Za-z0-9]{37}|gsk_[A-Za-z0-9]{40,64}|pplx-[A-Za-z0-9]{40,64}|xai-[A-Za-z0-9]{60,90}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}|dckr_pat_[A-Za-z0-9_-]{20,64}|rubygems_[a-f0-9]{48}"
    r"|do[opr]_v1_[a-f0-9]{64}|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}"
    r"|dapi[a-f0-9]{32}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,50}|ATATT3[A-Za-z0-9_=-]{60,250}"
    r"|hvs\.[A-Za-z0-9_-]{24,200}|glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}|PMAK-[a-f0-9]{24}-[a-f0-9]{34}|NRAK-[A-Z0-9]{27}"
    r"|sbp_[a-f0-9]{40}|pscale_(?:tkn|pw)_[A-Za-z0-9_-]{32,64}|key-[a-f0-9]{32}|AC[a-f0-9]{32}|SK[a-f0-9]{32}"
    r"|AGE-SECRET-KEY-1[A-Z0-9]{58}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,70}"
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"
    r"|(?<![_-])eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,500}"
    r")(?![A-Za-z0-9])"
)
_SHORTEST_RUN = 16
_ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|api_?key|access_?key|private_?key|auth_?key|credential)s?[\"']?"
    r"(?:\s{0,2}(?::=|=>|[:=])\s{0,2}|\s{1,2})[\"']?([A-Za-z0-9+/_=.-]{16,200})(?![A-Za-z0-9+/_=.(\[-])",
    re.IGNORECASE,
)
_AUTHORISATION = re.compile(r"\b(?:Bearer|Basic) ([A-Za-z0-9+/_=.-]{16,2000})")
_PRIVATE_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINES = re.compile(r"(?:\s{0,8}[A-Za-z0-9+/=]{16,})+")
_BITS_A_CHARACTER = 3.2


def find_keys(view: View) -> Iterator[Span]:
    """Keys by their prefix, and random-looking values after a word such as secret, token or password."""
    text = view.text
    for start, end in windows(view.long_tokens(_SHORTEST_RUN), len(text)):
        for match in _KEYS.finditer(text, start, end):
            yield Span(match.start(), match.end(), "key")
        for pattern in (_ASSIGNED, _AUTHORISATION):
            for match in pattern.finditer(text, start, end):
                if _looks_random(match.group(1)):
                    yield Span(match.start(1), match.end(1), "key")


def _looks_random(value: str) -> bool:
    """Whether letters and digits are mixed as by chance; a name or a path is not."""
    if not (any(map(str.isdigit, value)) and any(map(str.isalpha, value))):
        return False
    counts = [value.count(character) for character in set(value)]
    bits = sum(-count / len(value) * log2(count / len(value)) for count in counts)
    changes = sum(a.isdigit() != b.isdigit() for a, b in pairwise(value))
    return bits >= _BITS_A_CHARACTER and changes >= 4


def find_private_keys(view: View) -> Iterator[Span]:
    """Private keys as a block, also where the end is missing."""
    text = view.text
    if "PRIVATE KEY" not in text:
        return
    begins = list(_PRIVATE_KEY_BEGIN.finditer(text))
    next_starts = [*(begin.start() for begin in begins[1:]), len(text)]
    ends = _PRIVATE_KEY_END.finditer(text)
    end = next(ends, None)
    for begin, next_start in zip(begins, next_starts, strict=False):
        while end and end.start() < begin.end():
            end = next(ends, None)
        if end and end.start() < next_start:
            yield Span(begin.start(), end.end(), "private-key")
        else:
            lines = _KEY_LINES.match(text, begin.end())
            yield Span(begin.start(), lines.end() if lines else begin.end(), "private-key")
