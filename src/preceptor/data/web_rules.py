"""The rules of C4 and of FineWeb for pages of the web, each a verdict of its own name."""

import re
import unicodedata
from collections.abc import Sequence

from preceptor.data.document import KEEP, Drop, Verdict
from preceptor.data.words import treebank_words

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_C4_LINE_ENDS = (".", "?", "!", '"', "'")
_C4_MAX_WORD_CHARACTERS = 1000
_C4_MIN_LINE_WORDS = 3
_C4_MIN_SENTENCES = 5
_C4_NAMED = (
    *("javascript", "terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
_SENTENCE_ENDS = frozenset(".!?。！？")

# Marks that end a sentence in the scripts of the world: those of Unicode's Sentence_Terminal that are in common use.
_TERMINAL = tuple(".?!？．﹗⁈⁉።܂؞؟꛳᠉꧉܀꓿᜵៖۔｡៕⸮᭟！։॥᠃၊⁇。᙮។៚।။᱾܁᜶‼‽﹖៙᰻᰼᱿፧፨؝")
_FINEWEB_MIN_ENDED_LINES = 0.12
_FINEWEB_MAX_SHORT_LINES, _FINEWEB_SHORT_CHARACTERS = 0.67, 30
_FINEWEB_MAX_REPEATED_CHARACTERS = 0.01
_FINEWEB_MAX_LINES_PER_WORD = 0.3


def c4(text: str) -> Verdict:
    """The verdict of C4's rules on the lines that C4 would keep; the lines themselves are left alone."""
    lines, refusal = c4_lines(text)
    if refusal:
        return Drop(refusal, 1, 0)
    num_sentences = 0
    for line in lines:
        num_sentences += _num_sentences(line)
        if num_sentences >= _C4_MIN_SENTENCES:
            return KEEP
    return Drop("c4-few-sentences", num_sentences, _C4_MIN_SENTENCES)


def c4_lines(text: str) -> tuple[list[str], str]:
    """The lines that C4 keeps, and the rule by which it refuses the whole page, or nothing.

    Source: Raffel et al. 2020, section 2.2, with the further rules of the code that was published with it.
    """
    lowered = text.lower()
    is_suspect = "{" in text or "lorem ipsum" in lowered
    has_named = any(phrase in lowered for phrase in _C4_NAMED)
    lines = [line for line in map(_c4_line, text.splitlines()) if line]
    if not is_suspect and not has_named:
        return lines, ""
    kept = []
    for line in lines:
        small = line.lower()
        if "lorem ipsum" in small:
            return [], "c4-lorem-ipsum"
        if "javascript" in small:
            continue
        if "{" in line:
            return [], "c4-curly-bracket"
        if not any(phrase in small for phrase in _C4_NAMED):
            kept.append(line)
    return kept, ""


def _c4_line(line: str) -> str:
    """The line without citations, or nothing where C4 would leave it out for its form."""
    whole = line.strip()
    if len(whole) > _C4_MAX_WORD_CHARACTERS and max(map(len, whole.split())) > _C4_MAX_WORD_CHARACTERS:
        return ""
    ended = _CITATION.sub("", whole) if "[" in whole else whole
    if not ended.endswith(_C4_LINE_ENDS) or ended.endswith("..."):
        return ""
    return ended if len(whole.split(None, _C4_MIN_LINE_WORDS - 1)) >= _C4_MIN_LINE_WORDS else ""


def _num_sentences(line: str) -> int:
    """The sentences of a line: one begins at its first word, and at the first word after a mark that ends another."""
    number, has_ended = 1, False
    for word in treebank_words(line):
        if word in _SENTENCE_ENDS:
            has_ended = True
        elif has_ended and not unicodedata.category(word[0]).startswith("P"):
            number += 1
            has_ended = False
    return number


def fineweb(text: str, words: Sequence[str]) -> Verdict:
    """The verdict of FineWeb's rules on lines; ``words`` are those of the text with punctuation marks among them.

    Source: Penedo et al. 2024, section 3.5, and its appendix for the list ratio.
    """
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return Drop("fineweb-empty", 0, 1)
    share = sum(line.endswith(_TERMINAL) for line in lines) / len(lines)
    if share < _FINEWEB_MIN_ENDED_LINES:
        return Drop("fineweb-ended-lines", share, _FINEWEB_MIN_ENDED_LINES)
    share = sum(len(line) <= _FINEWEB_SHORT_CHARACTERS for line in lines) / len(lines)
    if share > _FINEWEB_MAX_SHORT_LINES:
        return Drop("fineweb-short-lines", share, _FINEWEB_MAX_SHORT_LINES)
    num_breaks = text.count("\n")
    share = (sum(map(len, lines)) - sum(map(len, set(lines)))) / (len(text) - num_breaks)
    if share > _FINEWEB_MAX_REPEATED_CHARACTERS:
        return Drop("fineweb-repeated-lines", share, _FINEWEB_MAX_REPEATED_CHARACTERS)
    share = num_breaks / max(1, len(words))
    return KEEP if share <= _FINEWEB_MAX_LINES_PER_WORD else Drop("fineweb-list", share, _FINEWEB_MAX_LINES_PER_WORD)
