"""The published quality rules beside datatrove's: the share of equal verdicts, and the ratio of speeds on one core.

    python benchmarks/quality_rules.py --peer-python DATATROVE_VENV/bin/python [--documents 2000]
    python benchmarks/quality_rules.py --peer-python ... --record tests/data/quality_oracle.json --documents 1200

On pages made by code from a seed, and on real text: the documentation inside the running Python. The record holds no
text, only the peer's verdicts, and for real text the name and a digest of what they were given on.
"""

import argparse
import hashlib
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

RULES = ("gopher-quality", "gopher-repetition", "c4", "fineweb")
SEED = 20241121
_COMMON = [
    "the", "of", "and", "to", "in", "a", "is", "that", "it", "was", "for", "on", "are", "with", "as", "his", "they",
    "be", "at", "one", "have", "this", "from", "by", "had", "not", "but", "what", "all", "were", "when", "we",
    "there", "can", "an", "your", "which", "their", "said", "if", "will", "each", "about", "how", "up", "out",
    "them", "then", "she", "many", "some", "so", "these", "would", "other", "into", "has", "more", "her", "two",
    "like", "him", "see", "time", "could", "no", "make", "than", "first", "been", "its", "who", "now", "people",
    "my", "made", "over", "did", "down", "only", "way", "find", "use", "may", "water", "long", "little", "very",
    "after", "words", "called", "just", "where", "most", "know",
]  # fmt: skip
_RARE = [
    "committee", "budget", "temperature", "engine", "mountain", "democracy", "translation", "parliament", "molecule",
    "harvest", "telescope", "railway", "orchestra", "insurance", "geography", "vaccine", "software", "keyboard",
    "bicycle", "archive", "festival", "pottery", "glacier", "senator", "novel", "kitchen", "surgeon", "library",
    "molecule", "lighthouse", "carpenter", "economy", "treaty", "alphabet", "compass", "bridge", "harbour", "garden",
]  # fmt: skip
_ODD = ("don't", "it's", "well-known", "3.14", "U.S.", "e.g.", "Dr. Smith", "42%", "$5", "C++", "x=1", "and/or", "[12]")


def _sentence(draw: random.Random, odd: float) -> str:
    words = []
    for _ in range(draw.randint(4, 24)):
        kind = draw.random()
        words.append(draw.choice(_ODD if kind < odd else _RARE if kind < 0.4 else _COMMON))
    if draw.random() < 0.5:
        place = draw.randrange(len(words))
        words[place] += draw.choice((",", ";", ":", ",", " (maybe)"))
    text = " ".join(words)
    return text[0].upper() + text[1:] + draw.choice((".", ".", ".", ".", "?", "!", '."', "..."))


def _page(draw: random.Random) -> str:
    odd = draw.choice((0.0, 0.05, 0.2))
    paragraphs = [" ".join(_sentence(draw, odd) for _ in range(draw.randint(1, 6))) for _ in range(draw.randint(1, 14))]
    menu = ["Home", "About us", "Contact", "Privacy policy", "Log in", "Read more ...", "- item", "Cart (0)"]
    kind = draw.randrange(12)
    if kind == 0:
        paragraphs += [draw.choice(menu) for _ in range(draw.randint(5, 60))]
    elif kind == 1:
        paragraphs += [draw.choice(paragraphs) for _ in range(draw.randint(1, 8))]
    elif kind == 2:
        paragraphs = [f"{draw.choice(('-', '•', '*'))} {text}" for text in paragraphs]
    elif kind == 3:
        paragraphs.append("{" + draw.choice(_RARE) + "} is set. Please enable JavaScript now.")
    elif kind == 4:
        phrase = " ".join(draw.choice(_RARE) for _ in range(draw.randint(2, 9)))
        paragraphs[0] += f" {phrase}" * draw.randint(2, 40)
    elif kind == 5:
        paragraphs = [" ".join(str(draw.randint(0, 9999)) for _ in range(12)) for _ in paragraphs] + paragraphs[:3]
    elif kind == 6:
        paragraphs = ["#" + text.replace(" ", " #", draw.randint(0, 20)) for text in paragraphs]
    elif kind == 7:
        paragraphs = [text.rstrip('.?!"') for text in paragraphs]
    return draw.choice(("\n", "\n\n")).join(paragraphs)


def pages(number: int) -> list[str]:
    """Pages of prose, menus, lists, numbers and repetition: the same for the same number, seed and Python."""
    draw = random.Random(SEED)
    return [_page(draw) for _ in range(number)]


def documentation() -> dict[str, str]:
    """A text of each module, class and topic of the documentation inside the running Python, by the name of it."""
    from preceptor.recipes.python_docs import documents

    return {document.source: document.text for document in documents()}


def digest(text: str | None) -> str:
    """A short name of a text: texts that have it are the same to the letter."""
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()[:12]


