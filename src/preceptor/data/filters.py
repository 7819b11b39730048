"""Filters: each takes a document and a rule and says keep or drop, with what it measured. None ever edits."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from preceptor.data.document import KEEP, Document, Drop, Verdict
from preceptor.data.words import WORD


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """The limits of every filter; a document on the wrong side of one is dropped under its name."""

    min_characters: int = 80
    """too-short: fewer characters than this. Nothing can be learned from a heading alone."""
    max_characters: int = 1_000_000
    """too-long: more characters than this; such a document is a dump, and would outweigh all others."""
    max_replacement_fraction: float = 0.001
    """corrupt: a larger share of replacement characters. Source: the encoding was lost before the text came here."""
    min_letter_fraction: float = 0.4
    """few-letters: a smaller share of letters among the visible characters; prose and code have more than half."""
    max_top_line_fraction: float = 0.5
    """repeated-lines: a larger share of characters in lines that occur more than once.
    Source: Rae et al. 2021, Gopher, table A1 (0.20 for web pages; documentation repeats headings by design)."""
    max_word_characters: float = 25.0
    """long-words: a larger mean word length; Source: Rae et al. 2021, Gopher (10 for prose); identifiers are longer."""

    def __post_init__(self) -> None:
        """Refuse limits that drop everything."""
        if not 0 <= self.min_characters < self.max_characters:
            raise ValueError(
                f"min_characters ({self.min_characters}) must be below max_characters ({self.max_characters})"
            )
        for name in ("max_replacement_fraction", "min_letter_fraction", "max_top_line_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


def too_short(document: Document, rule: FilterConfig) -> Verdict:
    """Drop what has too few characters."""
    length = len(document.text.strip())
    return KEEP if length >= rule.min_characters else Drop("too-short", length, rule.min_characters)


def too_long(document: Document, rule: FilterConfig) -> Verdict:
    """Drop what has too many characters."""
    length = len(document.text)
    return KEEP if length <= rule.max_characters else Drop("too-long", length, rule.max_characters)


def corrupt(document: Document, rule: FilterConfig) -> Verdict:
    """Drop what has lost its encoding."""
    share = document.text.count("\ufffd") / max(1, len(document.text))
    return KEEP if share <= rule.max_replacement_fraction else Drop("corrupt", share, rule.max_replacement_fraction)


def few_letters(document: Document, rule: FilterConfig) -> Verdict:
    """Drop tables of numbers, rulers of symbols and other text that is hardly letters."""
    visible = sum(not character.isspace() for character in document.text)
    share = sum(character.isalpha() for character in document.text) / max(1, visible)
    return KEEP if share >= rule.min_letter_fraction else Drop("few-letters", share, rule.min_letter_fraction)


def repeated_lines(document: Document, rule: FilterConfig) -> Verdict:
    """Drop what says the same lines over and over."""
    lines = [line.strip() for line in document.text.splitlines() if line.strip()]
    if len(lines) < 5:
        return KEEP
    counts = Counter(lines)
    repeated = sum(len(line) * (number - 1) for line, number in counts.items())
    share = repeated / max(1, sum(map(len, lines)))
    return KEEP if share <= rule.max_top_line_fraction else Drop("repeated-lines", share, rule.max_top_line_fraction)


def long_words(document: Document, rule: FilterConfig) -> Verdict:
    """Drop encoded blobs, whose words are far longer than a language's."""
    words = WORD.findall(document.text)
    mean = sum(map(len, words)) / max(1, len(words))
    return KEEP if mean <= rule.max_word_characters else Drop("long-words", mean, rule.max_word_characters)


FILTERS: tuple[Callable[[Document, FilterConfig], Verdict], ...] = (
    too_short,
    too_long,
    corrupt,
    few_letters,
    repeated_lines,
    long_words,
)
"""In the order in which they are asked; the first that drops a document names the reason."""


def judge(document: Document, rule: FilterConfig) -> Verdict:
    """The verdict of all filters together."""
    for ask in FILTERS:
        verdict = ask(document, rule)
        if isinstance(verdict, Drop):
            return verdict
    return KEEP
