"""Who has asked to be left out: domains, authors, ids, and rules as in robots.txt."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from protego import Protego

from preceptor.core.errors import DataError
from preceptor.data.document import KEEP, Document, Drop, Verdict

_KEYS = ("domains", "authors", "ids", "robots")
_REMEDY = (
    'write domains = ["example.org"], authors = [...], ids = [...], and [robots] with "example.org" = "User-agent: ..."'
)
USER_AGENTS = ("preceptor", "GPTBot", "CCBot", "Google-Extended", "ClaudeBot", "anthropic-ai")
"""Names by which rules for crawlers speak of training: whoever shut out one of these has opted out."""


@dataclass(frozen=True, slots=True)
class OptOut:
    """What is left out at somebody's wish; can be pickled."""

    domains: frozenset[str] = frozenset()
    authors: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    robots: Mapping[str, str] = field(default_factory=dict)
    """For each domain the text of its robots.txt."""

    @classmethod
    def load(cls, path: str) -> "OptOut":
        """The wishes that a TOML or JSON file holds.

        Raises:
            DataError: the file cannot be read, or a key or value of it is not understood; nothing is passed over.
        """
        file = Path(path).expanduser()
        try:
            text = file.read_text(encoding="utf-8-sig")
            table = json.loads(text) if file.suffix.lower() == ".json" else tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot be read: {error}", file=file, remedy=_REMEDY) from error
        if not isinstance(table, dict):
            raise DataError("must be a table", file=file, remedy=_REMEDY)
        if unknown := [key for key in table if key not in _KEYS]:
            raise DataError(f"{unknown[0]!r} is not one of {', '.join(_KEYS)}", file=file, remedy=_REMEDY)
        lists = {key: frozenset(map(_folded, _strings(table, key, file))) for key in ("domains", "authors")}
        ids = frozenset(_strings(table, "ids", file))
        return cls(lists["domains"], lists["authors"], ids, _robots(table.get("robots", {}), file))

    def judge(self, document: Document) -> Verdict:
        """Drop what its author, its publisher or its own id has taken out; the detail names the wish."""
        metadata = document.metadata
        for id in (document.root_id, document.source, metadata.get("id", "")):
            if id and id in self.ids:
                return Drop("opted-out", 1, 0, f"id {id}")
        author = _folded(metadata.get("author", ""))
        if author and author in self.authors:
            return Drop("opted-out", 1, 0, "its author")
        address = metadata.get("url", "") or document.origin
        return self._judge_address(address) if address else KEEP

    def _judge_address(self, address: str) -> Verdict:
        try:
            host = _folded(urlsplit(address if "//" in address else f"//{address}").hostname or "")
        except ValueError:
            # An address that is none cannot be anybody's.
            return KEEP
        labels = host.split(".")
        for start in range(len(labels)):
            domain = ".".join(labels[start:])
            if domain in self.domains:
                return Drop("opted-out", 1, 0, f"domain {domain}")
        if (rules := self.robots.get(host)) is not None:
            parser = _parser(rules)
            for agent in USER_AGENTS:
                if not parser.can_fetch(address, agent):
                    return Drop("opted-out", 1, 0, f"robots rules of {host} for {agent}")
        return KEEP


_parsers: dict[str, Protego] = {}


def _parser(rules: str) -> Protego:
    if rules not in _parsers:
        _parsers[rules] = Protego.parse(rules)
    return _parsers[rules]


def _folded(name: str) -> str:
    return " ".join(name.casefold().split()).removeprefix("*.").strip(".")


def _strings(table: Mapping[str, Any], key: str, file: Path) -> list[str]:
    values = table.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{key} must be a list of words", file=file, remedy=_REMEDY)
    return values


def _robots(table: Any, file: Path) -> dict[str, str]:
    """For each domain its rules: as they are, or from the file beside this one that is named."""
    if not isinstance(table, dict) or not all(isinstance(rules, str) for rules in table.values()):
        raise DataError("robots must be a table from domains to rules or files", file=file, remedy=_REMEDY)
    found = {}
    for domain, rules in table.items():
        if rules.strip() and "\n" not in rules and ":" not in rules:
            try:
                rules = (file.parent / rules).read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                message = f"the rules of {domain} cannot be read from {rules}: {error.strerror}"
                raise DataError(
                    message, file=file, remedy="name a file beside this one, or write the rules here"
                ) from error
        found[_folded(domain)] = rules
    return found