def run_peer(texts: list[str]) -> dict[str, Any]:
    """The peer's verdict on every text by every set of rules, and how long each set took; runs in its interpreter."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.utils.text import split_into_words
    from datatrove.utils.typeshelper import Languages

    kinds = (GopherQualityFilter, GopherRepetitionFilter, C4QualityFilter, FineWebQualityFilter)
    filters = [kind() for kind in kinds]
    for each in filters:
        each.filter(Document(text=texts[0] + " again.", id="warm"))
    verdicts: list[list[str]] = []
    seconds = [0.0] * len(filters)
    words = 0.0
    for place, text in enumerate(texts):
        said = []
        started = time.process_time()
        # The peer remembers the words of the last text, and its sets of rules share them as ours do.
        split_into_words(text, Languages.english)
        words += time.process_time() - started
        for number, each in enumerate(filters):
            started = time.process_time()
            kept = each.filter(Document(text=text, id=str(place)))
            seconds[number] += time.process_time() - started
            said.append("" if kept is True else str(kept[1]) if isinstance(kept, tuple) else "dropped")
        verdicts.append(said)
    return {"seconds": seconds, "words": words, "verdicts": verdicts}


def run_ours(texts: list[str]) -> dict[str, Any]:
    """Our verdicts on the same texts, how long each set of rules took, and how long the words that they share took."""
    from preceptor.data import gopher, web_rules
    from preceptor.data.document import Drop
    from preceptor.data.words import treebank_words

    verdicts: list[list[str]] = []
    seconds = [0.0] * (len(RULES) + 1)
    clock = time.process_time
    for text in texts:
        times = [clock()]
        words = treebank_words(text)
        times.append(clock())
        said = []
        for judge, given in (
            (gopher.quality, (text, words)),
            (gopher.repetition, (text, words)),
            (web_rules.c4, (text,)),
            (web_rules.fineweb, (text, words)),
        ):
            said.append(judge(*given))
            times.append(clock())
        seconds = [total + after - before for total, before, after in zip(seconds, times, times[1:], strict=False)]
        verdicts.append([each.rule if isinstance(each, Drop) else "" for each in said])
    return {"seconds": seconds[1:], "words": seconds[0], "verdicts": verdicts}


def _ask_peer(python: str, texts: list[str]) -> dict[str, Any]:
    command = [python, __file__, "--as-peer"]
    answered = subprocess.run(command, input=json.dumps(texts), check=True, capture_output=True, text=True).stdout
    answer: dict[str, Any] = json.loads(answered.strip().splitlines()[-1])
    return answer


def _report(kind: str, texts: list[str], peer: dict[str, Any], ours: dict[str, Any]) -> None:
    """Print the agreement and the ratio of speeds of each set of rules, and of all together, on one kind of text."""
    size = sum(map(len, texts)) / 1e6
    print(f"{kind}: {len(texts)} texts, {size:.1f} million characters")
    for place, rule in enumerate(RULES):
        pairs = [(a[place], b[place]) for a, b in zip(ours["verdicts"], peer["verdicts"], strict=True)]
        same = sum(bool(a) == bool(b) for a, b in pairs) / len(pairs)
        kept = sum(not b for _, b in pairs) / len(pairs)
        # Alone, a set that counts words has to part the text first; C4 parts its own lines.
        theirs, mine = (each["seconds"][place] + (0 if rule == "c4" else each["words"]) for each in (peer, ours))
        ratio = theirs / mine
        print(f"  {rule:18} same {same:8.3%}   datatrove keeps {kept:6.1%}   {ratio:6.1f} times its speed alone")
        different = Counter(pair for pair in pairs if bool(pair[0]) != bool(pair[1]))
        for (a, b), number in sorted(different.items()):
            print(f"    {a or 'keep'} | {b or 'keep'}: {number}")
    both = zip(ours["verdicts"], peer["verdicts"], strict=True)
    same = sum(all(bool(x) == bool(y) for x, y in zip(a, b, strict=True)) for a, b in both) / len(texts)
    theirs, mine = (sum(each["seconds"]) + each["words"] for each in (peer, ours))
    print(f"  {'all four':18} same {same:8.3%}   {theirs / mine:6.1f} times its speed together")
    print(f"  datatrove {size / theirs:.2f}, preceptor {size / mine:.2f} million characters a second")


def main() -> None:
    """Run both on both kinds of text, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--documents", type=int, default=2000, help="of either kind, at most")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        print(json.dumps(run_peer(json.load(sys.stdin))))
        return
    made = pages(options.documents)
    real = list(documentation().items())
    # Every so many, so that topics, modules and classes are all among them.
    real = real[:: math.ceil(len(real) / options.documents)]
    texts = [text for _, text in real]
    answers = [_ask_peer(options.peer_python, each) for each in (made, texts)]
    for kind, each, peer in zip(("made pages", "Python's documentation"), (made, texts), answers, strict=True):
        _report(kind, each, peer, run_ours(each))
    if options.record:
        flags = [["".join("01"[bool(said)] for said in each) for each in peer["verdicts"]] for peer in answers]
        named = [(name, digest(text), each) for (name, text), each in zip(real, flags[1], strict=True)]
        record = {"seed": SEED, "rules": RULES, "dropped": flags[0], "real": named}
        options.record.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
