"""By what right a document may train: which licence it is under, and the policy that judges it."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal

from preceptor.data.document import KEEP, UNKNOWN_LICENCE, Document, Drop, Verdict
from preceptor.data.licence_text import Evidence, TextKind, detect
from preceptor.data.spdx import licensing, spdx

__all__ = ["UNKNOWN_LICENCE", "Evidence", "Policy", "RightsConfig", "TextKind", "detect", "settle"]

_MAX_STATED_CHARACTERS = 1000


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
    """A file of domains, authors, ids and robots rules that are left out; TOML or JSON, see docs/data.md."""

    def __post_init__(self) -> None:
        """Refuse ids that are no licence, and a policy under which nothing may train."""
        for name in ("allow", "deny"):
            for pattern in getattr(self, name):
                if not pattern.strip() or ("*" not in pattern and spdx(pattern) is None):
                    raise ValueError(f'{name} must hold SPDX ids or patterns such as "CC-BY-*", got {pattern!r}')
        if not self.consent:
            raise ValueError("consent must name at least one of granted, by-licence and unknown")


def settle(declared: str, evidence: Evidence | None, stated: str = "") -> tuple[str, dict[str, str]]:
    """The licence of a document as SPDX, and what its metadata should say of how that was found.

    What the record states for itself wins over what its source declares for all. Where the text states another licence
    than was declared, both must be kept to: the licence is ``declared AND detected``.
    """
    notes = {}
    licence = declared
    if stated.strip():
        licence = spdx(stated) or UNKNOWN_LICENCE
        if licence == UNKNOWN_LICENCE:
            notes["stated_licence"] = stated.strip()[:_MAX_STATED_CHARACTERS]
    if evidence is None:
        return licence, notes
    if licence == UNKNOWN_LICENCE:
        return evidence.licence, notes | {"licence_from": f"{evidence.where}: {evidence.quote}"}
    if _covers(licence, evidence.licence):
        return licence, notes
    both = licensing().parse(f"({licence}) AND ({evidence.licence})").simplify()
    return str(both.render()), notes | {"licence_from": f"{evidence.where}: {evidence.quote}"}


@cache
def _covers(licence: str, found: str) -> bool:
    """Whether a licence already names the one that was found."""
    return found == licence or set(_symbols(found)) <= set(_symbols(licence))


def _symbols(licence: str) -> list[str]:
    return [str(symbol) for symbol in licensing().parse(licence).symbols]


class Policy:
    """The policy of a recipe: what of its rights a document must have to train."""

    def __init__(self, config: RightsConfig) -> None:
        self.config = config
        self._allow = tuple(_canonical(pattern) for pattern in config.allow)
        self._deny = tuple(_canonical(pattern) for pattern in config.deny)
        self._known: dict[str, str] = {}

    def judge(self, document: Document) -> Verdict:
        """Whether a document may train; the detail says what stands against it."""
        if document.licence == UNKNOWN_LICENCE:
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
            expression = licensing().parse(licence)
            if self._is_usable(expression, ()):
                is_listed = not self._allow or self._is_usable(expression, self._allow)
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
        return not allow or any(_matches(name, pattern) or _is_later(name, pattern) for pattern in allow)


def _canonical(pattern: str) -> str:
    return pattern if "*" in pattern else spdx(pattern) or pattern


def _matches(name: str, pattern: str) -> bool:
    """Whether a licence is the one named; a licence WITH an exception is also matched by the licence alone."""
    return fnmatchcase(name.lower(), pattern.lower()) or fnmatchcase(
        name.partition(" WITH ")[0].lower(), pattern.lower()
    )


def _is_later(name: str, pattern: str) -> bool:
    """Whether ``GPL-2.0-or-later`` may be used as the version that a pattern names."""
    family, _, version = name.removesuffix("-or-later").rpartition("-")
    wanted_family, _, wanted = pattern.removesuffix("-or-later").removesuffix("-only").rpartition("-")
    if not name.endswith("-or-later") or family != wanted_family:
        return False
    try:
        return float(wanted) >= float(version)
    except ValueError:
        return False
