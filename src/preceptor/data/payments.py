"""Card numbers and international bank account numbers."""

import re
from collections.abc import Iterator
from itertools import pairwise

from preceptor.data.spans import OTHER_NUMBER, Span, View, positions

_BRANDS = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}"
    r"|62\d{14,17}|(?:50|5[6-9]|6[37])\d{14,17}|220[0-4]\d{12}"
)
"""Visa, Mastercard, American Express, Discover, JCB, Diners, UnionPay, Maestro and Mir by first digits and length."""
_LAYOUTS = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 2), (4, 4, 4, 4, 3), (6, 13), (4, 4, 4, 1)}
_IN_NAME = re.compile(r"[A-Za-z][/-]\Z")
_GROUP = re.compile(r"[0-9]+")
_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

IBAN_CHARACTERS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
"""The length of an account number in each country. Source: SWIFT, IBAN Registry."""
_IBAN_GAP = re.compile(r"[ \t\r\n|\-]{1,4}|\", ?\"")


def is_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others. Source: ISO/IEC 7812-1, annex B."""
    total = sum(map(int, digits[-1::-2])) + sum(_LUHN_DOUBLED[int(digit)] for digit in digits[-2::-2])
    return total % 10 == 0


def find_cards(view: View) -> Iterator[Span]:
    """Card numbers by brand, length and check digit, in one piece, in groups, or in two pieces on two lines."""
    text = view.text
    for start, end in view.runs(12):
        groups = [match.span() for match in _GROUP.finditer(text, start, end)]
        place = 0
        while place < len(groups):
            taken = _card_groups(text, groups, place)
            if taken:
                yield Span(groups[place][0], groups[place + taken - 1][1], "card")
            place += max(taken, 1)


def _card_groups(text: str, groups: list[tuple[int, int]], first: int) -> int:
    """How many groups from the first on make a card number; 0 for none."""
    start = groups[first][0]
    if groups[first][1] - start > 19 or _touches_more(text, start):
        return 0
    digits, lengths = "", tuple[int, ...]()
    for num_groups, (begin, end) in enumerate(groups[first : first + 5], start=1):
        digits += text[begin:end]
        lengths += (end - begin,)
        if len(digits) > 19:
            return 0
        if len(digits) < 12 or text[end : end + 1].isalnum():
            continue
        gaps = {_gap(text, left, right) for left, right in pairwise(groups[first : first + num_groups])}
        is_split = num_groups == 2 and "\n" in text[groups[first][1] : begin] and min(lengths) >= 4
        if not (num_groups == 1 or (lengths in _LAYOUTS and len(gaps) == 1) or is_split):
            continue
        is_other = num_groups == 1 and _is_other(text, start)
        is_list = num_groups > 2 and _is_part_of_list(text, groups, first, num_groups)
        if _BRANDS.fullmatch(digits) and is_luhn(digits) and not is_other and not is_list:
            return num_groups
    return 0


def _is_part_of_list(text: str, groups: list[tuple[int, int]], first: int, num_groups: int) -> bool:
    """Whether the groups stand in a longer list or column of numbers, and not in the four fields of a card."""
    taken = groups[first : first + num_groups]
    separator = _gap(text, taken[0], taken[1])
    if separator in ("", "-"):
        return False
    beside = groups[max(0, first - 1) : first + num_groups + 1]
    gaps = [_gap(text, left, right) for left, right in pairwise(beside)]
    return len(gaps) >= num_groups and gaps.count(separator) >= num_groups


def _gap(text: str, left: tuple[int, int], right: tuple[int, int]) -> str:
    """What stands between two groups, without white space; a line break counts."""
    between = text[left[1] : right[0]]
    return between.strip() or ("\n" if "\n" in between or "\t" in between else "")


def _is_other(text: str, start: int) -> bool:
    """Whether the number that starts here belongs to a name or an address, or is announced as something else."""
    is_in_name = _IN_NAME.search(text, max(0, start - 2), start)
    return bool(is_in_name or OTHER_NUMBER.search(text, max(0, start - 28), start))


def _touches_more(text: str, start: int) -> bool:
    """Whether a number goes on to the left: a letter, a decimal point, or the dash of a longer row of groups."""
    before = text[max(0, start - 2) : start]
    return bool(before) and (before[-1].isalnum() or before[-1] == "_" or (len(before) == 2 and before[0].isdigit()))


def find_ibans(view: View) -> Iterator[Span]:
    """Account numbers by country, length and check digits, in one piece, in groups or over lines and cells."""
    done = 0
    for at in positions(b"aa00", view.shape):
        if at < done or (at and view.shape[at - 1 : at] in (b"a", b"0")):
            continue
        end = _iban_end(view.text, at)
        if end:
            yield Span(at, end, "iban")
            done = end


def _iban_end(text: str, start: int) -> int:
    """Where the account number that starts here ends; 0 where there is none."""
    length = IBAN_CHARACTERS.get(text[start : start + 2].upper())
    if length is None:
        return 0
    characters, place = "", start
    while len(characters) < length:
        following = text[place : place + 1]
        if following.isascii() and following.isalnum():
            characters += following
            place += 1
        elif gap := _IBAN_GAP.match(text, place):
            place = gap.end()
        else:
            return 0
    if text[place : place + 1].isalnum():
        return 0
    code = characters[4:] + characters[:4]
    number = int("".join(str(int(character, 36)) for character in code))
    return place if number % 97 == 1 else 0
