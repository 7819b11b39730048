"""The published quality rules beside datatrove's: the share of equal verdicts, and the ratio of speeds on one core.

    python benchmarks/quality_rules.py --peer-python DATATROVE_VENV/bin/python [--documents 2000]
    python benchmarks/quality_rules.py --peer-python ... --record tests/data/quality_oracle.json --documents 1200

The texts are made by code from a seed, so that the record holds nothing but the peer's verdicts.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

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


def run_peer(number: int) -> dict[str, object]:
    """The peer's verdict on every page by every set of rules, and how long each set took; runs in its interpreter."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    kinds = (GopherQualityFilter, GopherRepetitionFilter, C4QualityFilter, FineWebQualityFilter)
    filters = [kind() for kind in kinds]
    texts = pages(number)
    for each in filters:
        each.filter(Document(text=texts[0] + " again.", id="warm"))
    verdicts: list[list[str]] = []
    started = time.process_time()
    for place, text in enumerate(texts):
        said = []
        for each in filters:
            kept = each.filter(Document(text=text, id=str(place)))
            said.append("" if kept is True else str(kept[1]) if isinstance(kept, tuple) else "dropped")
        verdicts.append(said)
    return {"seconds": time.process_time() - started, "verdicts": verdicts}


def run_ours(number: int) -> dict[str, object]:
    """Our verdicts on the same pages, every set of rules asked by itself, and how long that took."""
    from preceptor.data import gopher, web_rules
    from preceptor.data.document import Drop
    from preceptor.data.words import treebank_words

    texts = pages(number)
    verdicts: list[list[str]] = []
    started = time.process_time()
    for text in texts:
        words = treebank_words(text)
        said = (
            gopher.quality(text, words),
            gopher.repetition(text, words),
            web_rules.c4(text),
            web_rules.fineweb(text, words),
        )
        verdicts.append([each.rule if isinstance(each, Drop) else "" for each in said])
    return {"seconds": time.process_time() - started, "verdicts": verdicts}


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        print(json.dumps(run_peer(options.documents)))
        return
    command = [options.peer_python, __file__, "--as-peer", "--documents", str(options.documents)]
    answered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peer, ours = json.loads(answered.strip().splitlines()[-1]), run_ours(options.documents)
    same_pages = 0
    for place, rule in enumerate(RULES):
        pairs = [(a[place], b[place]) for a, b in zip(ours["verdicts"], peer["verdicts"], strict=True)]
        same = sum(bool(a) == bool(b) for a, b in pairs)
        kept = sum(not b for _, b in pairs)
        print(f"{rule:20} same verdict {same / len(pairs):8.3%}   datatrove keeps {kept / len(pairs):6.1%}")
        different = sorted({pair for pair in pairs if bool(pair[0]) != bool(pair[1])})
        print("".join(f"    {a or 'keep'} | {b or 'keep'}: {pairs.count((a, b))}\n" for a, b in different), end="")
    for a, b in zip(ours["verdicts"], peer["verdicts"], strict=True):
        same_pages += all(bool(x) == bool(y) for x, y in zip(a, b, strict=True))
    characters = sum(map(len, pages(options.documents)))
    print(f"all four the same    {same_pages / options.documents:8.3%} of {options.documents} pages")
    for name, each in (("datatrove", peer), ("preceptor", ours)):
        speed = options.documents / each["seconds"]
        print(f"{name:12} {speed:10.0f} pages/s {speed * characters / options.documents / 1e6:8.2f} MB/s")
    print(f"ratio {peer['seconds'] / ours['seconds']:.1f}")
    if options.record:
        record = {
            "seed": SEED,
            "rules": RULES,
            "dropped": ["".join(map(str, map(int, map(bool, v)))) for v in peer["verdicts"]],
        }
        options.record.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
