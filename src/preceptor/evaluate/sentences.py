"""The sentences at the beginning of a text, which many baselines say."""

import re

_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”」』）]*|\n\s*\n")


def first_sentences(text: str, count: int) -> str:
    """The first sentences of a text; all of it where it has no more. Abbreviations may cut one short."""
    text = text.strip()
    for number, end in enumerate(_END.finditer(text), 1):
        if number == count:
            return text[: end.end()].rstrip()
    return text
