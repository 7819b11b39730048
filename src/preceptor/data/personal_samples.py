"""A labelled set of made-up personal data and of what only looks like it, and the scores of a redactor on it."""

import random
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from preceptor.data import personal_values as values
from preceptor.data.personal import KINDS, Redactor
from preceptor.data.spans import Span

_SLACK = 4
"""How many characters a span may reach beyond its label before it counts as another span."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text, where its one personal span stands, and how this was written."""

    text: str
    start: int
    end: int
    kind: str
    variant: str


@dataclass(frozen=True, slots=True)
class Score:
    """How a kind was found: labelled spans, those of them found, spans found, and those of them that were labelled."""

    labelled: int
    recalled: int
    found: int
    correct: int

    @property
    def recall(self) -> float:
        """The share of labelled spans that were found, whole and as their kind."""
        return self.recalled / self.labelled

    @property
    def precision(self) -> float:
        """The share of found spans that were labelled, as this kind and as long."""
        return self.correct / self.found if self.found else 1.0


def wilson_lower(hits: int, trials: int, z: float = 1.96) -> float:
    """The lower end of the 95% interval of a share. Source: Wilson, 1927."""
    if trials == 0:
        return 0.0
    share, square = hits / trials, z * z / trials
    half = z * sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, (share + square / 2 - half) / (1 + square))


_SENTENCES = (
    "Please write to {} before Friday, or leave a note at the desk.", "Her details are {} and nothing else was kept.",
    "Bitte an {} senden, danke.", "Le dossier mentionne {} deux fois.", "Contact: {}", "{}", "{} was in the log.",
    "Según el registro, {} sigue activo.", "See ({}), which he gave us in March.", "1. {}\n2. nothing\n3. nothing",
    "The form says “{}” in the third field.", "<p>{}</p>", "* {}", "Name;Value;Note\nOlu;{};none", "{}, as agreed.",
)  # fmt: skip
_CHUNK_CHARACTERS = 4096
_FILLER = "the council met again and agreed on three points "

Written = tuple[str, str, str]
"""What stands before a span, the span, and what stands after it."""
Variant = Callable[[random.Random, str], Written | None]


def _plain(rng: random.Random, value: str) -> Written:
    before, after = rng.choice(_SENTENCES).split("{}")
    return before, value, after


def _in_json(rng: random.Random, value: str) -> Written:
    return f'{{"id": {rng.randrange(99)}, "value": "', value, '", "checked": true}'


def _in_table(rng: random.Random, value: str) -> Written:
    return "| name | value | since |\n|---|---|---|\n| Olu | ", value, f" | {rng.randrange(1990, 2026)} |"


def _over_chunks(rng: random.Random, value: str) -> Written:
    """Across the place where a reader that takes 4,096 characters at a time would cut."""
    filler = _FILLER * (_CHUNK_CHARACTERS // len(_FILLER) + 1)
    return filler[: _CHUNK_CHARACTERS - rng.randrange(1, len(value)) - 1] + " ", value, " " + _FILLER


def _full_width(rng: random.Random, value: str) -> Written:
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() and (c.isalnum() or c in "@.+-") else c for c in value)
    return "連絡先は ", wide, " です。"


def _invisible(rng: random.Random, value: str) -> Written:
    at = rng.randrange(1, len(value))
    return "It is ", value[:at] + rng.choice("\u200b\u200d\u00ad\u2060\ufeff") + value[at:], " as far as we know."


def _look_alikes(rng: random.Random, value: str) -> Written | None:
    dashed = value.replace("-", rng.choice("\u2010\u2011\u2013\u2212")).replace(" ", rng.choice("\u00a0\u202f\u2009"))
    return None if dashed == value else ("It is ", dashed, ".")


def _written_email(rng: random.Random, value: str) -> Written:
    local, _, host = value.partition("@")
    local = local.replace("%", "-")
    ats = (" [at] ", "[at]", "(at)", " (at) ", " {at} ", " AT ", " at ", " [AT] ", " <at> ", "[@]", " (@) ")
    dots = (" dot ", " [dot] ", "(dot)", " DOT ", "[.]", " (dot) ", " {dot} ")
    dot = rng.choice(dots)
    written = local.replace(".", rng.choice((".", dot))) + rng.choice(ats) + host.replace(".", dot)
    return "You can write to ", written, rng.choice((".", " and wait.", "", ", please"))


def _escaped_email(rng: random.Random, value: str) -> Written:
    at = rng.choice(("&#64;", "&#x40;", "&commat;", "\\u0040", "%40", " @ ", "@ ", "@\n", "\n@"))
    return "Write to ", value.replace("%", ".").replace("@", at), " soon"


def _encoded_email(rng: random.Random, value: str) -> Written:
    return '<a href="mailto:', "".join(f"&#{ord(character)};" for character in value), '">mail</a>'


