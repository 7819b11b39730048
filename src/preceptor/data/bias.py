"""Whom a corpus speaks of, how often, and near what: counts with intervals, by source."""

import math
import re
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import NormalDist
from typing import Any

from preceptor.core.errors import DataError
from preceptor.core.files import require_file
from preceptor.data.words import WORD

SHIPPED_GROUPS = ("gender", "religion", "origin", "age")
"""The lists of groups that ship; each file holds the groups of one kind, which are compared with each other."""
_ATTRIBUTES = "attributes"
_HEADING = re.compile(r"\[([^\[\]]{1,60})\]")
_MIN_DOCUMENTS = 5
_TABLES = ("documents", "mentions", "near", "near_documents", "squares", "near_squares", "products")
_MAX_SOURCES = 5
_ASCII_WORDS = bytes(
    ord(char.lower()) if (char := chr(code)).isascii() and WORD.match(char) else ord(" ") for code in range(256)
)
"""For each byte of an ASCII text the same letter, small, or a space where no word goes on."""
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasConfig:
    """Whose groups are counted in the datasheet. The lists that ship are English."""

    groups: tuple[str, ...] = SHIPPED_GROUPS
    """Kinds of groups: gender, religion, origin and age ship; or the path of a file of your own, with a line
    "[name of the group]" over the words of each."""
    attributes: str = _ATTRIBUTES
    """What is looked for near the groups: the list that ships, or the path of a file of your own."""
    window_words: int = 10
    """So many words before and after the mention of a group are near it."""

    def __post_init__(self) -> None:
        """Refuse an empty window."""
        if self.window_words < 1:
            raise ValueError(f"window_words must be at least 1, got {self.window_words}")


Lexicon = Mapping[str, tuple[str, ...]]


def read_lexicon(name: str) -> dict[str, tuple[str, ...]]:
    """For each name of a list its words in small letters; ``name`` is a list that ships, or a file.

    Raises:
        DataError: the file cannot be read, or holds words that belong to no group; names the line.
    """
    if name in (*SHIPPED_GROUPS, _ATTRIBUTES):
        text, path = (resources.files("preceptor.data") / "lexicons" / f"{name}.txt").read_text("utf-8"), Path(name)
    else:
        path = Path(name).expanduser()
        try:
            require_file(path)
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read: {error}", file=path, remedy="name a UTF-8 list of words") from error
    found: dict[str, list[str]] = {}
    group = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if heading := _HEADING.fullmatch(line.strip()):
            group = heading[1].strip()
            found.setdefault(group, [])
        elif not group:
            raise DataError("words before the first group", file=path, line=number, remedy='write "[name]" above them')
        else:
            found[group] += _words_of(line, path, number)
    if empty := [group for group, words in found.items() if not words]:
        raise DataError(f"the group {empty[0]!r} has no words", file=path, remedy="write them below its name")
    if not found:
        raise DataError("names no group", file=path, remedy='write "[name]" and its words below it')
    return {name: tuple(words) for name, words in found.items()}


def _words_of(line: str, path: Path, number: int) -> list[str]:
    """The words of a line; one that a text is parted at would never be met, so it is refused."""
    words = line.lower().split()
    for word in words:
        if not WORD.fullmatch(word):
            raise DataError(f"{word!r} is not one word", file=path, line=number, remedy="write single words, no marks")
    return words


@dataclass(frozen=True, slots=True)
class _Terms:
    """For each word the kinds and groups it speaks of, and the attributes it is one of."""

    groups: Mapping[str, tuple[tuple[str, str], ...]]
    attributes: Mapping[str, tuple[str, ...]]
    words: frozenset[str]
    """All of both."""


