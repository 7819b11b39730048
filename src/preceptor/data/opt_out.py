"""Who has asked to be left out: domains, authors, ids, and rules as in robots.txt."""

import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from protego import Protego

from preceptor.core.errors import ConfigError, DataError
from preceptor.data.document import KEEP, Document, Drop, Verdict

_KEYS = ("domains", "authors", "ids", "robots")
_REMEDY = (
    'write domains = ["example.org"], authors = [...], ids = [...], and [robots] with "example.org" = "User-agent: ..."'
)
_AUTHOR_KEYS = ("author", "authors", "creator")
_BETWEEN_AUTHORS = re.compile(r"[;,&|]| and ")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:(?=//)")
_PORT = re.compile(r":\d{0,5}\Z")
_AGENT_LINE = re.compile(r"^[ \t]{0,8}user-?agent[ \t]{0,8}:", re.IGNORECASE | re.MULTILINE)
USER_AGENTS = (
    "preceptor",
    "GPTBot",
    "CCBot",
    "Google-Extended",
    "ClaudeBot",
    "anthropic-ai",
    "Applebot-Extended",
    "Bytespider",
    "meta-externalagent",
)
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
            ConfigError: there is no such file; names the key of the recipe.
            DataError: the file cannot be read, or a key or value of it is not understood; nothing is passed over.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "there is no such file"
            remedy = "name a file that exists, or leave data.rights.opt_out empty where nobody is to be left out"
            raise ConfigError(f"data.rights.opt_out: {file}: {what}", path="data.rights.opt_out", remedy=remedy)
        try:
            text = file.read_text(encoding="utf-8-sig")
            is_json = file.suffix.lower() == ".json"
            table = json.loads(text, object_pairs_hook=_without_doubles) if is_json else tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot be read: {error}", file=file, remedy=_REMEDY) from error
        if not isinstance(table, dict):
            raise DataError("must be a table", file=file, remedy=_REMEDY)
        if unknown := [key for key in table if key not in _KEYS]:
            raise DataError(f"{unknown[0]!r} is not one of {', '.join(_KEYS)}", file=file, remedy=_REMEDY)
        domains = frozenset(_domain(name, file) for name in _strings(table, "domains", file))
        authors = frozenset(map(_folded, _strings(table, "authors", file)))
        ids = frozenset(id.strip() for id in _strings(table, "ids", file))
        return cls(domains, authors, ids, _robots(table.get("robots", {}), file))

    def judge(self, document: Document) -> Verdict:
        """Drop what its author, its publisher or its own id has taken out; the detail names the wish."""
        metadata = document.metadata
        for id in (document.root_id, document.id, document.source, metadata.get("id", "").strip()):
            if id and id in self.ids:
                return Drop("opted-out", 1, 0, f"id {id}")
        if self.authors and (author := self._author_who_wished(metadata)):
            return Drop("opted-out", 1, 0, f"author {author}")
        for address in dict.fromkeys((metadata.get("url", ""), document.origin)):
            if address and isinstance(verdict := self._judge_address(address), Drop):
                return verdict
        return KEEP

    def _author_who_wished(self, metadata: Mapping[str, str]) -> str:
        """The author of a document, or one of several, who has asked to be left out; else the empty string."""
        for key in _AUTHOR_KEYS:
            if (whole := _folded(metadata.get(key, ""))) in self.authors:
                return whole
            for name in _BETWEEN_AUTHORS.split(whole):
                if name.strip() in self.authors:
                    return name.strip()
        return ""

    def _judge_address(self, address: str) -> Verdict:
        host, path = _host_and_path(address)
        labels = host.split(".")
        parents = [".".join(labels[start:]) for start in range(len(labels))]
        for domain in parents:
            if domain in self.domains:
                return Drop("opted-out", 1, 0, f"domain {domain}")
        for domain in parents:
            if (rules := self.robots.get(domain)) is not None:
                for agent in USER_AGENTS:
                    if not _parser(rules).can_fetch(f"https://{host}{path}", agent):
                        return Drop("opted-out", 1, 0, f"robots rules of {domain} for {agent}")
                # The rules nearest to a host are its own.
                break
        return KEEP


@lru_cache(maxsize=4096)
def _parser(rules: str) -> Protego:
    return Protego.parse(rules)


def _host_and_path(address: str) -> tuple[str, str]:
    """The host of an address in its one spelling, and what follows it; also of an address that is broken."""
    # As a browser does: white space within is passed over, and a backslash is a slash.
    address = re.sub(r"[\t\r\n]", "", address.strip()).replace("\\", "/")
    scheme = _SCHEME.match(address)
    rest = address[scheme.end() if scheme else 0 :].lstrip("/")
    end = next((place for place, mark in enumerate(rest) if mark in "/?#"), len(rest))
    host = rest[:end].rpartition("@")[2]
    path = rest[end:]
    return _plain_host(_PORT.sub("", host)), path if path.startswith("/") else f"/{path}"


@lru_cache(maxsize=65536)
def _plain_host(name: str) -> str:
    """The name of a host as it is sent: in small letters, ASCII, without the last dot."""
    name = name.strip().lower().strip(".")
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name.casefold()


def _domain(wish: str, file: Path) -> str:
    """The name of a domain as hosts are compared with it; ``*.`` before it says the same as nothing."""
    name = _plain_host(wish.strip().removeprefix("*."))
    if not name or any(mark in "/:@*?#\\" or mark.isspace() for mark in name):
        message = f"{wish!r} is not the name of a domain"
        raise DataError(message, file=file, remedy='write it as "example.org", without scheme, port and path')
    return name


def _folded(name: str) -> str:
    """The name of a person as it is compared: without regard to case, spaces and compatible forms of letters."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = value
    return found


def _strings(table: Mapping[str, Any], key: str, file: Path) -> list[str]:
    values = table.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{key} must be a list of words", file=file, remedy=_REMEDY)
    return values


def _robots(table: Any, file: Path) -> dict[str, str]:
    """For each domain its rules: as they are, or from the file beside this one that is named."""
    if not isinstance(table, dict) or not all(isinstance(rules, str) for rules in table.values()):
        raise DataError("robots must be a table from domains to rules or files", file=file, remedy=_REMEDY)
    found: dict[str, str] = {}
    for name, rules in table.items():
        domain = _domain(name, file)
        if domain in found:
            raise DataError(f"the rules of {domain} stand there twice", file=file, remedy="write them once")
        if rules.strip() and "\n" not in rules and ":" not in rules:
            try:
                rules = (file.parent / rules.strip()).read_text(encoding="utf-8-sig", errors="replace")
            except (OSError, ValueError) as error:
                message = f"the rules of {domain} cannot be read from {rules}: {error}"
                raise DataError(
                    message, file=file, remedy="name a file beside this one, or write the rules here"
                ) from error
        if not _AGENT_LINE.search(rules):
            message = f"the rules of {domain} name no User-agent, so that they would shut out nobody"
            raise DataError(message, file=file, remedy='begin them with a line such as "User-agent: *"')
        found[domain] = rules
    return found
