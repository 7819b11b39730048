"""Licences by their SPDX names: what people write, as the expression that they mean."""

import re
from functools import cache, lru_cache
from typing import Any

from preceptor.core.errors import ConfigError
from preceptor.data.document import UNKNOWN_LICENCE

# SPDX ids that need no table, which takes 50 ms to load.
_AT_HAND = {UNKNOWN_LICENCE, "PSF-2.0"}
_MAX_CHARACTERS = 200
_ALIASES = {
    "apache": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache2": "Apache-2.0",
    "asl-2.0": "Apache-2.0",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "gfdl": "GFDL-1.3-or-later",
    "gpl-2": "GPL-2.0-only",
    "gpl-2+": "GPL-2.0-or-later",
    "gpl-3": "GPL-3.0-only",
    "gpl-3+": "GPL-3.0-or-later",
    "gplv2": "GPL-2.0-only",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv3+": "GPL-3.0-or-later",
    "mpl-2": "MPL-2.0",
    "psf": "PSF-2.0",
    "python": "PSF-2.0",
}
"""What people write, in lower case with hyphens, and the SPDX id that they mean."""
_CREATIVE_COMMONS = re.compile(r"cc-by(?:-nc)?(?:-nd|-sa)?-(?:[1-4]\.0|2\.5)")

CC_URL = re.compile(
    r"creativecommons\.org/(?:licenses/(by(?:-(?:nc|nd|sa)){0,2})/(\d\.\d)|(publicdomain/zero)/(1\.0))", re.IGNORECASE
)
OTHER_URL = re.compile(
    r"(?:opensource\.org/licen[sc]es?/([A-Za-z0-9.-]{2,40})|spdx\.org/licenses/([A-Za-z0-9.-]{2,40})"
    r"|(apache\.org/licenses/LICENSE-2\.0)|gnu\.org/licenses/(?:old-licenses/)?((?:a|l|f)?(?:gpl|dl)-\d\.\d)"
    r"|(mozilla\.org/(?:en-US/)?MPL/2\.0))",
    re.IGNORECASE,
)

_OWN_NAME = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]{1,60}:)?LicenseRef-[A-Za-z0-9.-]{1,60}")


@cache
def licensing() -> Any:
    """The parser of expressions with the table of SPDX licences."""
    # The table of licences takes 50 ms to load, which no command that reads no licence should pay.
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def spdx(text: str) -> str | None:
    """The SPDX expression that a text is or plainly means, ``unknown`` for none, or None where it is neither."""
    # What is overlong must not even be remembered.
    text = text.strip()
    return _spdx(text) if len(text) <= _MAX_CHARACTERS else None


def require_licence(text: str) -> None:
    """Refuse what is no licence.

    Raises:
        ValueError: says how one is written.
    """
    if spdx(text) is None:
        raise ValueError(f'licence must be an SPDX expression such as "CC-BY-4.0" or "unknown", got {text!r}')


@lru_cache(maxsize=4096)
def _spdx(text: str) -> str | None:
    if text in _AT_HAND:
        return text
    if text.lower() in ("", UNKNOWN_LICENCE, "none", "n/a", "noassertion"):
        return UNKNOWN_LICENCE
    key = re.sub(r"[\s_,]+", "-", text.lower()).removeprefix("the-")
    key = re.sub(r"-v(?=\d)", "-", re.sub(r"-licen[cs]e(?=-|$)|-version(?=-)", "", key))
    if _CREATIVE_COMMONS.fullmatch(key):
        return key.upper()
    from license_expression import ExpressionError, ParseError

    for candidate in (text, _ALIASES.get(key, key)):
        try:
            parsed = licensing().parse(candidate)
            if parsed is not None and not _has_own_names_only(parsed):
                parsed = licensing().parse(candidate, validate=True)
        except (ExpressionError, ParseError, IndexError):
            # The parser meets an empty pair of brackets with an IndexError.
            continue
        if parsed is not None:
            return str(parsed.render())
    return None


def _has_own_names_only(parsed: Any) -> bool:
    """Whether all that the table lacks of an expression are names by which a document calls a licence of its own."""
    unknown = licensing().unknown_license_keys(parsed)
    return bool(unknown) and all(_OWN_NAME.fullmatch(name) for name in unknown)


def licence_of_url(url: str) -> str:
    """The SPDX id of the licence that has an address, or the empty string."""
    if match := CC_URL.search(url):
        kind = (match[1] or "").lower().replace("nd-nc", "nc-nd")
        return "CC0-1.0" if match[3] else spdx(f"CC-{kind}-{match[2]}") or ""
    if match := OTHER_URL.search(url):
        if match[3]:
            return "Apache-2.0"
        if match[5]:
            return "MPL-2.0"
        name = (match[1] or match[2] or match[4]).lower().rstrip(".-").removesuffix(".html").removesuffix(".php")
        if match[4]:
            name = f"g{name}-only" if name.startswith("fdl") else f"{name}-only"
        licence = spdx(name) or ""
        return "" if licence == UNKNOWN_LICENCE else licence
    return ""


def normalise_licence(text: str, where: str) -> str:
    """The SPDX expression in its canonical form, or ``unknown``.

    Raises:
        ConfigError: the text is neither; ``where`` names the place it was read from.
    """
    licence = spdx(text)
    if licence is None:
        raise ConfigError(
            f"{where}: {text!r} is not an SPDX licence expression",
            path=where,
            expected='for example "MIT", "CC-BY-4.0" or "Apache-2.0 OR MIT"',
            remedy='write an SPDX expression such as "CC-BY-4.0", or "unknown"',
        )
    return licence
