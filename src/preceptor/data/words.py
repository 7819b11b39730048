"""What counts as a word when words are counted or compared."""

import re
from collections.abc import Iterator
from itertools import chain
from string import ascii_letters, digits

# Scripts that write no space between words: there each character counts as a word, or a clause would be one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

# A treebank has marks as words of their own. What stands between two spaces loses marks at both ends, one by one, and
# what is left is parted at the few marks that part words within; so `f(x)` stays whole, and `(well-known)` does not.
_LETTER, _LOWER, _UPPER = r"[^\W\d_]", r"[^\W\d_A-Z]", r"[^\W\d_a-z]"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_MARKS = frozenset(_QUOTES + "…:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪—–")
_FIRST_MARKS = _MARKS | frozenset("§%=")
_CURRENCIES = frozenset("$£€¥฿₽﷼" + "".join(map(chr, range(0x20A0, 0x20C0))))
_DOLLARS = ("US$", "C$", "A$")
_BEFORE_FULL_STOP = _MARKS - {"—", "–"} | frozenset("0123456789%²-+")
_PICTURES = (
    "\u00a6\u00a9\u00ae\u00b0\u2100\u2101\u2117\u2122\u2195-\u2199\u219c-\u219f\u21a1\u21a2\u21a4\u21a5\u21a7-\u21ad"
    "\u21af-\u21cd\u21d0\u21d1\u21d3\u21d5-\u21f3\u2300-\u2307\u230c-\u231f\u2322-\u2328\u232b-\u237b\u237d-\u239a"
    "\u23b4-\u23db\u23e2-\u25b6\u25b8-\u25c0\u25c2-\u25f7\u2600-\u266e\u2670-\u2767\u2794-\u27bf\u2800-\u28ff"
    "\u2b00-\u2b2f\u2b45\u2b46\u2b4d-\u2bfe\ufffc\ufffd\U0001f000-\U0001faff"
)
_PICTURE = re.compile(f"[{_PICTURES}]")
_UNIT = re.compile(
    "(?<=[0-9])(?:[kdcm]?m[²³]?|ha|[µn]m|yd|in|ft|[kmµ]?g|t|lb|oz|m/s|km/h|kmh|mph|h?Pa|[mM]b(?:ar)?|[kKMgGtT]B"
    "|[kKgG]b|mbar|[TGMK%])\\Z"
)
_LONGEST_UNIT = 6
_WITHIN = re.compile(
    rf"\.{{2,}}|…|[{_PICTURES}]|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?:(?<={_LOWER})|(?<=[{_QUOTES}]))\.(?:(?={_UPPER})|(?=[{_QUOTES}]))"
    rf"|(?<={_LETTER}),(?={_LETTER})"
    rf"|(?:(?<={_LETTER})|(?<=[0-9]))(?:-{{1,3}}|–|——?|~|[:<>=/])(?={_LETTER})"
)
_HOST = "[A-Za-z0-9\u00a1-\uffff]"
_HOST_ADDRESS = re.compile(
    rf"(?:{_HOST}(?:(?:{_HOST}|[_-]){{0,62}}{_HOST})?\.)+{_LOWER}{{2,63}}(?::\d{{2,5}})?(?:[/?#]\S*)?\Z"
)
_ADDRESS = re.compile(rf"(?:[\w+\-.]{{2,}}://)?{_HOST_ADDRESS.pattern}")