@cache
def _terms(groups: tuple[str, ...], attributes: str) -> _Terms:
    kinds = [Path(name).stem for name in groups]
    if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
        raise DataError(f"two lists are called {twice[0]!r}", file=Path(twice[0]), remedy="give the files other names")
    by_word: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in groups:
        for group, words in read_lexicon(name).items():
            for word in dict.fromkeys(words):
                by_word[word].append((Path(name).stem, group))
    of_attribute: dict[str, list[str]] = defaultdict(list)
    for attribute, words in read_lexicon(attributes).items():
        for word in dict.fromkeys(words):
            of_attribute[word].append(attribute)
    return _Terms(
        {word: tuple(names) for word, names in by_word.items()},
        {word: tuple(names) for word, names in of_attribute.items()},
        frozenset(by_word) | frozenset(of_attribute),
    )


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is known of the mentions of one or several groups and of an attribute near them."""

    documents: int = 0
    mentions: int = 0
    near: int = 0
    squares: int = 0
    near_squares: int = 0
    products: int = 0

    @classmethod
    def of(cls, total: Mapping[str, Tally[tuple[str, ...]]], kind: str, group: str, attribute: str) -> "_Sums":
        names = ("documents", "mentions", "squares"), ("near", "near_squares", "products")
        keys = (kind, group), (kind, group, attribute)
        return cls(**{name: total[name][key] for key, tables in zip(keys, names, strict=True) for name in tables})

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __sub__(self, other: "_Sums") -> "_Sums":
        return _Sums(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))

    def design_effect(self) -> float:
        """How many times the variance of independent mentions their share has, at least 1: one document says alike.

        A document that speaks of several groups counts as one for each.
        Source: Cochran 1977, section 11.8, a proportion over clusters of unequal sizes.
        """
        if not 0 < self.near < self.mentions or self.documents < 2:
            return 1.0
        share = self.near / self.mentions
        squares = self.near_squares - 2 * share * self.products + share * share * self.squares
        of_independent = self.mentions * share * (1 - share)
        return max(1.0, squares * self.documents / (self.documents - 1) / of_independent)


class Counter:
    """Mentions of groups and what stands near them, by source; counts of parts add up to those of the whole."""

    def __init__(self, config: BiasConfig | None = None) -> None:
        self.config = config or BiasConfig()
        self.words: Tally[str] = Tally()
        """Words of each source."""
        self.documents: Tally[tuple[str, str, str]] = Tally()
        """Documents that mention (source, kind, group)."""
        self.mentions: Tally[tuple[str, str, str]] = Tally()
        self.near: Tally[tuple[str, str, str, str]] = Tally()
        """Mentions of (source, kind, group) with a word of an attribute near them."""
        self.near_documents: Tally[tuple[str, str, str, str]] = Tally()
        """Documents that have such a mention."""
        self.squares: Tally[tuple[str, str, str]] = Tally()
        """Sums over documents of the square of their mentions."""
        self.near_squares: Tally[tuple[str, str, str, str]] = Tally()
        """The same of the mentions with the attribute near them."""
        self.products: Tally[tuple[str, str, str, str]] = Tally()
        """Sums over documents of their mentions times those with the attribute near them."""

    def add(self, text: str, collection: str) -> None:
        """Count a text of a source."""
        terms = _terms(self.config.groups, self.config.attributes)
        words = _split(text)
        self.words[collection] += len(words)
        listed = [(place, word) for place, word in enumerate(words) if word in terms.words]
        found = _near(listed, terms, self.config.window_words)
        here: Tally[tuple[str, str, str]] = Tally()
        near_here: Tally[tuple[str, str, str, str]] = Tally()
        for (groups, near), number in found.items():
            for kind, group in groups:
                key = (collection, kind, group)
                here[key] += number
                for attribute in near:
                    near_here[(*key, attribute)] += number
        self._add_document(here, near_here)

    def _add_document(self, here: Tally[tuple[str, str, str]], near: Tally[tuple[str, str, str, str]]) -> None:
        """Add the counts of one document, with the squares that tell how much alike its mentions are."""
        for key, number in here.items():
            self.documents[key] += 1
            self.mentions[key] += number
            self.squares[key] += number * number
        for pair, number in near.items():
            self.near_documents[pair] += 1
            self.near[pair] += number
            self.near_squares[pair] += number * number
            self.products[pair] += number * here[pair[:3]]

    def merge(self, other: "Counter") -> None:
        """Add the counts of another part, which must have been counted in the same way."""
        if other.config != self.config:
            raise ValueError(f"counts of {other.config} cannot be added to those of {self.config}")
        for name in ("words", *_TABLES):
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """The counts as a table that JSON can hold, the same for the same counts."""
        tables = {name: getattr(self, name) for name in _TABLES}
        return {"words": dict(sorted(self.words.items()))} | {
            name: [[*key, number] for key, number in sorted(table.items())] for name, table in tables.items()
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any], config: BiasConfig | None = None) -> "Counter":
        """The counts that ``to_json`` wrote."""
        counter = cls(config)
        counter.words.update(table["words"])
        for name in _TABLES:
            getattr(counter, name).update({tuple(row[:-1]): row[-1] for row in table[name]})
        return counter

    def summary(self) -> dict[str, Any]:
        """Groups, associations and skews, each with its 95 % interval, and the sources behind a skew."""
        if not self.mentions:
            return {}
        total = {name: _over_sources(getattr(self, name)) for name in _TABLES}
        mentions, near = total["mentions"], total["near"]
        return {
            "groups": self._groups(mentions, total["documents"]),
            "associations": [_association(key, near[key], mentions[key[:2]]) for key in sorted(near)],
            "skews": self._skews(total),
        }

    def _groups(self, mentions: Tally[tuple[str, ...]], documents: Tally[tuple[str, ...]]) -> list[dict[str, Any]]:
        total = self.words.total()
        rows = []
        for kind, group in sorted(mentions):
            number = mentions[kind, group]
            low, high = wilson(number, total)
            rows.append(
                {
                    "kind": kind,
                    "group": group,
                    "documents": documents[kind, group],
                    "mentions": number,
                    "per_million_words": _rounded(1e6 * number / total),
                    "low": _rounded(1e6 * low),
                    "high": _rounded(1e6 * high),
                }
            )
        return rows

    def _skews(self, total: Mapping[str, Tally[tuple[str, ...]]]) -> list[dict[str, Any]]:
        """The attributes that stand near one group surely more often than near the others of its kind.

        The intervals are so wide that all of them together hold in about 95 of 100 corpora. Source: Bonferroni 1936.
        """
        groups: dict[str, list[str]] = defaultdict(list)
        for kind, group in sorted(total["mentions"]):
            groups[kind].append(group)
        pairs = sorted({(kind, attribute) for kind, _, attribute in total["near"]})
        compared = [(kind, group, near) for kind, near in pairs if len(groups[kind]) > 1 for group in groups[kind]]
        z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(compared)))
        of_group = {key: _Sums.of(total, *key) for key in compared}
        of_kind: dict[tuple[str, str], _Sums] = {}
        for (kind, _, near), sums in of_group.items():
            of_kind[kind, near] = of_kind.get((kind, near), _Sums()) + sums
        found = []
        for key, sums in of_group.items():
            if total["near_documents"][key] < _MIN_DOCUMENTS:
                continue
            others = of_kind[key[0], key[2]] - sums
            # Few mentions do not show how much alike they are, so they are taken to be as much so as the others.
            clustering = max(sums.design_effect(), others.design_effect())
            wide = _student(z, max(1, min(sums.documents, others.documents) - 1))
            ratio = rate_ratio(sums.near, sums.mentions, others.near, others.mentions, clustering=clustering, z=wide)
            if ratio is None or ratio[1] <= 1:
                continue
            row: dict[str, Any] = dict(zip(("kind", "group", "near"), key, strict=True))
            row |= dict(zip(("ratio", "low", "high"), map(_rounded, ratio), strict=True))
            found.append(row | {"sources": self._sources(key)})
        return sorted(found, key=lambda row: (-row["ratio"], row["kind"], row["group"], row["near"]))

    def _sources(self, skew: tuple[str, str, str]) -> dict[str, int]:
        """The sources that the mentions behind a skew come from, those with most of them first."""
        found = {source: number for source in self.words if (number := self.near.get((source, *skew), 0))}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:_MAX_SOURCES])


def _over_sources(table: Mapping[Any, int]) -> Tally[tuple[str, ...]]:
    """The counts of all sources together."""
    total: Tally[tuple[str, ...]] = Tally()
    for key, number in table.items():
        total[key[1:]] += number
    return total


def _association(key: tuple[str, ...], near: int, mentions: int) -> dict[str, Any]:
    low, high = wilson(near, mentions)
    row = dict(zip(("kind", "group", "near"), key, strict=True))
    shares = {"share": near / mentions, "low": low, "high": high}
    return row | {"mentions": near} | {name: _rounded(share) for name, share in shares.items()}


def _split(text: str) -> list[str]:
    """The words of a text in small letters; the same as WORD finds, at twice the speed where all is ASCII."""
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS).decode().split()
    return WORD.findall(text.lower())


def _near(listed: list[tuple[int, str]], terms: _Terms, window: int) -> Tally[tuple[Any, frozenset[str]]]:
    """For all groups that words speak of and all attributes within the window of a mention, how often that is so."""
    at = [(place, names) for place, word in listed if (names := terms.attributes.get(word))]
    found: Tally[tuple[Any, frozenset[str]]] = Tally()
    first = last = 0
    for place, word in listed:
        if not (groups := terms.groups.get(word)):
            continue
        while first < len(at) and at[first][0] < place - window:
            first += 1
        while last < len(at) and at[last][0] <= place + window:
            last += 1
        # What a word is called does not stand near it.
        near = frozenset([name for other, names in at[first:last] if other != place for name in names])
        found[groups, near] += 1
    return found


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share. Source: Wilson 1927."""
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, _Z * _Z / trials
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    # Rounding must not take the share itself out of its interval.
    low = min(share, max(0.0, middle - half)) if successes else 0.0
    return low, max(share, min(1.0, middle + half)) if successes < trials else 1.0


