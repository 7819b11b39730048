"""Filters: each takes a document and a rule and says keep or drop, with what it measured. None ever edits."""

import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import pyarrow

from preceptor.data import gopher, language, web_rules
from preceptor.data.document import KEEP, Document, Drop, Verdict
from preceptor.data.words import WORD, treebank_words

MEASURES: tuple[str, ...] = (
    *("characters", "words", "mean_word_characters", "letter_fraction", "symbol_fraction", "digit_fraction"),
    *("line_repetition", "compression_ratio", "replacement_fraction", "gibberish", "language_score"),
)
"""What is measured of every document; one that is not defined for it is not a number."""
LOG_MEASURES = frozenset({"characters", "words", "compression_ratio"})
"""Those whose values spread over orders of magnitude."""
RuleSet = Literal["gopher-quality", "gopher-repetition", "c4", "fineweb"]

_MIN_LINES = 5
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_NOT_LATIN_1 = re.compile(r"[^\x00-\xff]")
_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123))
_DIGITS = b"0123456789"
_SPACES = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_CONTROLS = bytes((*range(9), *range(14, 28), 127))
# So many consonants in a row are rare in every language that is written in Latin letters.
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{6,}", re.IGNORECASE)
_WORD_BYTES = bytes(code if WORD.fullmatch(chr(code)) else 32 for code in range(256))
_CONSONANT_BYTES = bytes(99 if chr(code).lower() in "bcdfghjklmnpqrstvwxz" else 32 for code in range(256))
_CONSONANT_RUN = re.compile(rb"c{6,}")
_COMPRESSED_CHARACTERS = 100_000
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """The limits of every filter; a document on the wrong side of one is dropped under its name."""

    min_characters: int = 80
    """too-short: fewer characters than this. Nothing can be learned from a heading alone."""
    max_characters: int = 1_000_000
    """too-long: more characters than this; such a document is a dump, and would outweigh all others."""
    max_replacement_fraction: float = 0.001
    """corrupt: a larger share of replacement characters, control characters and characters that Unicode does not
    define: the encoding was lost before the text came here, or it never was a text."""
    min_letter_fraction: float = 0.4
    """few-letters: a smaller share of letters among the visible characters; prose and code have more than half."""
    max_top_line_fraction: float = 0.5
    """repeated-lines: a larger share of characters in lines that occur more than once.
    Source: Rae et al. 2021, Gopher, table A1 (0.20 for web pages; documentation repeats headings by design)."""
    max_word_characters: float = 25.0
    """long-words: a larger mean word length; Source: Rae et al. 2021, Gopher (10 for prose); identifiers are longer."""
    max_gibberish: float = 0.15
    """gibberish: a larger share of letters in runs of six or more consonants, as random letters have."""
    languages: tuple[str, ...] = ()
    """other-language: not one of these, as ISO 639-1; empty: every language stays."""
    min_language_score: float = 0.0
    """unsure-language: the language was recognised with less certainty than this, from 0 to 1."""
    rules: tuple[RuleSet, ...] = ()
    """Published sets of rules for English pages of the web, asked in this order after the limits above."""
    c4_lines: bool = False
    """Keep only the lines that C4 keeps: whole sentences, without citations, notices of cookies or of JavaScript."""
    blocked_words: tuple[str, ...] = ()
    """blocked-word: contains one of these words or phrases, in whatever case.
    Source: Raffel et al. 2020, C4, which takes a public list; none ships, since such lists drop far more than meant."""

    def __post_init__(self) -> None:
        """Refuse limits that drop everything."""
        if not 0 <= self.min_characters < self.max_characters:
            raise ValueError(
                f"min_characters ({self.min_characters}) must be below max_characters ({self.max_characters})"
            )
        shares = ("max_replacement_fraction", "min_letter_fraction", "max_top_line_fraction", "max_gibberish")
        for name in (*shares, "min_language_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if any(not word.strip() for word in self.blocked_words):
            raise ValueError("blocked_words must hold no empty word")
        if wrong := [code for code in self.languages if not _LANGUAGE.fullmatch(code)]:
            raise ValueError(f'languages must hold ISO 639 codes such as "en" or "de", got {wrong[0]!r}')


class HasText(Protocol):
    """Anything with a text."""

    @property
    def text(self) -> str:
        """The text."""
        ...


def too_short(document: HasText, config: FilterConfig) -> Verdict:
    """Drop what has too few characters."""
    length = len(document.text.strip())
    return KEEP if length >= config.min_characters else Drop("too-short", length, config.min_characters)


def judge(document: Document, config: FilterConfig, score: float | None = None) -> tuple[Verdict, dict[str, float]]:
    """The verdict of all filters together, the first that drops naming the reason, and every measure.

    ``score`` says how sure the language is that the document names; without it, the language is recognised here.
    """
    recognised, score = language.detect(document.text) if score is None else (document.language, score)
    measures = measure(document.text) | {"language_score": score}
    verdict = too_short(document, config)
    if isinstance(verdict, Drop):
        return verdict, measures
    for rule, name, limit, is_least in (
        ("too-long", "characters", config.max_characters, False),
        ("corrupt", "replacement_fraction", config.max_replacement_fraction, False),
        ("few-letters", "letter_fraction", config.min_letter_fraction, True),
        ("repeated-lines", "line_repetition", config.max_top_line_fraction, False),
        ("long-words", "mean_word_characters", config.max_word_characters, False),
        ("gibberish", "gibberish", config.max_gibberish, False),
    ):
        value = measures[name]
        if value < limit if is_least else value > limit:
            return Drop(rule, value, limit), measures
    if config.languages and recognised not in config.languages:
        return Drop("other-language", score, config.min_language_score, recognised), measures
    if score < config.min_language_score:
        return Drop("unsure-language", score, config.min_language_score, recognised), measures
    if config.blocked_words and (found := _pattern(config.blocked_words).search(document.text)):
        return Drop("blocked-word", 1, 0, found.group()), measures
    return judge_rules(document.text, config.rules), measures


def judge_rules(text: str, rules: tuple[RuleSet, ...]) -> Verdict:
    """The verdict of published sets of rules, in their order."""
    if not rules:
        return KEEP
    words = treebank_words(text) if rules != ("c4",) else []
    for rule in rules:
        match rule:
            case "gopher-quality":
                verdict = gopher.quality(text, words)
            case "gopher-repetition":
                verdict = gopher.repetition(text, words)
            case "c4":
                verdict = web_rules.c4(text)
            case "fineweb":
                verdict = web_rules.fineweb(text, words)
        if isinstance(verdict, Drop):
            return verdict
    return KEEP


def measure(text: str) -> dict[str, float]:
    """Every measure of a text but that of its language."""
    num_words, word_characters, consonant_runs = _words(text)
    letters, digits, spaces, broken = _character_counts(text)
    visible = len(text) - spaces
    return {
        "characters": float(len(text)),
        "words": float(num_words),
        "mean_word_characters": word_characters / num_words if num_words else math.nan,
        "letter_fraction": letters / max(1, visible),
        "symbol_fraction": (visible - letters - digits) / max(1, visible),
        "digit_fraction": digits / max(1, visible),
        "line_repetition": _line_repetition(text),
        "compression_ratio": _compression_ratio(text),
        "replacement_fraction": broken / max(1, len(text)),
        "gibberish": consonant_runs / max(1, letters),
    }


def _words(text: str) -> tuple[int, int, int]:
    """How many words there are, their characters, and the letters in long runs of consonants."""
    if not text.isascii() and WORD.search("".join(set(_NOT_LATIN_1.findall(text)))):
        words = WORD.findall(text)
        return len(words), sum(map(len, words)), sum(map(len, _CONSONANTS.findall(text)))
    # The same by tables of bytes, in a tenth of the time; what is no byte stands in no word, as "?" does not.
    raw = text.encode("latin-1", "replace")
    plain = raw.translate(_WORD_BYTES).split()
    runs = _CONSONANT_RUN.findall(raw.translate(_CONSONANT_BYTES))
    return len(plain), sum(map(len, plain)), sum(map(len, runs))


def _character_counts(text: str) -> tuple[int, int, int, int]:
    """Letters, digits, spaces and characters that no text has."""
    plain = text.encode("ascii", "ignore")
    letters, digits, spaces, broken = (
        len(plain) - len(plain.translate(None, kind)) for kind in (_LETTERS, _DIGITS, _SPACES, _CONTROLS)
    )
    if len(plain) < len(text):
        for character, number in Counter(_NOT_ASCII.findall(text)).items():
            letters += number * character.isalpha()
            digits += number * (character.isnumeric() and not character.isalpha())
            spaces += number * character.isspace()
            is_broken = character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")
            broken += number * (is_broken and not character.isspace())
    return letters, digits, spaces, broken


def _line_repetition(text: str) -> float:
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if len(lines) < _MIN_LINES:
        return math.nan
    total = sum(map(len, lines))
    return (total - sum(map(len, set(lines)))) / total


def _compression_ratio(text: str) -> float:
    # The codec comes with Arrow, so that the ratio is the same on every machine, unlike that of the system's zlib.
    raw = text[:_COMPRESSED_CHARACTERS].encode("utf-8", "surrogatepass")
    return len(raw) / len(pyarrow.compress(raw, codec="lz4_raw", asbytes=True)) if raw else math.nan


@lru_cache(maxsize=4)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
