"""A made-up corpus, seeded, whose statistics hold something of everything."""

import random
from dataclasses import dataclass, field

from preceptor.data.document import Document, Drop, Rejected
from preceptor.data.mixture import MixtureConfig
from preceptor.data.source_config import SourceConfig
from preceptor.data.statistics import Statistics

NAUGHTY = "<script>alert(1)</script> & \"quotes\" 'both' \x00\x07 \u202egnp.exe"
COLLECTIONS = ("web", "books & more", "code")
LICENCES = ("CC-BY-4.0", "MIT", "PSF-2.0", "unknown")
MEASURES = ("characters", "mean_word_characters", "letter_fraction", "compression_ratio", "language_score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """What counts as said twice."""

    near_jaccard: float = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Evaluation sets."""

    paths: tuple[str, ...] = ("eval/<quiz>.jsonl",)
    action: str = "report"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The part of a recipe that a datasheet shows."""

    sources: tuple[SourceConfig, ...] = (
        SourceConfig(
            name="web", path="crawl/*.warc.gz", licence="CC-BY-4.0", origin="https://example.org", date="2024"
        ),
        SourceConfig(name="books & more", path="books", licence="unknown", weight=2.0),
        SourceConfig(name="code", path="src", licence="MIT"),
        SourceConfig(name="nothing", path="empty"),
    )
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    overlap: Overlap = field(default_factory=Overlap)
    contamination: Contamination = field(default_factory=Contamination)


def measures(chance: random.Random) -> dict[str, float]:
    return {
        "characters": float(round(chance.lognormvariate(8, 1.5))),
        "mean_word_characters": chance.gauss(5, 0.8),
        "letter_fraction": min(1.0, chance.betavariate(16, 4)),
        "compression_ratio": chance.lognormvariate(1, 0.3),
        "language_score": float("nan") if chance.random() < 0.1 else chance.betavariate(20, 1),
    }


def events(count: int, seed: int = 0) -> list[tuple]:
    """What happened to documents, each as a method of Statistics and its arguments."""
    chance = random.Random(seed)
    happened: list[tuple] = []
    for number in range(count):
        collection = chance.choice(COLLECTIONS)
        source = f"file:{collection}/{number}.html"
        if chance.random() < 0.03:
            happened.append(("rejected", Rejected(source, "too-deep", f"line {number} {NAUGHTY}"), collection))
            continue
        document = Document.new(
            f"Document {number} {NAUGHTY} " + "word " * chance.randrange(5, 200),
            source,
            licence=chance.choice(LICENCES),
            consent=chance.choice(("granted", "by-licence", "unknown")),
            collection=collection,
            date=chance.choice(("2021-04-01", "2023", "", "soon")),
        )
        happened.append(("read", len(document.text.encode()), collection))
        if chance.random() < 0.3:
            happened.append(("edited", "normalise"))
        said = measures(chance)
        if chance.random() < 0.25:
            rule = chance.choice(
                ("too-short", "near-duplicate", "exact-duplicate", "licence-denied", "outlier:characters")
            )
            happened.append(("dropped", document, Drop(rule, chance.random(), 0.8, f"of {NAUGHTY}"), said))
            continue
        happened.append(("redacted", {"email": chance.randrange(3), "<phone>": chance.randrange(2)}, collection))
        happened.append(("kept", document, said, "validation" if chance.random() < 0.05 else "train"))
        if chance.random() < 0.05:
            happened.append(("augmented", document))
            happened.append(("noted", "contaminated", "eval/<quiz>.jsonl"))
    return happened


def counted(happened: list[tuple]) -> Statistics:
    statistics = Statistics()
    for name, *arguments in happened:
        getattr(statistics, name)(*arguments)
    return statistics
