"""Augmentation: noisy copies of documents, each decided by the seed, the document and the number of the copy alone."""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from preceptor.core.errors import DataError
from preceptor.core.files import require_file
from preceptor.core.seeds import derive
from preceptor.data.document import Document, document_id

Translate = Callable[[Sequence[str]], list[str]]
"""Texts to their translations, in order: a model, or a stand-in for one."""

_WORD = re.compile(r"\S+")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*\s*|\n+")
# Numbers, addresses, markup and typed placeholders mean what they say only as they are.
_UNTOUCHED = re.compile(r"[^\s]*[0-9<>@/\\_={}\[\]|][^\s]*")
_PUNCTUATION = ".,;:!?"
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """For each letter those beside it, above it and below it on the keyboard most people have."""
    near: dict[str, str] = {}
    for row, keys in enumerate(_KEYBOARD):
        for place, key in enumerate(keys):
            beside = keys[max(0, place - 1) : place] + keys[place + 1 : place + 2]
            for other in (row - 1, row + 1):
                if 0 <= other < len(_KEYBOARD):
                    # Each row stands half a key to the right of the one above.
                    shift = 0 if other > row else 1
                    start = place - 1 + shift
                    beside += _KEYBOARD[other][max(0, start) : max(0, start + 2)]
            near[key] = beside
    return near


