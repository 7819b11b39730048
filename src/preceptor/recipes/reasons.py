"""Why a document was dropped, in words: the rule, what was measured, and what would have been needed."""

_MEASURES = {
    "too-short": "characters",
    "too-long": "characters",
    "corrupt": "of the characters are broken",
    "few-letters": "of what is visible are letters",
    "repeated-lines": "of the text are repeated lines",
    "long-words": "characters in a word on average",
    "gibberish": "of the letters are in long runs of consonants",
    "other-language": "sure of its language",
    "unsure-language": "sure of its language",
    "near-duplicate": "of the word n-grams in common",
    "repeated-elsewhere": "of it stands in other documents",
    "contaminated": "of it stands in an evaluation set",
    "gopher-few-words": "words",
    "gopher-stop-words": "different stop words",
    "gopher-few-letters": "of the words have a letter",
    "gopher-bullets": "of the lines begin with a bullet",
    "gopher-ellipsis-lines": "of the lines end with an ellipsis",
    "c4-few-sentences": "sentences",
    "fineweb-ended-lines": "of the lines end as sentences do",
    "fineweb-short-lines": "of the lines are short",
    "fineweb-repeated-lines": "of the characters are in repeated lines",
    "fineweb-list": "lines for each word",
}
"""What the number of a rule counts or is a share of; other rules are told by their number alone."""

_DUPLICATES = frozenset({"exact-duplicate", "near-duplicate", "duplicate-id"})
_FLAG = (1, 0)


def reason(rule: str, measured: float, limit: float, detail: str) -> str:
    """The rule that dropped a document, the number it measured with what it allows, and the detail.

    A rule that only says yes or no has no number: what it found stands in the detail.
    """
    head = rule
    if rule in _DUPLICATES and detail:
        head, detail = f"{rule} {detail}", ""
    elif rule == "repeated-elsewhere" and detail:
        detail = f"for example in {detail.removeprefix('of ')}"
    told = "; ".join(filter(None, (_numbers(rule, measured, limit), detail)))
    return f"{head}: {told}" if told else head


def _numbers(rule: str, measured: float, limit: float) -> str:
    """What was measured and what would have been needed; nothing where a rule measures nothing."""
    if (measured, limit) == _FLAG or rule in ("exact-duplicate", "duplicate-id"):
        return ""
    what = f" {_MEASURES[rule]}" if rule in _MEASURES else ""
    if rule == "personal-data":
        return f"{_number(measured)} found"
    if rule == "other-language":
        return f"{_number(measured)}{what}"
    bound = f"at least {_number(limit)} needed" if measured < limit else f"at most {_number(limit)} allowed"
    return f"{_number(measured)}{what}, {bound}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
