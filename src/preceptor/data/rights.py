"""By what right a document may train: which licence it is under, and the policy that judges it."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

from preceptor.data.document import KEEP, UNKNOWN_LICENCE, Document, Drop, Verdict
from preceptor.data.licence_text import Evidence, TextKind, detect
from preceptor.data.spdx import licensing, spdx

__all__ = ["UNKNOWN_LICENCE", "Evidence", "Policy", "RightsConfig", "TextKind", "detect", "settle"]

_MAX_STATED_CHARACTERS = 1000
_MAX_EXPRESSION_CHARACTERS = 1000
_MAX_REMEMBERED = 4096
"""Documents state licences of their own wording, of which there may be as many as documents."""
_OWN = "LicenseRef-"


@dataclass(frozen=True, kw_only=True, slots=True)
class RightsConfig:
    """What may train: licences, consent, and who has asked to be left out."""

    unknown: Literal["refuse", "keep"] = "refuse"
    """What happens to a document whose licence nobody declared and nothing states."""
    allow: tuple[str, ...] = ()
    """Licences under which a document may train, as SPDX ids or patterns such as "CC-BY-*"; empty: every known one."""
    deny: tuple[str, ...] = ()
    """Licences under which none may, such as "*-NC-*"; wins over allow."""
    consent: tuple[Literal["granted", "by-licence", "unknown"], ...] = ("granted", "by-licence", "unknown")
    """What consent a document must have."""
    detect: bool = True
    """Whether licences are looked for in the texts, beside what the sources declare."""
    opt_out: str = ""
    """A file of domains, authors, ids and robots rules that are left out; TOML or JSON, see docs/rights-and-bias.md."""

    def __post_init__(self) -> None:
        """Refuse ids that are no licence, and a policy under which nothing may train."""
        for name in ("allow", "deny"):
            for pattern in getattr(self, name):
                if not _names_licences(pattern):
                    raise ValueError(f'{name} must hold SPDX ids or patterns such as "CC-BY-*", got {pattern!r}')
        if not self.consent:
            raise ValueError("consent must name at least one of granted, by-licence and unknown")


def settle(declared: str, evidence: Evidence | None, stated: str = "") -> tuple[str, dict[str, str]]:
    """The licence of a document as SPDX, and what its metadata should say of how that was found.

    What the record states for itself wins over what its source declares for all; where it states what cannot be
    understood, the licence is unknown, whatever else is found. Where the text states another licence than was
    declared, both must be kept to: the licence is ``declared AND detected``; it is unknown where that is overlong.
    """
    notes = {}
    licence, is_understood = declared, True
    if stated.strip():
        found = spdx(stated)
        licence, is_understood = found or UNKNOWN_LICENCE, found is not None
        if licence == UNKNOWN_LICENCE:
            notes["stated_licence"] = stated.strip()[:_MAX_STATED_CHARACTERS]
    if evidence is None:
        return licence, notes
    noted = notes | {"licence_from": f"{evidence.where}: {evidence.quote}"}
    if licence == UNKNOWN_LICENCE:
        return (evidence.licence if is_understood else licence), noted
    if len(licence) + len(evidence.licence) > _MAX_EXPRESSION_CHARACTERS:
        return UNKNOWN_LICENCE, noted
    both = _both(licence, evidence.licence)
    return both, notes if both == licence else noted


@lru_cache(maxsize=_MAX_REMEMBERED)
def _both(licence: str, found: str) -> str:
    """The expression by which both are kept to: ``licence`` as it stands where whoever keeps to it keeps to both."""
    if found == licence:
        return licence
    both = licensing().parse(f"({licence}) AND ({found})").simplify()
    return licence if both == licensing().parse(licence).simplify() else str(both.render())


class Policy:
    """The policy of a recipe: what of its rights a document must have to train."""

    def __init__(self, config: RightsConfig) -> None:
        self.config = config
        self._allow = tuple(_canonical(pattern) for pattern in config.allow)
        self._deny = tuple(_canonical(pattern) for pattern in config.deny)
        self._known: dict[str, str] = {}

    def judge(self, document: Document) -> Verdict:
        """Whether a document may train; the detail says what stands against it."""
        if document.licence == UNKNOWN_LICENCE or len(document.licence) > _MAX_EXPRESSION_CHARACTERS:
            if self.config.unknown == "refuse":
                stated = document.metadata.get("stated_licence")
                return Drop("unknown-licence", 1, 0, f"it says {stated!r}" if stated else "none is declared or stated")
        elif rule := self._refusal(document.licence):
            return Drop(rule, 1, 0, document.licence)
        if document.consent not in self.config.consent:
            return Drop("consent-missing", 1, 0, f"consent is {document.consent}")
        return KEEP

    def _refusal(self, licence: str) -> str:
        """The rule by which a licence is refused, or the empty string; remembered, since there are few licences."""
        if licence not in self._known:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            expression = licensing().parse(licence)
            if self._is_usable(expression, ("*", f"{_OWN}*")):
                # A licence of somebody's own is known to nobody else: only who names it allows it.
                is_listed = self._is_usable(expression, self._allow or ("*",))
                self._known[licence] = "" if is_listed else "licence-not-allowed"
            else:
                self._known[licence] = "licence-denied"
        return self._known[licence]

    def _is_usable(self, expression: Any, allow: tuple[str, ...]) -> bool:
        """Whether an expression can be kept to with allowed and undenied licences: any of an OR, all of an AND."""
        parts = getattr(expression, "args", ())
        operator = type(expression).__name__
        if operator == "OR":
            return any(self._is_usable(part, allow) for part in parts)
        if operator == "AND":
            return all(self._is_usable(part, allow) for part in parts)
        name = str(expression)
        if any(_matches(name, pattern) for pattern in self._deny):
            return False
        if _OWN in name:
            allow = tuple(pattern for pattern in allow if _OWN in pattern)
        return any(_matches(name, pattern) or _is_later(name, pattern) for pattern in allow)


def _names_licences(pattern: str) -> bool:
    """Whether a pattern is the id of one licence, or one or more are meant by its stars."""
    if "*" not in pattern:
        name = spdx(pattern)
        return name not in (None, UNKNOWN_LICENCE) and not re.search(r" (?:AND|OR) ", str(name))
    names = licensing().known_symbols
    return pattern.startswith(_OWN) or any(fnmatchcase(name.lower(), pattern.lower()) for name in names)


def _canonical(pattern: str) -> str:
    return pattern if "*" in pattern else spdx(pattern) or pattern


def _matches(name: str, pattern: str) -> bool:
    """Whether a licence is the one named; a licence WITH an exception is also matched by the licence alone."""
    return fnmatchcase(name.lower(), pattern.lower()) or fnmatchcase(
        name.partition(" WITH ")[0].lower(), pattern.lower()
    )


def _is_later(name: str, pattern: str) -> bool:
    """Whether ``GPL-2.0-or-later`` may be used as the version that a pattern names."""
    name = name.partition(" WITH ")[0]
    family, _, version = name.removesuffix("-or-later").rpartition("-")
    wanted_family, _, wanted = pattern.removesuffix("-or-later").removesuffix("-only").rpartition("-")
    if not name.endswith("-or-later") or family != wanted_family:
        return False
    try:
        return float(wanted) >= float(version)
    except ValueError:
        return False
