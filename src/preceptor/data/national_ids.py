"""National numbers of people, by their shape, their check digits, and the word before them where these are weak."""

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from preceptor.data.spans import Span, View, positions, windows


@dataclass(frozen=True, slots=True)
class Scheme:
    """A kind of number: its name, the module of python-stdnum that checks it, and the shapes that it is written in."""

    name: str
    module: str
    alone: tuple[str, ...] = ()
    """Shapes that are enough together with the check: ``0`` for a digit, ``a`` for a letter."""
    announced: tuple[str, ...] = ()
    """Shapes that other numbers have too, which count only after a word such as ``SSN`` or ``identity number``."""


SCHEMES = (
    Scheme("cn-resident", "cn.ric", ("0" * 18, "0" * 17 + "a")),
    Scheme("mx-curp", "mx.curp", ("aaaa000000aaaaaa00", "aaaa000000aaaaaaa0")),
    Scheme("it-codice-fiscale", "it.codicefiscale", ("aaaaaa00a00a000a",)),
    Scheme("fr-nir", "fr.nir", ("0" * 15, "0 00 00 00 000 000 00", "0 00 00 00 000 000-00")),
    Scheme("th-pin", "th.pin", ("0-0000-00000-00-0",), ("0" * 13,)),
    Scheme("ro-cnp", "ro.cnp", (), ("0" * 13,)),
    Scheme("za-id", "za.idnr", ("000000 0000 000",), ("0" * 13,)),
    Scheme("si-emso", "si.emso", (), ("0" * 13,)),
    Scheme("kr-rrn", "kr.rrn", ("000000-0000000",), ("0" * 13,)),
    Scheme("ch-ahv", "ch.ssn", ("000.0000.0000.00",), ("0" * 13,)),
    Scheme("us-ssn", "us.ssn", ("000-00-0000",), ("0" * 9, "000 00 0000")),
    Scheme("us-itin", "us.itin", ("000-00-0000",), ("0" * 9,)),
    Scheme("br-cpf", "br.cpf", ("000.000.000-00",), ("0" * 11,)),
    Scheme("be-nn", "be.nn", ("00.00.00-000.00",), ("0" * 11,)),
    Scheme("cl-rut", "cl.rut", ("00.000.000-0", "00.000.000-a"), ("00000000-0", "00000000-a", "0.000.000-0")),
    Scheme("my-nric", "my.nric", ("000000-00-0000",), ("0" * 12,)),
    Scheme("se-personnummer", "se.personnummer", ("000000-0000", "00000000-0000"), ("0" * 10, "0" * 12)),
    Scheme("cz-rc", "cz.rc", ("000000/0000", "000000/000"), ("0" * 10,)),
    Scheme("fi-hetu", "fi.hetu", ("000000-0000", "000000-000a", "000000a0000", "000000a000a", "000000+000a")),
    Scheme("es-dni", "es.dni", ("00000000a", "00000000-a", "00.000.000-a")),
    Scheme("es-nie", "es.nie", ("a0000000a", "a-0000000-a")),
    Scheme("no-fodselsnummer", "no.fodselsnummer", ("0" * 11, "000000 00000")),
    Scheme("pl-pesel", "pl.pesel", (), ("0" * 11,)),
    Scheme("tr-tckimlik", "tr.tckimlik", (), ("0" * 11,)),
    Scheme("ee-isikukood", "ee.ik", (), ("0" * 11,)),
    Scheme("lt-asmens-kodas", "lt.asmens", (), ("0" * 11,)),
    Scheme("hr-oib", "hr.oib", (), ("0" * 11,)),
    Scheme("de-idnr", "de.idnr", (), ("0" * 11, "00 000 000 000")),
    Scheme("dk-cpr", "dk.cpr", (), ("000000-0000", "0" * 10)),
    Scheme("bg-egn", "bg.egn", (), ("0" * 10,)),
    Scheme("gb-nhs", "gb.nhs", (), ("0" * 10, "000 000 0000", "000-000-0000")),
    Scheme("in-aadhaar", "in_.aadhaar", (), ("0000 0000 0000", "0000-0000-0000", "0" * 12)),
    Scheme("in-pan", "in_.pan", (), ("aaaaa0000a",)),
    Scheme("jp-my-number", "jp.in_", (), ("0000 0000 0000", "0000-0000-0000", "0" * 12)),
    Scheme("ie-pps", "ie.pps", (), ("0000000a", "0000000aa")),
    Scheme("nl-bsn", "nl.bsn", (), ("0" * 9, "0000.00.000", "000.000.000")),
    Scheme("ca-sin", "ca.sin", (), ("000-000-000", "000 000 000", "0" * 9)),
    Scheme("au-tfn", "au.tfn", (), ("000 000 000", "000-000-000", "0" * 9)),
    Scheme("il-id", "il.idnr", (), ("0" * 9, "00000000-0")),
)
"""Source: python-stdnum, which names the law or the description of each."""

