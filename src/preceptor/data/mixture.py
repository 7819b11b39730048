"""How sources are blended: which one stands at a place of the training order, as a function without a memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from preceptor.core.errors import DataError
from preceptor.core.seeds import KeyedPermutation, derive

_BLOCK = 1024
"""Places in a block. Within each block every source stands as often as its share says, to one place in a block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """By what rule the sources are blended while a model is trained."""

    kind: Literal["proportional", "weights", "temperature"] = "proportional"
    """proportional: every document once an epoch, so that a source counts by its size; weights: by the `weight` of each
    source; temperature: by size to the power 1 / temperature, which lifts small sources."""
    temperature: float = 2.0
    """1 leaves the sizes as they are; the larger, the more alike the shares.
    Source: Devlin 2019, multilingual BERT; Xue et al. 2021, mT5, equation 1 (alpha = 1 / temperature)."""

    def __post_init__(self) -> None:
        """Refuse temperatures that turn the sizes upside down."""
        if not self.temperature >= 1 or math.isinf(self.temperature):
            raise ValueError(f"temperature must be a number of at least 1, got {self.temperature}")


@dataclass(frozen=True, slots=True)
class Blending:
    """How the sources of a stream are blended: the rule, and for each source by name its weight and cap on epochs."""

    config: MixtureConfig = field(default_factory=MixtureConfig)
    sources: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_by_source(self) -> bool:
        """Whether rows must hold one source each; without weights or caps all documents are one stream."""
        return self.config.kind != "proportional" or any(cap for _, cap in self.sources.values())


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A source as the mixture sees it: how many samples it has, its weight, and how often it may be repeated."""

    name: str
    num_samples: int
    weight: float = 1.0
    max_epochs: float = 0.0
    """How often each sample may be seen; 0 for no limit."""


def shares(config: MixtureConfig, ingredients: Sequence[Ingredient], num_samples: int) -> list[float]:
    """The share of each source in that many samples, none above what its epochs allow.

    What a source cannot give for want of epochs goes to the others in proportion to their shares.

    Raises:
        DataError: all sources together cannot give so many samples, or none has a weight.
    """
    wanted = _wanted(config, ingredients)
    limits = [each.max_epochs * each.num_samples if each.max_epochs else math.inf for each in ingredients]
    limits = [limit if each.num_samples else 0.0 for limit, each in zip(limits, ingredients, strict=True)]
    most = sum(limit for limit, weight in zip(limits, wanted, strict=True) if weight)
    if most < num_samples:
        raise DataError(
            f"the sources give {int(most):,} samples under their max_epochs, and training takes {num_samples:,}",
            remedy="raise max_epochs in data.sources, add documents, or train for a shorter time",
        )
    amounts = [0.0] * len(ingredients)
    free = {index for index, weight in enumerate(wanted) if weight > 0 and limits[index] > 0}
    left = float(num_samples)
    while free:
        scale = left / sum(wanted[index] for index in free)
        full = {index for index in free if wanted[index] * scale >= limits[index]}
        for index in full or free:
            amounts[index] = limits[index] if full else wanted[index] * scale
        if not full:
            break
        left -= sum(limits[index] for index in full)
        free -= full
    return [amount / num_samples for amount in amounts]


def _wanted(config: MixtureConfig, ingredients: Sequence[Ingredient]) -> list[float]:
    if config.kind == "weights":
        wanted = [each.weight if each.num_samples else 0.0 for each in ingredients]
    else:
        power = 1 / config.temperature if config.kind == "temperature" else 1.0
        wanted = [each.num_samples**power if each.num_samples else 0.0 for each in ingredients]
    if not sum(wanted) > 0:
        raise DataError("no source of the mixture has a sample and a weight", remedy="set weight in data.sources")
    return wanted


@lru_cache(maxsize=8)
def _order(seed: int, block: int) -> KeyedPermutation:
    """The permutation of a block; the neighbours of a place ask for the same one."""
    return KeyedPermutation(_BLOCK, derive(seed, "mixture", block))


class Mixture:
    """The order in which sources are drawn: place p holds sample i of source s, found in constant time and memory.

    The places fall into blocks of equal length. In a block each source stands a whole number of times, and where in
    the block is decided by a permutation of its own. What the whole numbers leave over is made up in later blocks, so
    that after any number of blocks a source is within one place of its share.
    """

    def __init__(self, proportions: Sequence[float], seed: int) -> None:
        total = math.fsum(proportions)
        if not proportions or min(proportions) < 0 or not total > 0:
            raise ValueError("proportions must be numbers of at least 0 with a sum above 0")
        self.seed = seed
        # Whole shares of 2**40, so that counting needs no fractions that differ between machines.
        edges = np.round(np.cumsum(np.array(proportions, np.float64) / total) * (1 << 40)).astype(np.int64)
        self._edges = [0, *(int(edge) for edge in edges[:-1]), 1 << 40]

    def drawn(self, place: int) -> list[int]:
        """How often each source was drawn before the block boundary at ``place``, a multiple of the block's length."""
        at = [(edge * place + (1 << 39)) >> 40 for edge in self._edges]
        return [later - earlier for earlier, later in pairwise(at)]

    def at(self, place: int) -> tuple[int, int]:
        """The source that stands at a place, and how often it was drawn before."""
        block, offset = divmod(place, _BLOCK)
        before, after = self.drawn(block * _BLOCK), self.drawn((block + 1) * _BLOCK)
        rank = _order(self.seed, block)(offset)
        for source, (first, last) in enumerate(zip(before, after, strict=True)):
            if rank < last - first:
                return source, first + rank
            rank -= last - first
        raise AssertionError("the sources of a block do not fill it")

    def place_of(self, source: int, sample: int) -> int:
        """The place at which a source is drawn for that time: the inverse of ``at``.

        Raises:
            IndexError: the source has no share, so that it is never drawn.
        """
        block = self._block_of(source, sample)
        before, after = self.drawn(block * _BLOCK), self.drawn((block + 1) * _BLOCK)
        rank = sum(after[index] - before[index] for index in range(source)) + sample - before[source]
        return block * _BLOCK + _order(self.seed, block).inverse(rank)

    def earliest(self, source: int, sample: int) -> int:
        """A place before which a source is not drawn for that time or a later one: the start of the block.

        Raises:
            IndexError: the source has no share, so that it is never drawn.
        """
        return self._block_of(source, sample) * _BLOCK

    def _block_of(self, source: int, sample: int) -> int:
        share = self._edges[source + 1] - self._edges[source]
        if share <= 0:
            raise IndexError(f"source {source} has no share in the mixture")
        block = max(0, (sample << 40) // share // _BLOCK - 1)
        while self.drawn((block + 1) * _BLOCK)[source] <= sample:
            block += 1
        while self.drawn(block * _BLOCK)[source] > sample:
            block -= 1
        return block