def rate_ratio(
    near: int,
    mentions: int,
    other_near: int,
    other_mentions: int,
    *,
    clustering: float = 1.0,
    z: float = _Z,
) -> tuple[float, float, float] | None:
    """How many times as often as near the others, with the interval; None where there is nothing to compare.

    ``clustering`` says how many times the variance of independent mentions the shares have, and ``z`` how many
    standard errors the interval reaches to each side: 95 % unless told.
    Source: Katz et al. 1978, log method; half a mention is added to each count, so that none is zero.
    """
    if not mentions or not other_mentions:
        return None
    a, b = near + 0.5, other_near + 0.5
    ratio = (a / (mentions + 0.5)) / (b / (other_mentions + 0.5))
    spread = z * math.sqrt(clustering * max(0.0, 1 / a - 1 / (mentions + 0.5) + 1 / b - 1 / (other_mentions + 0.5)))
    return ratio, ratio * math.exp(-spread), ratio * math.exp(spread)


def _student(z: float, freedom: int) -> float:
    """The quantile of Student's distribution that a normal one stands for. Source: Abramowitz and Stegun 26.7.5."""
    square = z * z
    terms = (
        (square + 1) / 4,
        ((5 * square + 16) * square + 3) / 96,
        (((3 * square + 19) * square + 17) * square - 15) / 384,
    )
    return z * (1 + terms[0] / freedom + terms[1] / freedom**2 + terms[2] / freedom**3)


def _rounded(value: float) -> float:
    """Four digits that mean something."""
    return float(f"{value:.4g}")
