"""Duplicates: exact by digest; near by MinHash with bands; contained by probes. Candidates are always verified."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rensa
import xxhash

from preceptor.data.words import WORD

SHINGLE_WORDS = 5
_NUM_HASHES = 128
_SEED = 42
_MIN_RECALL = 0.999
_MAX_BUCKET_COMPARISONS = 100
_NUM_PROBES = 16
_MAX_HOLDERS = 64

Shingles = frozenset[int]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A text to leave out: its index, that of the text which stays for it, and how much the two have in common."""

    index: int
    kept: int
    measured: float


def exact_key(text: str) -> int:
    """A number that equal texts share; letter case and white space do not count. Source: xxHash 3, 128 bits."""
    return int(xxhash.xxh3_128_intdigest(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")))


def shingles(text: str) -> Shingles:
    """The word 5-grams of a text as numbers; a text of fewer words is one shingle."""
    words = WORD.findall(text.lower())
    runs = (words[start : start + SHINGLE_WORDS] for start in range(max(1, len(words) - SHINGLE_WORDS + 1)))
    return frozenset(xxhash.xxh3_64_intdigest(" ".join(run).encode("utf-8", "surrogatepass")) for run in runs)


def jaccard(first: Shingles, second: Shingles) -> float:
    """The share of all shingles of two texts that they have in common."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def containment(part: Shingles, whole: Shingles) -> float:
    """The share of one text's shingles that another text has. Source: Broder 1997."""
    return len(part & whole) / len(part) if part else 1.0


def near_duplicates(texts: Sequence[str], sets: Sequence[Shingles], threshold: float) -> list[Duplicate]:
    """All but the longest text of each cluster, where pairs of at least that Jaccard similarity are connected.

    What is measured is the greatest similarity to a member of the cluster.

    Source: Broder 1997 for MinHash; Leskovec et al., Mining of Massive Datasets, 3.4 for bands.
    """
    parents = list(range(len(texts)))
    nearest = [0.0] * len(texts)

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for first, second in _similar_pairs(sets, band_rows(threshold)):
        similarity = jaccard(sets[first], sets[second])
        if similarity >= threshold:
            nearest[first], nearest[second] = max(nearest[first], similarity), max(nearest[second], similarity)
            parents[max(root(first), root(second))] = min(root(first), root(second))
    clusters: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        clusters[root(index)].append(index)
    found = []
    for members in clusters.values():
        best, *others = sorted(members, key=lambda index: (-len(texts[index]), index))
        found += [Duplicate(index, best, nearest[index]) for index in others]
    return sorted(found, key=lambda duplicate: duplicate.index)


def band_rows(threshold: float) -> int:
    """The most rows in a band, so the fewest candidates, with which a pair at the threshold is still almost sure."""
    for rows in range(16, 1, -1):
        if 1 - (1 - threshold**rows) ** (_NUM_HASHES // rows) >= _MIN_RECALL:
            return rows
    return 1


def _similar_pairs(sets: Sequence[Shingles], rows: int) -> Iterator[tuple[int, int]]:
    """Pairs of sets that share a band of their signatures."""
    signatures = [_signature(each) for each in sets]
    seen: set[tuple[int, int]] = set()
    for start in range(0, _NUM_HASHES - rows + 1, rows):
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            buckets[tuple(signature[start : start + rows])].append(index)
        for bucket in buckets.values():
            for place, second in enumerate(bucket):
                # Where thousands share one band, comparing all with all would not end; the other bands find the rest.
                for first in bucket[max(0, place - _MAX_BUCKET_COMPARISONS) : place]:
                    if (first, second) not in seen:
                        seen.add((first, second))
                        yield first, second


def _signature(shingle_set: Shingles) -> list[int]:
    sketch = rensa.RMinHash(num_perm=_NUM_HASHES, seed=_SEED)
    sketch.update([f"{shingle:x}" for shingle in sorted(shingle_set)])
    return list(sketch.digest())


def contained(sets: Sequence[Shingles], threshold: float) -> list[Duplicate]:
    """The texts of which at least that share stands in one longer text that stays.

    Jaccard similarity cannot see a chapter that is also published inside its book. The smallest hashes of a text are
    looked for in all others, and whoever holds half of these probes is compared in full: at a containment of 0.8
    that overlooks one pair in a thousand.
    """
    probes = [sorted(each)[:_NUM_PROBES] for each in sets]
    holders: dict[int, list[int]] = {probe: [] for each in probes for probe in each}
    by_size = sorted(range(len(sets)), key=lambda index: (-len(sets[index]), index))
    for index in by_size:
        for shingle in sets[index] & holders.keys():
            if len(holders[shingle]) < _MAX_HOLDERS:
                holders[shingle].append(index)
    stays = [True] * len(sets)
    found = []
    for index in by_size:
        counts = Counter(holder for probe in probes[index] for holder in holders[probe] if holder != index)
        best, measured = -1, 0.0
        for holder, number in counts.items():
            is_longer = stays[holder] and (-len(sets[holder]), holder) < (-len(sets[index]), index)
            if is_longer and 2 * number >= len(probes[index]):
                share = containment(sets[index], sets[holder])
                if share > measured:
                    best, measured = holder, share
        if measured >= threshold:
            stays[index] = False
            found.append(Duplicate(index, best, measured))
    return sorted(found, key=lambda duplicate: duplicate.index)
