"""E-mail addresses and telephone numbers, also where they were written to be missed."""

import re
from collections.abc import Callable, Iterable, Iterator

import phonenumbers

from preceptor.data.spans import OTHER_NUMBER, Span, View, windows

PSEUDONYM_DOMAIN = "pseudonym.invalid"
"""Where pseudonyms of addresses live; the name cannot be registered. Source: RFC 2606."""

_LOCAL = re.compile(r"[\w.%+'-]{1,64}\Z")
_DOMAIN = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_LINE = r"[ \t]{0,3}\n?[ \t]{0,3}"
_LOOSE_LOCAL = re.compile(rf"[\w.%+-]{{2,64}}{_LINE}\Z")
_LOOSE_DOMAIN = re.compile(
    rf"{_LINE}(?P<domain>[\w-]{{2,63}}(?:\.[\w-]{{1,63}}|-\n[\w-]{{1,63}}|\n\.[\w-]{{1,63}}|\.\n[a-z]{{2,63}}){{1,8}})"
)
_LAST_LABEL = re.compile(r"[^\W\d_]{2,63}|xn--[a-z0-9-]{2,59}", re.IGNORECASE)
_NOT_TOP_LEVEL = {
    "png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "bmp", "css", "js", "jsx", "ts", "tsx", "mjs", "json", "html",
    "htm", "txt", "xml", "yml", "yaml", "toml", "pdf", "whl", "gz", "tgz", "deb", "rpm", "jar", "exe", "dll", "so",
    "service", "dot", "conj", "copy", "reshape", "shape", "transpose", "mean", "sum",
}  # fmt: skip
"""What ends the name of a file or an expression of a program after an at sign, and no host."""
_COMMON_TOP_LEVEL = {
    "com", "org", "net", "edu", "gov", "mil", "int", "info", "biz", "name", "example", "test", "invalid", "dev", "app",
    "cloud", "online", "email", "museum", "travel", "jobs", "coop", "aero",
}  # fmt: skip
_COUNTRY_NAMES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd"
    " cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd"
    " ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg"
    " kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv"
    " mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa"
    " sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug"
    " uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
"""The top-level domains of countries. Source: ISO 3166, with ac, eu, su and uk."""
_COUNTRIES = frozenset(_COUNTRY_NAMES.split())
_NO_HOST = {"the", "a", "an", "this", "that", "each", "every", "one", "some", "any", "his", "her", "our", "your"}
_CALL = re.compile(r"\w*\(")

_AT_WORD = r"(?:at|@|ät|arroba|chez|bei)"
_BRACKETED_AT = re.compile(rf"\s?[\[({{<]\s?{_AT_WORD}\s?[\])}}>]\s?", re.IGNORECASE)
_BRACKETED_AT_SIGNS = (b"(at", b"( at", b"(@", b"( @", b"(?t", b"(arroba", b"(chez", b"(bei")
_SIGNS = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ[{<]}>", b"abcdefghijklmnopqrstuvwxyz((()))")
"""Small letters, and one bracket for all."""
_SPOKEN_AT = re.compile(r"[ \t]{1,3}\n?(?:at|AT|At)[ \t\n]{1,3}")
_DOT = r"(?:\s?[\[({<]\s?(?:dot|\.|punkt|punto|point)\s?[\])}>]\s?|\s{1,3}dot\s{1,3}|\.)"
_WRITTEN_LOCAL = re.compile(rf"(?:(?<=[^\w.])|^)[\w+-]{{1,64}}(?:{_DOT}[\w+-]{{1,64}}){{0,4}}\Z", re.IGNORECASE)
_WRITTEN_DOMAIN = re.compile(rf"[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}}){{1,6}}", re.IGNORECASE)
_WRITTEN_DOT = re.compile(r"dot|punkt|punto|point|[\[({<]\s?\.", re.IGNORECASE)
_WRITTEN_CHARACTERS = 120


def find_emails(view: View) -> Iterator[Span]:
    """E-mail addresses, found outwards from each at sign, and from ``[at]`` and ``at`` where dots are written out."""
    text = view.text
    at = text.find("@")
    while at >= 0:
        # The account of a server of programs, as in git@host:project, is nobody's.
        if text[max(0, at - 4) : at].lstrip(" \n\t\"'(`/") != "git" and (
            span := _email_at(text, at) or _loose_email_at(text, at)
        ):
            yield span
        at = text.find("@", at + 1)
    yield from _find_written_emails(view)