_NEAR = _neighbours()


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Noisy copies of the training documents. Every rate is the share of words, from 0 (never) to 1."""

    copies: int = 0
    """Noisy copies of each training document; 0: none."""
    token_dropout: float = 0.0
    """Words left out. Source: Wei and Zou 2019, EDA."""
    masking: float = 0.0
    """Words replaced by mask_text."""
    mask_text: str = "<mask>"
    """What stands in the place of a masked word."""
    swapping: float = 0.0
    """Words exchanged with the next one. Source: Wei and Zou 2019, EDA."""
    spelling: float = 0.0
    """Words with one letter doubled, left out or exchanged with the next. Source: Belinkov and Bisk 2018."""
    keyboard: float = 0.0
    """Words with one letter replaced by a neighbour on the keyboard. Source: Belinkov and Bisk 2018."""
    case: float = 0.0
    """Words in capitals, in small letters, or with the first letter the other way."""
    punctuation: float = 0.0
    """Words that lose the punctuation at their end, or gain some."""
    synonyms: float = 0.0
    """Words replaced by a synonym from the lexicon."""
    lexicon: str = ""
    """A file of synonyms: on each line words that can stand for each other, with commas or tabs between them."""
    translate_there: str = ""
    """Back-translation: the folder of a run whose model answers a sentence with its translation."""
    translate_back: str = ""
    """The folder of a run whose model translates back again."""

    def __post_init__(self) -> None:
        """Refuse rates outside their range, and synonyms without a lexicon."""
        if self.copies < 0:
            raise ValueError(f"copies must be at least 0, got {self.copies}")
        for name in RATES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.synonyms and not self.lexicon:
            raise ValueError("lexicon must name a file of synonyms when synonyms is above 0")
        if bool(self.translate_there) != bool(self.translate_back):
            raise ValueError("translate_there and translate_back must name a model each, or neither")
        changes = any(getattr(self, name) for name in RATES) or self.translate_there
        if self.copies and not changes:
            raise ValueError(f"copies is {self.copies}, but every rate is 0, so that each copy would be the same")


RATES = (*("synonyms", "token_dropout", "swapping", "spelling", "keyboard", "case", "punctuation", "masking"),)
"""The operations in the order in which they are applied."""

Lexicon = Mapping[str, tuple[str, ...]]


def read_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """For each word in small letters those that can stand for it.

    Raises:
        DataError: the file cannot be read, or a line holds no two words; names the line.
    """
    try:
        require_file(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read: {error}", file=path, remedy="name a UTF-8 file with synonyms on each line"
        ) from error
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = [word.strip() for word in re.split(r"[,\t]", line) if word.strip()]
        if len(words) < 2:
            raise DataError(
                f"{line.strip()[:60]!r} is one word", file=path, line=number, remedy="write at least two, with commas"
            )
        for word in words:
            found.setdefault(word.lower(), {}).update(dict.fromkeys(other for other in words if other != word))
    return {word: tuple(others) for word, others in found.items()}


@dataclass(frozen=True, slots=True)
class Augmenter:
    """The noise of a recipe, ready to be applied; can be pickled."""

    config: AugmentConfig
    seed: int
    lexicon: Lexicon = field(default_factory=dict)
    there: Translate | None = None
    back: Translate | None = None

    @classmethod
    def make(
        cls, config: AugmentConfig, seed: int, there: Translate | None = None, back: Translate | None = None
    ) -> "Augmenter":
        """The augmenter of a recipe, with its lexicon read.

        Raises:
            DataError: the lexicon cannot be read, or back-translation is asked for and no models are given.
        """
        if config.translate_there and (there is None or back is None):
            raise DataError(
                "back-translation needs the two models that the recipe names",
                remedy="build the corpus with `preceptor data` or `preceptor run`, which load them",
            )
        return cls(config, seed, _lexicon(config.lexicon), there, back)

    def copies(self, document: Document) -> Iterator[Document]:
        """The noisy copies of a document: each names it as its parent, and says in its metadata how it was made."""
        for number in range(self.config.copies):
            text = self.text(document.text, document.id, number)
            source = f"{document.source}~{number + 1}"
            yield replace(
                document,
                id=document_id(source, text),
                text=text,
                source=source,
                parent=document.id,
                metadata={**document.metadata, "augmented": str(number + 1)},
            )

    def text(self, text: str, name: str, number: int = 0) -> str:
        """The text with its noise, which follows from the seed, the name and the number (of the copy or epoch)."""
        if self.there is not None and self.back is not None:
            text = back_translate(text, self.there, self.back)
        for operation in RATES:
            rate = getattr(self.config, operation)
            if rate:
                draw = random.Random(derive(self.seed, "augment", operation, name, number))
                text = self._apply(operation, text, rate, draw)
        return text

    def _apply(self, operation: str, text: str, rate: float, draw: random.Random) -> str:
        if operation == "synonyms":
            return _each_word(text, rate, draw, lambda word: _synonym(word, self.lexicon, draw))
        if operation == "masking":
            return _each_word(text, rate, draw, lambda word: self.config.mask_text)
        if operation == "token_dropout":
            return drop_words(text, rate, draw)
        if operation == "swapping":
            return swap_words(text, rate, draw)
        change = {"spelling": misspell, "keyboard": mistype, "case": change_case, "punctuation": change_punctuation}
        return _each_word(text, rate, draw, lambda word: change[operation](word, draw))


@cache
def _lexicon(path: str) -> Lexicon:
    return read_lexicon(Path(path).expanduser()) if path else {}


def _each_word(text: str, rate: float, draw: random.Random, change: Callable[[str], str]) -> str:
    def changed(match: re.Match[str]) -> str:
        word = match.group()
        return change(word) if draw.random() < rate and not _UNTOUCHED.fullmatch(word) else word

    return _WORD.sub(changed, text)


def drop_words(text: str, rate: float, draw: random.Random) -> str:
    """The text without that share of its words; lines stay lines, and one word at least stays."""
    pieces = re.split(r"(\S+)", text)
    words = range(1, len(pieces), 2)
    dropped = {place for place in words if draw.random() < rate and not _UNTOUCHED.fullmatch(pieces[place])}
    if len(dropped) == len(words):
        dropped.discard(draw.choice(words) if words else 0)
    kept = []
    for place, piece in enumerate(pieces):
        if place in dropped:
            continue
        if place - 1 in dropped and "\n" not in piece:
            continue
        kept.append(piece)
    return "".join(kept)


def swap_words(text: str, rate: float, draw: random.Random) -> str:
    """The text with that share of its words exchanged with the next word of the line."""
    pieces = re.split(r"(\S+)", text)
    place = 1
    while place + 2 < len(pieces):
        is_pair = "\n" not in pieces[place + 1] and not any(_UNTOUCHED.fullmatch(pieces[place + i]) for i in (0, 2))
        if draw.random() < rate and is_pair:
            pieces[place], pieces[place + 2] = pieces[place + 2], pieces[place]
            place += 2
        place += 2
    return "".join(pieces)


def misspell(word: str, draw: random.Random) -> str:
    """The word with one letter doubled, left out, or exchanged with the next."""
    letters = [place for place, character in enumerate(word) if character.isalpha()]
    if len(letters) < 3:
        return word
    # The first letter is the one that people get right.
    place = draw.choice(letters[1:])
    following = place + 1
    match draw.randrange(3):
        case 0:
            return word[:following] + word[place:]
        case 1:
            return word[:place] + word[following:]
    if following < len(word) and word[following].isalpha():
        return word[:place] + word[following] + word[place] + word[following + 1 :]
    return word[: place - 1] + word[place] + word[place - 1] + word[following:]


def mistype(word: str, draw: random.Random) -> str:
    """The word with one letter replaced by a neighbour on the keyboard; letters of other alphabets have none."""
    letters = [place for place, character in enumerate(word) if character.lower() in _NEAR]
    if not letters:
        return word
    place = draw.choice(letters)
    wrong = draw.choice(_NEAR[word[place].lower()])
    return word[:place] + (wrong.upper() if word[place].isupper() else wrong) + word[place + 1 :]


def change_case(word: str, draw: random.Random) -> str:
    """The word in capitals, in small letters, or with its first letter the other way; never as it was if it can."""
    ways = [way for way in (word.upper(), word.lower(), word[:1].swapcase() + word[1:]) if way != word]
    return draw.choice(ways) if ways else word


def change_punctuation(word: str, draw: random.Random) -> str:
    """The word without the punctuation at its end, or with some where there was none."""
    bare = word.rstrip(_PUNCTUATION)
    if bare != word and bare:
        return bare
    return word + draw.choice(_PUNCTUATION)


def _synonym(word: str, lexicon: Lexicon, draw: random.Random) -> str:
    bare = word.strip("".join((*_PUNCTUATION, "()\"'")))
    others = lexicon.get(bare.lower())
    if not bare or not others:
        return word
    chosen = draw.choice(others)
    if bare.isupper() and len(bare) > 1:
        chosen = chosen.upper()
    elif bare[0].isupper():
        chosen = chosen[:1].upper() + chosen[1:]
    return word.replace(bare, chosen, 1)


def back_translate(text: str, there: Translate, back: Translate) -> str:
    """The text translated sentence by sentence and back again; a sentence that comes back empty stays as it was.

    Source: Sennrich, Haddow and Birch 2016, Improving neural machine translation models with monolingual data.
    """
    pieces = _SENTENCE.findall(text)
    wanted = [place for place, piece in enumerate(pieces) if any(character.isalpha() for character in piece)]
    sentences = [pieces[place].strip() for place in wanted]
    returned = back(there(sentences))
    for place, sentence in zip(wanted, returned, strict=True):
        if sentence.strip():
            piece = pieces[place]
            pieces[place] = sentence.strip() + piece[len(piece.rstrip()) :]
    return "".join(pieces)
