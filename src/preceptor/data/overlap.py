"""Duplicates: exact by digest, near by MinHash with bands, verified by the true Jaccard similarity of word shingles."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import rensa
import xxhash

_WORD = re.compile(r"\w+")
SHINGLE_WORDS = 5
_NUM_HASHES = 128
_BAND_ROWS = 4
_SEED = 42


def exact_key(text: str) -> int:
    """A number that equal texts share; letter case and white space do not count. Source: xxHash 3, 128 bits."""
    return int(xxhash.xxh3_128_intdigest(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")))


def shingles(text: str) -> frozenset[int]:
    """The word 5-grams of a text as numbers; a text of fewer words is one shingle."""
    words = _WORD.findall(text.lower())
    runs = (words[start : start + SHINGLE_WORDS] for start in range(max(1, len(words) - SHINGLE_WORDS + 1)))
    return frozenset(xxhash.xxh3_64_intdigest(" ".join(run).encode("utf-8", "surrogatepass")) for run in runs)


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """The share of shingles that two texts have in common."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def near_duplicate_clusters(texts: Sequence[str], threshold: float) -> list[list[tuple[int, float]]]:
    """Clusters of texts that are connected by pairs of at least that similarity.

    Each cluster lists (index, similarity to its best member), the best, which is the longest text, first. Candidate
    pairs share one of 32 bands of 4 MinHash values, which finds a pair of similarity 0.8 with probability above
    0.9999; each is then verified.

    Source: Broder 1997 for MinHash; Leskovec et al., Mining of Massive Datasets, 3.4 for bands.
    """
    sets = [shingles(text) for text in texts]
    parents = list(range(len(texts)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for first, second in _candidates(sets):
        if root(first) != root(second) and jaccard(sets[first], sets[second]) >= threshold:
            parents[max(root(first), root(second))] = min(root(first), root(second))
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        members[root(index)].append(index)
    clusters = []
    for cluster in members.values():
        if len(cluster) > 1:
            best, *others = sorted(cluster, key=lambda index: (-len(texts[index]), index))
            clusters.append([(best, 1.0), *((index, jaccard(sets[best], sets[index])) for index in others)])
    return clusters


def _candidates(sets: Sequence[frozenset[int]]) -> Iterable[tuple[int, int]]:
    """Pairs of sets that share a band of their signatures; in a crowded bucket each with the few before it."""
    signatures = [_signature(each) for each in sets]
    seen: set[tuple[int, int]] = set()
    for band_start in range(0, _NUM_HASHES, _BAND_ROWS):
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            buckets[tuple(signature[band_start : band_start + _BAND_ROWS])].append(index)
        for bucket in buckets.values():
            for place, second in enumerate(bucket):
                for first in bucket[max(0, place - 8) : place]:
                    if (first, second) not in seen:
                        seen.add((first, second))
                        yield first, second


def _signature(shingle_set: frozenset[int]) -> list[int]:
    sketch = rensa.RMinHash(num_perm=_NUM_HASHES, seed=_SEED)
    sketch.update([f"{shingle:x}" for shingle in sorted(shingle_set)])
    return list(sketch.digest())
