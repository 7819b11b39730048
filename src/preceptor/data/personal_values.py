"""Made-up personal data of every kind, as correct as the standards ask, by a seeded generator."""

import importlib
import random
import re
import string
from collections.abc import Callable

import phonenumbers
from stdnum import numdb

from preceptor.data.payments import IBAN_CHARACTERS, is_luhn

Generator = Callable[[random.Random], str]

_GIVEN = ("anna", "john", "maria", "wei", "fatima", "olu", "lars", "ivan", "chloe", "priya", "kenji", "sofia", "ahmed")
_FAMILY = ("smith", "garcia", "mueller", "nguyen", "okafor", "rossi", "kim", "ivanov", "dubois", "haddad", "larsen")
_HOSTS = ("example", "mailbox", "corp-mail", "uni-berlin", "post", "acme", "hospital", "north.example", "mx1.service")
_TOP = ("com", "org", "net", "de", "fr", "co.uk", "edu", "io", "com.br", "info", "jp", "gov.au", "it", "in", "nl")
_PHONE_REGIONS = ("US", "GB", "DE", "FR", "AU", "JP", "IN", "CN", "ES", "IT", "BR", "MX", "CA", "NL", "SE", "PL", "ZA",
                  "NG", "KE", "TR", "KR", "ID", "CH", "AT", "IE", "PT", "RU", "UA", "EG", "IR")  # fmt: skip
_LETTERS_AND_DIGITS = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"


def pick(rng: random.Random, alphabet: str, count: int) -> str:
    """A text of so many characters of an alphabet."""
    return "".join(rng.choices(alphabet, k=count))


def email(rng: random.Random) -> str:
    """An e-mail address."""
    given, family, number = rng.choice(_GIVEN), rng.choice(_FAMILY), rng.randrange(1, 1000)
    local = rng.choice((f"{given}.{family}", f"{given}{number}", f"{given[0]}.{family}+news", f"{family}_{number}",
                        f"{given}-{family}.{number}", f"{given}%{family}", family))  # fmt: skip
    return f"{local}@{rng.choice(_HOSTS)}.{rng.choice(_TOP)}"


def phone(rng: random.Random) -> str:
    """A telephone number with its country code; any that its country's plan calls valid."""
    style = rng.choice((phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL))
    written = phonenumbers.format_number(_valid_number(rng, rng.choice(_PHONE_REGIONS)), style)
    return written.replace(" ", rng.choice((" ", "-", " ", ".")))


def national_phone(rng: random.Random, regions: tuple[str, ...]) -> str:
    """A telephone number as it is written inside one of the countries."""
    return phonenumbers.format_number(_valid_number(rng, rng.choice(regions)), phonenumbers.PhoneNumberFormat.NATIONAL)


def _valid_number(rng: random.Random, region: str) -> phonenumbers.PhoneNumber:
    kind = rng.choice((phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE))
    example = phonenumbers.example_number_for_type(region, kind)
    if example is None:
        return _valid_number(rng, region)
    number = example
    for _ in range(50):
        digits = str(example.national_number)
        changed = phonenumbers.PhoneNumber(example.country_code, int(digits[:-5] + pick(rng, string.digits, 5)))
        if phonenumbers.is_valid_number(changed):
            number = changed
            break
    return number


def ip_address(rng: random.Random) -> str:
    """An address of version 4 or 6 that may be a host's."""
    if rng.random() < 0.6:
        first = rng.choice([n for n in range(1, 224) if n != 127])
        return f"{first}." + ".".join(str(rng.randrange(256)) for _ in range(3))
    groups = [f"{rng.randrange(0x1000, 0x10000):x}" for _ in range(8)]
    groups[0] = rng.choice(("2001", "2a02", "2606", "fe80", "fd12"))
    if rng.random() < 0.5:
        return ":".join(groups)
    return ":".join(groups[: rng.randrange(2, 5)]) + "::" + ":".join(groups[-rng.randrange(1, 3) :])


def mac_address(rng: random.Random) -> str:
    """A hardware address of one device."""
    pairs = [f"{rng.randrange(256):02x}" for _ in range(6)]
    pairs[0] = f"{rng.randrange(4, 252) & 0xFC:02x}"
    joined = rng.choice(
        (":".join(pairs), "-".join(pairs), ".".join(a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)))
    )
    return rng.choice((joined, joined.upper()))