def _email_at(text: str, at: int) -> Span | None:
    local = _LOCAL.search(text, max(0, at - 64), at)
    domain = _DOMAIN.match(text, at + 1)
    if not local or not domain or domain.group().lower().endswith(PSEUDONYM_DOMAIN):
        return None
    last = domain.group().rpartition(".")[2]
    if not _LAST_LABEL.fullmatch(last) or last.lower() in _NOT_TOP_LEVEL:
        return None
    start = local.start()
    while start < at and text[start] in ".%+-'":
        start += 1
    return None if start == at else Span(start, domain.end(), "email")


def _loose_email_at(text: str, at: int) -> Span | None:
    """An address with spaces around its at sign, or broken over two lines."""
    local = _LOOSE_LOCAL.search(text, max(0, at - 72), at)
    domain = _LOOSE_DOMAIN.match(text, at + 1)
    if not local or not domain or not _is_common(domain.group("domain"), text, domain.end()):
        return None
    if domain.group().lower().endswith(PSEUDONYM_DOMAIN):
        return None
    return Span(local.start(), domain.end(), "email")


def _is_common(domain: str, text: str, end: int) -> bool:
    """Whether a domain ends as most do, so that no other sign of an address is needed."""
    last = re.split(r"[^\w-]+", domain)[-1]
    is_country = last in _COUNTRIES or (last.isupper() and last.lower() in _COUNTRIES)
    return (last.lower() in _COMMON_TOP_LEVEL or is_country) and not _CALL.match(text, end)


def _find_written_emails(view: View) -> Iterator[Span]:
    small = view.plain.translate(_SIGNS)
    if any(sign in small for sign in _BRACKETED_AT_SIGNS):
        for found in _BRACKETED_AT.finditer(view.text):
            if span := _written_email(view.text, found.start(), found.end(), is_bracketed=True):
                yield span
    if any(sign in small for sign in (b"dot", b"(.)")):
        dots = [match.span() for match in re.finditer(rb"\bdot\b|\(\.\)", small)]
        for start, end in windows(dots, len(view.text), _WRITTEN_CHARACTERS):
            for found in _SPOKEN_AT.finditer(view.text, start, end):
                if span := _written_email(view.text, found.start(), found.end(), is_bracketed=False):
                    yield span


def _written_email(text: str, start: int, end: int, *, is_bracketed: bool) -> Span | None:
    """The address around an at sign that was written out from ``start`` to ``end``."""
    local = _WRITTEN_LOCAL.search(text, max(0, start - _WRITTEN_CHARACTERS), start)
    domain = _WRITTEN_DOMAIN.match(text, end, min(len(text), end + _WRITTEN_CHARACTERS))
    while domain and not _is_common(domain.group(), text, domain.end()):
        # The sentence may go on after the domain: give back one label after the other.
        shorter = re.search(rf"{_DOT}[\w-]{{1,63}}\Z", domain.group(), re.IGNORECASE)
        domain = _WRITTEN_DOMAIN.fullmatch(text, end, domain.start() + shorter.start()) if shorter else None
    if not local or not domain:
        return None
    if not is_bracketed and not _WRITTEN_DOT.search(domain.group()):
        return None
    if re.split(r"\W", domain.group(), maxsplit=1)[0].lower() in _NO_HOST:
        return None
    return Span(local.start(), domain.end(), "email")


_PHONE_HINT = re.compile(r"(?:\+|\(\d|\d{3}|1[ .\-(]|0\d[ .\-])[\d ().\-/]{6,24}\d")
_BROKEN_PHONE = re.compile(
    r"\+\d{1,3}(?:[ ().\-/]{0,3}\d){0,14}(?:[ \t]{0,4}[\n|][ \t]{0,8}|\", ?\")\(?\d(?:[ ().\-/]{0,3}\d){1,14}"
)
_PHONE_WORD = re.compile(
    r"(?:\b(?:phone|telephone|tel|call|mobile|cell|fax|sms|whatsapp|phone number|telefon|telefone|telefono|teléfono"
    r"|téléphone|handy|mobil|móvil|cellulare|portable|ring|text|dial|contact)\b|☎|📞|電話|电话|телефон|тел)"
    r"[^\w\n]{0,6}(?:(?:number|no|nr|num|numéro|us|me|at|on|is)\b[^\w\n]{0,4}){0,3}\Z",
    re.IGNORECASE,
)
# Area code, exchange and line of the North American plan; with nothing but spaces between, they may be any numbers.
_NORTH_AMERICAN = re.compile(r"(?:1[ .-]?)?(?:\([2-9]\d\d\) ?\d{3}[ .-]\d{4}|[2-9]\d\d([.-])\d{3}\1\d{4})")
_ZIP_CODE = re.compile(r"\d{5}-\d{4}")
_FRENCH_PAIRS = re.compile(r"0\d(?:[ .\-]\d\d){4}")
_TRUNK_ZERO = {"GB", "DE", "FR", "AU", "JP", "IR", "AT", "BE", "CH", "NL", "SE", "IE", "NZ", "ZA", "KR", "TR", "UA"}
"""Where national numbers start with a zero, which sets them apart from other groups of digits."""
PSEUDONYM_CALLING_CODE = "+999"
"""A country code that no country has, from which pseudonyms of numbers are made. Source: ITU-T E.164."""


