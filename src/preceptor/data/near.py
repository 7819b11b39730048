"""Near duplicates: candidates by MinHash bands, each verified by its true similarity, joined to clusters."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from preceptor.data.external import RowArray, Sorter, group_starts, new_rows, release, write
from preceptor.data.fingerprints import Hashes
from preceptor.data.part_rows import PartRows
from preceptor.data.sketch import NUM_HASHES, OverlapConfig, shingle_sets

# In a band that thousands share, comparing all with all would not end; what is missed there the other bands find.
_MAX_NEIGHBOURS = 64
_SCREENED_ROWS = 8192
_SCREEN_DEVIATIONS = 4.0
_CACHED_SHINGLES = 1 << 20


class Clusters:
    """Which documents hang together by pairs that are similar enough, and how similar each is to its nearest."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self.parents = new_rows(folder / "parents.bin", np.int64, num_rows)
        self.nearest = new_rows(folder / "nearest.bin", np.float32, num_rows)
        for start in range(0, num_rows, 1 << 20):
            stop = min(num_rows, start + (1 << 20))
            self.parents[start:stop] = np.arange(start, stop)
        release(self.parents)

    def root(self, row: int) -> int:
        """The first document of the cluster."""
        parents = self.parents
        while (parent := int(parents[row])) != row:
            parents[row] = grandparent = int(parents[parent])
            row = grandparent
        return row

    def join(self, first: int, second: int, similarity: float) -> None:
        """Put the clusters of two documents together."""
        for row in (first, second):
            self.nearest[row] = max(float(self.nearest[row]), similarity)
        roots = self.root(first), self.root(second)
        self.parents[max(roots)] = min(roots)

    def members(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The documents that are in a cluster with another one, in order, and the first document of each cluster."""
        for start in range(0, len(self.parents), 1 << 18):
            rows = start + np.flatnonzero(self.nearest[start : start + (1 << 18)] > 0)
            roots = self.parents[rows]
            while not np.array_equal(above := self.parents[roots], roots):
                roots = above
            yield rows, roots
            release(self.parents, self.nearest)


def find_clusters(
    parts: PartRows, is_left: Callable[[int, int], NDArray[np.bool_]], config: OverlapConfig, folder: Path, memory: int
) -> Clusters:
    """The clusters of near duplicates among the documents that are left.

    ``is_left`` says of the rows from one number to another whether they are.

    Source: Broder 1997 for MinHash; Leskovec et al., Mining of Massive Datasets, 3.4 for bands.
    """
    clusters = Clusters(folder, parts.num_rows)
    signatures = new_rows(folder / "signatures.bin", np.uint8, parts.num_rows, NUM_HASHES)
    bands = Sorter(folder / "bands.bin", memory_bytes=memory)
    for first, batch in parts.batches(["signature", "bands"]):
        left = is_left(first, first + batch.num_rows)
        buffer = np.frombuffer(batch.column("signature").buffers()[1], np.uint8)
        signatures[first : first + batch.num_rows] = buffer.reshape(-1, NUM_HASHES)[: batch.num_rows]
        lists = batch.column("bands").filter(left)
        rows = np.repeat(first + np.flatnonzero(left), lists.value_lengths().to_numpy())
        bands.add(lists.flatten().to_numpy(), rows)
        release(signatures)
    pairs = Sorter(folder / "pairs.bin", memory_bytes=memory)
    for one, other in _neighbours(bands):
        parts.stop_check()
        pairs.add(one, other)
    bands.close()
    candidates = _Candidates(parts, config, folder)
    candidates.screen(pairs, signatures)
    pairs.close()
    candidates.verify(clusters)
    return clusters


def _neighbours(bands: Sorter) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of documents that share a band."""
    carry = np.empty((0, 2), np.uint64)
    for chunk in bands.chunks():
        block = np.concatenate([carry, chunk])
        keys, rows = block[:, 0], block[:, 1]
        for lag in range(1, _MAX_NEIGHBOURS + 1):
            low = max(len(carry), lag)
            places = low + np.flatnonzero(keys[low:] == keys[low - lag : len(keys) - lag])
            if not len(places):
                break
            yield rows[places - lag], rows[places]
        carry = block[-_MAX_NEIGHBOURS:].copy()


class _Candidates:
    """Pairs that may be similar, on the disk, and the word n-grams of their documents."""

    def __init__(self, parts: PartRows, config: OverlapConfig, folder: Path) -> None:
        self.parts, self.config, self.folder = parts, config, folder
        self.is_candidate = new_rows(folder / "is_candidate.bin", np.bool_, parts.num_rows)
        self.starts = new_rows(folder / "shingle_starts.bin", np.int64, parts.num_rows)
        self.counts = new_rows(folder / "shingle_counts.bin", np.int64, parts.num_rows)
        self._cache: OrderedDict[int, Hashes] = OrderedDict()
        self._num_cached = 0

    def screen(self, pairs: Sorter, signatures: RowArray) -> None:
        """Note the different pairs whose signatures are not too far apart.

        A pair at the threshold is that many standard deviations below it once in thirty thousand times.
        """
        threshold = self.config.near_jaccard
        limit = threshold - _SCREEN_DEVIATIONS * sqrt(threshold * (1 - threshold) / NUM_HASHES)
        before: tuple[int, int] | None = None
        with (self.folder / "candidates.bin").open("wb") as file:
            for chunk in pairs.chunks():
                for start in range(0, len(chunk), _SCREENED_ROWS):
                    self.parts.stop_check()
                    some = chunk[start : start + _SCREENED_ROWS]
                    is_new = group_starts(some[:, 0], None if before is None else before[0])
                    is_new |= group_starts(some[:, 1], None if before is None else before[1])
                    before = (int(some[-1, 0]), int(some[-1, 1]))
                    some = some[is_new]
                    share = np.mean(signatures[some[:, 0]] == signatures[some[:, 1]], axis=1)
                    # Two bytes are equal by chance once in 256 times.
                    some = some[(share - 1 / 256) / (1 - 1 / 256) >= limit]
                    self.is_candidate[some.ravel()] = True
                    write(file, some)
                    release(signatures, self.is_candidate)

    def verify(self, clusters: Clusters) -> None:
        """Join the documents of each pair that is similar enough and not together yet."""
        path = self.folder / "shingles.bin"
        self._write_shingles(path)
        with path.open("rb") as file:
            for number, (first, second) in enumerate(self._pairs()):
                if number % 1024 == 0:
                    self.parts.stop_check()
                    release(self.starts, self.counts, clusters.parents, clusters.nearest)
                if clusters.root(first) == clusters.root(second):
                    continue
                similarity = self._similarity(file, first, second)
                if similarity >= self.config.near_jaccard:
                    clusters.join(first, second, similarity)
        path.unlink()
        (self.folder / "candidates.bin").unlink()

    def _pairs(self) -> Iterator[tuple[int, int]]:
        with (self.folder / "candidates.bin").open("rb") as file:
            while len(chunk := np.fromfile(file, np.uint64, 2 * _SCREENED_ROWS)):
                yield from zip(chunk[::2].tolist(), chunk[1::2].tolist(), strict=True)

    def _write_shingles(self, path: Path) -> None:
        """Read the candidates' texts once, in order, rather than each when it is compared."""
        place = 0
        with path.open("wb") as file:
            for first, batch in self.parts.batches(["text"], self.is_candidate):
                rows = first + np.flatnonzero(self.is_candidate[first : first + batch.num_rows])
                if not len(rows):
                    continue
                texts = batch.column("text").take(rows - first).to_pylist()
                sets = list(shingle_sets(texts, self.config.shingle_words))
                sizes = np.array([len(hashes) for hashes in sets])
                self.starts[rows], self.counts[rows] = place + np.cumsum(sizes) - sizes, sizes
                write(file, np.concatenate(sets))
                place += int(sizes.sum())
                release(self.starts, self.counts, self.is_candidate)

    def _similarity(self, file: BinaryIO, first: int, second: int) -> float:
        """The Jaccard similarity of two documents, or 0 where their sizes alone say that it is below the threshold."""
        sizes = int(self.counts[first]), int(self.counts[second])
        if min(sizes) < self.config.near_jaccard * max(sizes):
            return 0.0
        shared = _num_shared(self._shingles(file, first), self._shingles(file, second))
        return shared / (sum(sizes) - shared) if sum(sizes) else 0.0

    def _shingles(self, file: BinaryIO, row: int) -> Hashes:
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        file.seek(8 * int(self.starts[row]))
        hashes = np.frombuffer(file.read(8 * int(self.counts[row])), np.uint64)
        self._cache[row] = hashes
        self._num_cached += len(hashes)
        while self._num_cached > _CACHED_SHINGLES and len(self._cache) > 2:
            self._num_cached -= len(self._cache.popitem(last=False)[1])
        return hashes


def _num_shared(first: Hashes, second: Hashes) -> int:
    """How many numbers two sorted sets have in common."""
    if not len(first) or not len(second):
        return 0
    places = np.minimum(np.searchsorted(second, first), len(second) - 1)
    return int(np.count_nonzero(second[places] == first))


def best_first(clusters: Clusters, quality: RowArray, characters: RowArray, folder: Path, memory: int) -> Sorter:
    """Records of cluster, order and document, so that the first record of each cluster is the one which stays.

    The best quality goes before, then the greatest length, then the first place.
    """
    sorter = Sorter(folder / "clusters.bin", 3, memory_bytes=memory)
    for rows, roots in clusters.members():
        order = (quality[rows].astype(np.uint64) << np.uint64(32)) | (~characters[rows]).astype(np.uint64)
        sorter.add(roots, order, rows)
        release(quality, characters)
    return sorter


def rank_of_quality(quality: NDArray[np.float64]) -> NDArray[np.uint32]:
    """A number for each quality that is less the better it is; nothing is worse than a quality that is no number."""
    bits = np.nan_to_num(quality.astype(np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf).view(np.uint32)
    rising = np.where(bits >> np.uint32(31) == 1, ~bits, bits | np.uint32(1 << 31))
    return (~rising).astype(np.uint32)