def _grouped(rng: random.Random, value: str, separators: Sequence[str]) -> str:
    separator = rng.choice(separators)
    sizes = {15: (4, 6, 5), 14: (4, 6, 4)}.get(len(value) if value.isdigit() else 0, (4,) * (len(value) // 4 + 1))
    groups, place = [], 0
    for size in sizes:
        groups.append(value[place : place + size])
        place += size
    return separator.join(group for group in groups if group)


def _in_groups(rng: random.Random, value: str) -> Written:
    return _plain(rng, _grouped(rng, value, (" ", "-", " ", "\u00a0")))


def _in_cells(rng: random.Random, value: str) -> Written:
    separator = rng.choice((" | ", '", "', " \n", "\n", "|", "\t"))
    before, after = {" | ": ("| ", " |"), '", "': ('["', '"]')}.get(separator, ("Number: ", " (checked)"))
    return before, _grouped(rng, value, (separator,)), after


def _on_two_lines(rng: random.Random, value: str) -> Written | None:
    at = [place for place, character in enumerate(value) if character == " " and place > 3]
    if not at:
        return None
    place = rng.choice(at)
    return "Call ", value[:place] + rng.choice(("\n", "\n  ", " | ")) + value[place + 1 :], " after five."


def _defanged(rng: random.Random, value: str) -> Written | None:
    return None if ":" in value else ("Blocked ", value.replace(".", rng.choice(("[.]", "(.)", "[dot]"))), " today")


def _with_port(rng: random.Random, value: str) -> Written:
    port = rng.randrange(1024, 65535)
    return ("connect to [", value, f"]:{port}") if ":" in value else ("http://", value, f":{port}/index.html")


def _announced_phone(rng: random.Random, value: str) -> Written:
    return rng.choice(("Tel. ", "Phone: ", "tel:", "call ", "Mobile ", "Fax: ", "WhatsApp ", "☎ ")), value, "\n"


def _national_phone(rng: random.Random, value: str) -> Written:
    if rng.random() < 0.5:
        return _plain(rng, values.national_phone(rng, ("US", "FR", "GB")))
    return _announced_phone(rng, values.national_phone(rng, ("US", "GB", "DE", "FR", "AU", "JP", "IN", "ES", "IT")))


def _assigned_key(rng: random.Random, value: str) -> Written:
    before, after = rng.choice((("export API_KEY=", "\n"), ('token = "', '"'), ("secret: '", "'"),
                                ("-H 'Authorization: Bearer ", "'"), ('{"key": "', '"}')))  # fmt: skip
    return before, value, after


_EVERYWHERE: tuple[Variant, ...] = (_plain, _plain, _plain, _in_json, _in_table, _over_chunks)
_DISGUISED: tuple[Variant, ...] = (_full_width, _invisible, _look_alikes)
_VARIANTS: dict[str, tuple[Variant, ...]] = {
    "email": (*_EVERYWHERE, _full_width, _invisible, _written_email, _written_email, _escaped_email, _encoded_email),
    "phone": (*_EVERYWHERE, *_DISGUISED, _on_two_lines, _announced_phone, _national_phone),
    "ip-address": (*_EVERYWHERE, _full_width, _invisible, _defanged, _with_port),
    "mac-address": (*_EVERYWHERE, *_DISGUISED),
    "card": (*_EVERYWHERE, *_DISGUISED, _in_groups, _in_groups, _in_cells),
    "iban": (*_EVERYWHERE, *_DISGUISED, _in_groups, _in_groups, _in_cells),
    "key": (_plain, _in_json, _in_table, _over_chunks, _assigned_key, _invisible),
    "private-key": (_plain, _in_json, _over_chunks),
}
_VALUES: dict[str, values.Generator] = {
    "email": values.email, "phone": values.phone, "ip-address": values.ip_address, "mac-address": values.mac_address,
    "card": values.card, "iban": values.iban, "key": values.key, "private-key": values.private_key,
}  # fmt: skip


def samples(kind: str, count: int, seed: int = 0) -> Iterator[Sample]:
    """So many texts with one span of a kind each, the same for a seed on every machine."""
    rng = random.Random(f"{kind} {seed}")
    made = 0
    while made < count:
        variant, written = _written(rng, kind)
        if written is None:
            continue
        before, value, after = written
        yield Sample(before + value + after, len(before), len(before) + len(value), kind, variant)
        made += 1


def _written(rng: random.Random, kind: str) -> tuple[str, Written | None]:
    if kind == "url-credentials":
        before, value, after = values.credentials(rng)
        outer_before, _, outer_after = _plain(rng, "")
        return "plain", (outer_before + before, value, after + outer_after)
    if kind == "national-id":
        value, word = values.national_id(rng)
        variant: Variant = rng.choice((_plain, _in_json, _in_table, _full_width, _invisible, _look_alikes))
        written = variant(rng, value)
        if written is None or not word:
            return variant.__name__[1:], written
        return variant.__name__[1:], (f"{written[0]}{word} ", written[1], written[2])
    variant = rng.choice(_VARIANTS[kind])
    return variant.__name__[1:], variant(rng, _VALUES[kind](rng))


_LOOK_ALIKES = (
    "version ~.~.~.~ is out", "ISBN 978-#-###-#####-#, second edition", "Order no. ######## was shipped",
    "Order no. ############ was shipped", "order number ################", "invoice ####-###### of 20##-0~-1~",
    "invoice ##########", "on 1~.0~.19## at 12:30:##", "20##-1~-2~T08:15:3#.######+00:00", "commit ^^^^^^^^^^^^^^^^^^",
    "sha256:^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
    "id ^^^^^^^^-^^^^-4^^^-a^^^-^^^^^^^^^^^^",
    "x = 0.################ + ##.##############e-0#", "at 4#.######, -1##.###### on the map",
    "@app.route('/items/###')\ndef items_##(): ...", "y = a_# @ b.transpose(#, #)", "h = h * ##### + #########",
    "npm install left-pad@~.~.~ icon@~x.png", "git clone git@github.com:group-##/project.git",
    "a[#:##:~] and std::vector<T>::iterator", "MD5:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^:^^",
    "doi:10.####/j.####.##.#####", "19## | 19## | 20## | 19## | 20## | 19## | 20## | 20##",
    "[####, ####, ####, ####, ####, ####, ####, ####]", "timestamp 16########### and 16########",
    "EAN 40###########, ### pieces at ##.## EUR", "postgres://user:password@localhost:####/db",
    "https://${USER}:${TOKEN##}@example.org/", "SELECT ######### - #### * ####### FROM t_###",
    "section 4.~.~.~, pages 1##-2##", "we met at the dot of noon, ## of us, and looked at example ##",
    "population #,###,### and ## ### ### km", "secret = load_from_environment('SERVICE_##_PASSWORD_FOR_THE_BUILD')",
    "netmask 255.255.###.0, loopback 127.0.0.~, broadcast ff:ff:ff:ff:ff:ff", "US patent #,###,###",
    "arXiv:####.#####v~, PMID ########", "row 1: ### ### ### ###\nrow 2: ### ### ### ###", "CAS ###-##-~",
    "call f(###, ####) and then g(#######)", "#### #### #### points, ###.###.### in all", "0x^^^^^^^^ 0x^^^^^^^^^^^^",
)  # fmt: skip
"""Masks of what is nobody's: ``#`` stands for a digit, ``~`` for one from 1 to 9, ``^`` for a hexadecimal digit."""


def look_alikes(count: int, seed: int = 0) -> Iterator[str]:
    """So many texts without personal data that look as if they had some: versions, orders, dates, hashes, code."""
    rng = random.Random(f"look-alikes {seed}")
    alphabets = {"#": string.digits, "~": string.digits[1:], "^": string.digits + "abcdef"}
    for index in range(count):
        mask = _LOOK_ALIKES[index % len(_LOOK_ALIKES)]
        yield "".join(rng.choice(alphabets[sign]) if sign in alphabets else sign for sign in mask)


def scores(
    redactor: Redactor, count: int, seed: int = 0, missed: Callable[[Sample | str, Sequence[Span]], None] | None = None
) -> dict[str, Score]:
    """The score of each kind on so many spans of each and half as many look-alikes per kind.

    Args:
        redactor: what is judged.
        count: labelled spans of each kind.
        seed: of the set.
        missed: called with every sample that was missed and every text in which something wrong was found.
    """
    labelled, recalled, found, correct = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for kind in KINDS:
        for sample in samples(kind, count, seed):
            spans = redactor.find(sample.text)
            right = [span for span in spans if _fits(span, sample)]
            whole = [span for span in right if span.start <= sample.start and sample.end <= span.end]
            labelled[kind] += 1
            recalled[kind] += bool(whole)
            found.update(span.kind for span in spans)
            correct.update(span.kind for span in right)
            if missed and not (whole and len(spans) == len(right)):
                missed(sample, spans)
    for text in look_alikes(count * len(KINDS) // 2, seed):
        spans = redactor.find(text)
        found.update(span.kind for span in spans)
        if missed and spans:
            missed(text, spans)
    return {kind: Score(labelled[kind], recalled[kind], found[kind], correct[kind]) for kind in KINDS}


def _fits(span: Span, sample: Sample) -> bool:
    """Whether a found span is a label's kind, touches it, and does not reach far beyond it."""
    overlaps = span.start < sample.end and sample.start < span.end
    is_as_long = span.start >= sample.start - _SLACK and span.end <= sample.end + _SLACK
    return span.kind == sample.kind and overlaps and is_as_long