def phone_recogniser(regions: tuple[str, ...]) -> Callable[[View], Iterator[Span]]:
    """What finds telephone numbers, those without a country code as they are written in the regions.

    Source: the number plans of libphonenumber.
    """
    trunk = tuple(region for region in regions if region in _TRUNK_ZERO)

    def find_phones(view: View) -> Iterator[Span]:
        text = view.text
        for start, end in windows(view.runs(7), len(text)):
            for found in _PHONE_HINT.finditer(text, start, end):
                # The number of an item in a list is none of the telephone number after it.
                hint = _PHONE_HINT.match(text, found.start() + 3, end) if found.group()[1:3] == ". " else found
                if hint is None:
                    continue
                announced = bool(_PHONE_WORD.search(text, max(0, hint.start() - 32), hint.start()))
                if _stands_free(text, hint, announced) and _is_phone(hint.group(), announced, regions, trunk):
                    yield Span(hint.start(), hint.end(), "phone")
            if "+" in text[start:end]:
                for hint in _BROKEN_PHONE.finditer(text, start, end):
                    digits = re.sub(r"[^\d+]", "", hint.group())
                    first_line = re.split(r"[\n|\"]", hint.group(), maxsplit=1)[0]
                    if not _is_valid(first_line) and _is_valid(digits):
                        yield Span(hint.start(), hint.end(), "phone")

    return find_phones


def _is_valid(number: str) -> bool:
    return _plan_knows(number, (None,), phonenumbers.is_valid_number)


def _stands_free(text: str, hint: re.Match[str], is_announced: bool) -> bool:
    """Whether it is a number of its own and not a part of another, or of a row whose name is another's."""
    if not is_announced and hint.group()[0] != "+":
        is_after_point = re.search(r"\w\.\Z", text[max(0, hint.start() - 2) : hint.start()])
        is_other = OTHER_NUMBER.search(text, max(0, hint.start() - 28), hint.start())
        if is_after_point or is_other or " - " in hint.group():
            return False
    digits = sum(map(str.isdigit, hint.group()))
    before, after = text[max(0, hint.start() - 1) : hint.start()], text[hint.end() : hint.end() + 1]
    return 7 <= digits <= 15 and not _joins(before) and not _joins(after)


def _joins(neighbour: str) -> bool:
    """Whether the character beside a run of digits makes it part of a word or a calculation."""
    return bool(neighbour) and neighbour.isascii() and (neighbour.isalnum() or neighbour in "_*/=%^+")


def _is_phone(candidate: str, is_announced: bool, regions: tuple[str, ...], trunk: tuple[str, ...]) -> bool:
    groups = re.findall(r"\d+", candidate)
    if candidate.startswith("+"):
        # A number with one point is a decimal fraction, unless the point stands after the country code.
        if candidate[1] == " " and not is_announced:
            return False
        is_fraction = candidate.count(".") == 1 and len(groups[0]) > 3
        is_pseudonym = candidate.startswith(PSEUDONYM_CALLING_CODE)
        return not is_fraction and not is_pseudonym and _plan_knows(candidate, (None,), phonenumbers.is_possible_number)
    if _NORTH_AMERICAN.fullmatch(candidate):
        return "US" in regions
    if is_announced:
        return _plan_knows(candidate, regions, phonenumbers.is_possible_number)
    if not candidate.lstrip("(").startswith("0") or len(groups) < 2 or "/" in candidate or ". " in candidate:
        return False
    # Thousands are written in groups of three, and a decimal fraction in two; a telephone number in neither.
    if (len(groups) == 2 and "." in candidate) or set(map(len, groups)) == {3} or _ZIP_CODE.fullmatch(candidate):
        return False
    if len(groups[0]) == 2 and not candidate.startswith("("):
        return "FR" in regions and bool(_FRENCH_PAIRS.fullmatch(candidate))
    return _plan_knows(candidate, trunk, phonenumbers.is_valid_number)


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