_ABBREVIATIONS = (
    "a.m. p.m. e.g. E.g. E.G. i.e. I.e. I.E. D.C. Ph.D. v.s. vs. co. Co. Corp. Inc. Ltd. Bros. Adm. Dr. Gen. Gov. Jr. "
    "Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Prof. Rep. Rev. Sen. St. Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. "
    "Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. "
    "N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. ä. ö. ü."
)
_FACES = (
    ":) :-) :)) :-)) :))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :((( ): "
    ")-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 "
    ":-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V "
    "v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 </3 (^_^) (-_-) (._.) (>_<) (*_*)"
)
_OTHERS = (
    "' '' \\\") <space> \\t \\n C++ 'S 's ‘S ‘s and/or w/o 're 'd 'em 'll 'nuff 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz "
    "'Cuz 'bout ma'am Ma'am o'clock O'clock lovin' Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' "
    "nuthin' Nuthin' ol' Ol' somethin' Somethin' —"
)
_ODD = "not|'ve can|not gon|na got|ta i|'m i|'m|a"
_ODD_WITH_MARKS = "how|'d|'y How|'d|'y y'|all let|'s Let|'s c'm|on C'm|on"
_NOT_PARTED = frozenset(("ill", "its", "hell", "shell", "shed", "were", "well", "whore"))
_ENDINGS = (
    ("i you he she it we they who what when where why how there that this these those", "'ll 'll|'ve 'd 'd|'ve"),
    ("i you we they who what when where why how there these those", "'ve"),
    ("you we they who what when where why how there these those", "'re"),
    ("he she it who what when where why how there that this", "'s"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't|'ve"),
    ("could might must should would", "'ve"),
    ("ai are is was were have has dare", "n't"),
)


def _parted_words() -> Iterator[tuple[str, ...]]:
    """The words that are parted where no mark stands: contractions, with and without their apostrophe, and hours."""
    found = [tuple(word.split("|")) for word in _ODD.split()]
    for stems, endings in _ENDINGS:
        found += [(stem, *ending.split("|")) for stem in stems.split() for ending in endings.split()]
    for parts in found:
        for cased in (parts, (parts[0].capitalize(), *parts[1:])):
            for mark in ("'", "", "\u2019"):
                yield tuple(part.replace("'", mark) for part in cased)
    for word in _ODD_WITH_MARKS.split():
        yield tuple(word.split("|"))
        yield tuple(word.replace("'", "\u2019").split("|"))
    yield "y", "all"
    for hour in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            yield str(hour), half


_WHOLE: dict[str, tuple[str, ...]] = {
    **{word: (word,) for word in f"{_ABBREVIATIONS} {_FACES} {_OTHERS}".split()},
    **{word: (word,) for word in _OTHERS.replace("'", "\u2019").split()},
    **{f"{letter}.": (f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyz"},
    **{word: parts for parts in _parted_words() if (word := "".join(parts)).lower() not in _NOT_PARTED},
}
_LONGEST_WHOLE = max(map(len, _WHOLE))
_JOINED = frozenset(
    word
    for word, parts in _WHOLE.items()
    if len(parts) == 1 and 1 < len(word) <= 3 and not word.isalpha() and word != "''"
)
_DIGITS = frozenset(digits)
_PLAIN_FIRST = frozenset(ascii_letters + digits) - frozenset("UCA")
_PLAIN_LAST = frozenset(ascii_letters) - frozenset("sS")
_MAX_REMEMBERED, _MAX_REMEMBERED_CHARACTERS = 200_000, 40


def _is_whole(chunk: str, start: int, stop: int) -> bool:
    return 0 < stop - start <= _LONGEST_WHOLE and chunk[start:stop] in _WHOLE


def _first(chunk: str, start: int, stop: int) -> int:
    """How many characters at the start are a mark of their own."""
    mark = chunk[start]
    if mark.isalnum() and not (mark in "UCA" and chunk.startswith(_DOLLARS, start, stop)):
        return 0
    if mark in _FIRST_MARKS or mark in _CURRENCIES:
        return 1
    if mark in "UCA":
        return 3 if mark == "U" else 2
    if mark == ".":
        end = start
        while end < stop and chunk[end] == ".":
            end += 1
        return end - start if end - start > 1 else 0
    if mark == "+":
        return int(start + 1 == stop or not "0" <= chunk[start + 1] <= "9")
    return int(mark > "\x7f" and _PICTURE.match(mark) is not None)


def _last(chunk: str, start: int, stop: int) -> int:
    """How many characters at the end are a mark of their own, or an ending or a unit."""
    mark = chunk[stop - 1]
    before = chunk[stop - 2] if stop - 2 >= start else ""
    if mark in _MARKS:
        return 1
    if mark == ".":
        return _last_points(chunk, start, stop)
    if mark in "sS" and before in ("'", "\u2019"):
        return 2
    if mark == "+" or mark in _CURRENCIES:
        return int("0" <= before <= "9")
    unit = None if mark.isdigit() and mark.isascii() else _UNIT.search(chunk[max(start, stop - _LONGEST_UNIT) : stop])
    if unit:
        return len(unit[0])
    return int(mark > "\x7f" and _PICTURE.match(mark) is not None)


def _last_points(chunk: str, start: int, stop: int) -> int:
    first = stop
    while first > start and chunk[first - 1] == ".":
        first -= 1
    if stop - first > 1:
        return stop - first
    before = chunk[first - 1] if first > start else ""
    if before in _BEFORE_FULL_STOP or (before.isalpha() and not before.isupper()):
        return int(first > start)
    return int(first - start >= 2 and chunk[first - 2 : first].isupper() and chunk[first - 2 : first].isalpha())


def _split(chunk: str) -> tuple[str, ...]:
    """The words of what stands between two spaces: marks at both ends, and what is left between them."""
    start, stop = 0, len(chunk)
    before: list[str] = []
    after: list[str] = []
    # Most pieces begin and end with a letter or a digit, of which nothing needs to be asked where there are no units.
    plain_last = _PLAIN_LAST if _DIGITS.isdisjoint(chunk) else _DIGITS
    while start < stop and not (stop - start <= _LONGEST_WHOLE and chunk[start:stop] in _WHOLE):
        first = 0 if chunk[start] in _PLAIN_FIRST else _first(chunk, start, stop)
        if first and _is_whole(chunk, start + first, stop):
            before.append(chunk[start : start + first])
            start += first
            break
        last = 0 if start + first >= stop or chunk[stop - 1] in plain_last else _last(chunk, start + first, stop)
        if last and _is_whole(chunk, start, stop - last):
            first = 0
        elif not first and not last:
            break
        if first:
            before.append(chunk[start : start + first])
        if last:
            after.append(chunk[stop - last : stop])
        start, stop = start + first, stop - last
    parts = (*before, *_within(chunk[start:stop]), *reversed(after))
    return parts if len(parts) == 1 else _joined(parts)


def _within(rest: str) -> tuple[str, ...]:
    """The words of a piece that has no more marks at its ends; addresses stay whole."""
    if not rest:
        return ()
    if rest in _WHOLE:
        return _WHOLE[rest]
    if rest.isalnum() or _is_address(rest):
        return (rest,)
    parts, start = [], 0
    for found in _WITHIN.finditer(rest):
        if found.start():
            parts += [rest[start : found.start()]] if found.start() > start else []
            parts.append(found[0])
            start = found.end()
    return (*parts, rest[start:]) if start < len(rest) else tuple(parts)


def _is_address(rest: str) -> bool:
    if "." not in rest:
        return False
    if "@" not in rest:
        return (_ADDRESS if "://" in rest else _HOST_ADDRESS).match(rest) is not None
    # A name and a password may stand in front of the host, and an "@" in the path behind it.
    hosts = {rest, rest.partition("@")[2], rest.rpartition("@")[2]}
    return any(_ADDRESS.match(host) for host in hosts)


def _joined(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The words, with faces that were taken apart made whole, and contractions that came to light parted."""
    words: list[str] = []
    place, end = 0, len(parts)
    while place < end:
        part = parts[place]
        place += 1
        # A face has at most three characters, so that few words begin one.
        if place < end and len(part) + len(parts[place]) <= 3:
            for number in (2, 1) if place + 1 < end else (1,):
                face = "".join(parts[place - 1 : place + number])
                if face in _JOINED:
                    words.append(face)
                    place += number
                    break
            else:
                words += _WHOLE.get(part, (part,))
        elif part in _WHOLE:
            words += _WHOLE[part]
        else:
            words.append(part)
    return tuple(words)


class _Parts(dict[str, tuple[str, ...]]):
    """The words of whatever stands between two spaces. Most of it comes again, and is parted once."""

    def __missing__(self, chunk: str) -> tuple[str, ...]:
        parts = _WHOLE.get(chunk) or ((chunk,) if chunk.isalpha() else _split(chunk))
        if len(chunk) <= _MAX_REMEMBERED_CHARACTERS:
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[chunk] = parts
        return parts


_PARTS = _Parts()


def treebank_words(text: str) -> list[str]:
    """The words and the punctuation marks of a text, nearly as spaCy's English rules part it; in linear time."""
    return list(chain.from_iterable(map(_PARTS.__getitem__, text.split())))