_WORDS = re.compile(
    r"(?<![^\W\d_])(?:ssn|social (?:security|insurance)|national (?:id|identity|insurance|number)|insurance number"
    r"|nino|identity (?:number|card|no)|id (?:number|no|card|code)|personal (?:id|code|number|identification)|itin"
    r"|citizen|tax(?:payer)?[ -]?(?:id|number|file|no|code)|nhs|cpf|pesel|nif|bsn|burgerservicenummer|sofi"
    r"|sozialversicherung\w*|ahv\w*|steuer\w*|identifikationsnummer|idnr|codice fiscale|aadha?ar|uidai"
    r"|(?-i:PAN|SIN|NIR|NIE|TIN|NIN|AVS|DNI|RUN)|rut"
    r"|curp|person(?:al)?nummer|personnr|f[øo]dselsnummer|cpr\w*|hetu|henkil[öo]tunnus|isikukood|asmens kodas|egn|егн"
    r"|cnp|oib|rodn[ée] [čc][íi]slo|em[šs]o|t\.?c\.? ?kimlik\w*|tckn|kimlik|teudat zehut|my ?number|kojin bangou|rrn"
    r"|tfn|insee|s[ée]curit[ée] sociale|ppsn?|rijksregister\w*|registre national|nric|mykad|resident)"
    r"(?![^\W\d_])|身份证|주민등록|マイナンバー|個人番号|ת\.ז",
    re.IGNORECASE,
)
_NATIONAL_INSURANCE = re.compile(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d\d){3} ?[A-D]")
"""Source: HM Revenue and Customs, NIM39110. No check digit, but few letters may start it."""
_INSURANCE_SHAPES = (b"aa000000a", b"aa 00 00 00 a", b"aa 000000 a")
_WORD_CHARACTERS = 48
_MIN_DIGITS = 6


def _pattern(shape: str) -> str:
    """What matches a shape on a view's ``shape``, with a line break after a dash or for a space."""
    return re.escape(shape).replace(r"\-", "- ?").replace(r"\ ", " {1,3}")


_BY_SHAPE: dict[str, list[tuple[Scheme, bool]]] = {}
for _scheme in SCHEMES:
    for _is_alone, _shapes in ((True, _scheme.alone), (False, _scheme.announced)):
        for _shape in _shapes:
            _BY_SHAPE.setdefault(_shape, []).append((_scheme, _is_alone))
_DIGIT_SHAPES = sorted((shape for shape in _BY_SHAPE if shape[0] == "0"), key=len, reverse=True)
_LETTER_SHAPES = [shape for shape in _BY_SHAPE if shape[0] == "a"]
_ANY_DIGIT_SHAPE = "|".join(f"({_pattern(shape)})" for shape in _DIGIT_SHAPES)
_DIGITS_FIRST = re.compile(rf"(?<![0a+])(?<![0a][-./])(?:{_ANY_DIGIT_SHAPE})(?![0a]|[-./][0a])".encode())


def find_national_ids(view: View) -> Iterator[Span]:
    """National numbers whose shape and check digits fit, and whose kind is announced where other numbers fit too."""
    for start, end in windows(view.runs(_MIN_DIGITS), len(view.text), 4):
        for match in _DIGITS_FIRST.finditer(view.shape, start, end):
            shape = _DIGIT_SHAPES[(match.lastindex or 1) - 1]
            if span := _checked(view.text, match.start(), match.end(), shape):
                yield span
    for shape in _LETTER_SHAPES:
        for start in positions(shape.encode(), view.shape):
            if _is_whole(view.shape, start, start + len(shape)) and (
                span := _checked(view.text, start, start + len(shape), shape)
            ):
                yield span
    for needle in _INSURANCE_SHAPES:
        for start in positions(needle, view.shape):
            end = start + len(needle)
            if _is_whole(view.shape, start, end) and _NATIONAL_INSURANCE.fullmatch(view.text[start:end]):
                yield Span(start, end, "national-id", "gb-nino")


def _is_whole(shape: bytes, start: int, end: int) -> bool:
    return shape[start - 1 : start] not in (b"0", b"a") and shape[end : end + 1] not in (b"0", b"a")


def _checked(text: str, start: int, end: int, shape: str) -> Span | None:
    number = re.sub(r"\s+", "", text[start:end])
    if shape[0] == "a" and not number.isupper():
        return None
    is_announced = bool(_WORDS.search(text, max(0, start - _WORD_CHARACTERS), start))
    for scheme, is_alone in _BY_SHAPE[shape]:
        if (is_alone or is_announced) and _check(scheme.module)(number):
            return Span(start, end, "national-id", scheme.name)
    return None


@cache
def _check(module: str) -> Callable[[str], bool]:
    is_valid: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return is_valid