def card(rng: random.Random) -> str:
    """A card number with its check digit, in one piece."""
    brands = (("4", 16), ("51", 16), ("55", 16), ("2223", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 16),
              ("3528", 16), ("36", 14), ("62", 16), ("5018", 16), ("2202", 16))  # fmt: skip
    prefix, length = rng.choice(brands)
    body = prefix + pick(rng, string.digits, length - len(prefix) - 1)
    return next(body + digit for digit in string.digits if is_luhn(body + digit))


def iban(rng: random.Random) -> str:
    """An account number with its check digits, in one piece."""
    country = rng.choice(sorted(IBAN_CHARACTERS))
    structure = numdb.get("iban").info(country)[0][1]["bban"]
    alphabets = {"n": string.digits, "a": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    body = "".join(pick(rng, alphabets[kind], int(count)) for count, kind in re.findall(r"(\d+)!?([nac])", structure))
    number = int("".join(str(int(character, 36)) for character in f"{body}{country}00"))
    return f"{country}{98 - number % 97:02d}{body}"


_NATIONAL = {
    "cn.ric": "110105YYYYMMDD###C", "mx.curp": "AAAAYYMMDDHDFBBB0#", "it.codicefiscale": "BBBBBBYYPDDF###A",
    "fr.nir": "1YYMM75######CC", "th.pin": "1-####-#####-##-C", "ro.cnp": "1YYMMDD40###C", "za.idnr": "YYMMDD####08C",
    "si.emso": "DDMM9YY50###C", "kr.rrn": "YYMMDD-1######", "ch.ssn": "756.####.####.##", "us.ssn": "2##-4#-1###",
    "us.itin": "9##-7#-####", "br.cpf": "###.###.###-##", "be.nn": "YY.MM.DD-###.##", "cl.rut": "1#.###.###-K",
    "my.nric": "YYMMDD-14-####", "se.personnummer": "YYMMDD-####", "cz.rc": "YYMMDD/####", "fi.hetu": "DDMMYY-###K",
    "es.dni": "########A", "es.nie": "X#######A", "no.fodselsnummer": "DDMMYY#####", "pl.pesel": "YYMMDD#####",
    "tr.tckimlik": "1##########", "ee.ik": "3YYMMDD####", "lt.asmens": "3YYMMDD####", "hr.oib": "###########",
    "de.idnr": "###########", "dk.cpr": "DDMMYY-####", "bg.egn": "YYMMDD####", "gb.nhs": "### ### ####",
    "in_.aadhaar": "2### #### ####", "in_.pan": "AAAPA####A", "jp.in_": "#### #### ####", "ie.pps": "#######A",
    "nl.bsn": "#########", "ca.sin": "1##-###-###", "au.tfn": "### ### ###", "il.idnr": "#########",
}  # fmt: skip
"""A mask for each scheme: ``#`` a digit, ``A`` a letter, ``B`` a consonant, ``K`` a digit or K, ``C`` a digit or X."""
_ANNOUNCED = {
    "us.itin": "ITIN", "pl.pesel": "PESEL", "tr.tckimlik": "TC Kimlik No", "ee.ik": "Isikukood",
    "lt.asmens": "Asmens kodas", "hr.oib": "OIB", "de.idnr": "Steuer-ID", "dk.cpr": "CPR-nr", "bg.egn": "EGN",
    "gb.nhs": "NHS number", "in_.aadhaar": "Aadhaar", "in_.pan": "PAN", "jp.in_": "My Number", "ie.pps": "PPS",
    "nl.bsn": "BSN", "ca.sin": "SIN", "au.tfn": "TFN", "il.idnr": "ID number", "ro.cnp": "CNP",
    "za.idnr": "ID number", "si.emso": "EMŠO", "us.ssn": "SSN",
}  # fmt: skip
"""The word that people write before the number, where the number alone could be any."""


def national_id(rng: random.Random) -> tuple[str, str]:
    """A national number, and the word that stands before it."""
    module = rng.choice(sorted(_NATIONAL))
    is_valid = importlib.import_module(f"stdnum.{module}").is_valid
    while True:
        number = _filled(rng, _NATIONAL[module])
        if is_valid(number.replace(" ", "")):
            return number, _ANNOUNCED.get(module, rng.choice(("", "id")))


def _filled(rng: random.Random, mask: str) -> str:
    year, month, day = rng.randrange(1950, 2000), rng.randrange(1, 13), rng.randrange(1, 29)
    mask = mask.replace("YYYY", f"{year}").replace("YY", f"{year % 100:02d}")
    mask = mask.replace("MM", f"{month:02d}").replace("DD", f"{day:02d}")
    alphabets = {"#": string.digits, "A": string.ascii_uppercase, "B": "BCDFGLMNPRSTVZ", "K": "0123456789K",
                 "C": "0123456789X", "P": "ABCDEHLMPRST"}  # fmt: skip
    return "".join(rng.choice(alphabets.get(sign, sign)) for sign in mask)


def key(rng: random.Random) -> str:
    """An API key or token with the prefix of its issuer."""
    kinds: tuple[tuple[str, str, int], ...] = (
        ("AKIA", string.ascii_uppercase + string.digits, 16), ("ghp_", _LETTERS_AND_DIGITS, 36),
        ("github_pat_", _LETTERS_AND_DIGITS + "_", 60), ("glpat-", _LETTERS_AND_DIGITS + "-", 20),
        ("sk-proj-1", _LETTERS_AND_DIGITS, 44), ("sk-ant-api03-", _LETTERS_AND_DIGITS, 60),
        ("sk_live_", _LETTERS_AND_DIGITS, 24), ("xoxb-", string.digits, 24), ("AIza", _LETTERS_AND_DIGITS + "_-", 34),
        ("hf_", _LETTERS_AND_DIGITS, 34), ("npm_", _LETTERS_AND_DIGITS, 36), ("pypi-", _LETTERS_AND_DIGITS, 80),
        ("dop_v1_", _HEX, 64), ("SG.", _LETTERS_AND_DIGITS, 22), ("shpat_", _HEX, 32), ("dapi", _HEX, 32),
        ("hvs.", _LETTERS_AND_DIGITS, 40), ("gsk_", _LETTERS_AND_DIGITS, 52), ("lin_api_", _LETTERS_AND_DIGITS, 40),
        ("dckr_pat_", _LETTERS_AND_DIGITS, 27), ("eyJhbGciOiJIUzI1NiJ9.eyJ", _LETTERS_AND_DIGITS, 60),
    )  # fmt: skip
    prefix, alphabet, count = rng.choice(kinds)
    value = prefix + pick(rng, alphabet, count)
    if prefix == "AIza":
        return value + rng.choice(_LETTERS_AND_DIGITS)
    if prefix in ("SG.", "eyJhbGciOiJIUzI1NiJ9.eyJ"):
        return f"{value}.{pick(rng, _LETTERS_AND_DIGITS, 43)}"
    return value.rstrip("-_") + "7a" if value[-1] in "-_" else value


def private_key(rng: random.Random) -> str:
    """A private key as a PEM block; the base64 is noise."""
    label = rng.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY",
                        "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"))  # fmt: skip
    lines = [pick(rng, _LETTERS_AND_DIGITS + "+/", 64) for _ in range(rng.randrange(2, 8))]
    newline = rng.choice(("\n", "\n", "\r\n", "\\n"))
    return newline.join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"))


def credentials(rng: random.Random) -> tuple[str, str, str]:
    """What stands before the credentials of a URL, the credentials, and what stands after."""
    password = pick(rng, _LETTERS_AND_DIGITS + "!*_.~-", rng.randrange(8, 24))
    password = rng.choice(string.ascii_letters) + password[1:-1] + "7"
    host = f"{rng.choice(_HOSTS)}.{rng.choice(_TOP)}"
    if rng.random() < 0.3:
        name = rng.choice(("token", "access_token", "api_key", "password", "sig", "client_secret"))
        return f"https://{host}/v1/items?page=2&{name}=", pick(rng, _LETTERS_AND_DIGITS, 24), "&lang=en"
    scheme = rng.choice(("https", "ftp", "postgres", "mongodb+srv", "redis", "amqp", "ssh", "mysql"))
    user = rng.choice((*_GIVEN, "admin", "deploy", "svc-backup", "root"))
    return f"{scheme}://", f"{user}:{password}", f"@{host}:{rng.randrange(1024, 9999)}/main"
