"""Which part of each weight a process holds. Nothing here needs another process."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a weight that one process holds: a box of the whole tensor."""

    shape: tuple[int, ...]
    """Of the whole weight."""
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    copies: frozenset[str] = frozenset()
    """The axes along which every process holds the same."""
    is_counted: bool = True
    """Whether this process counts it, where some places along an axis hold the same and others do not."""

    @classmethod
    def whole(cls, shape: Sequence[int], copies: frozenset[str] = frozenset()) -> "Piece":
        """All of a weight."""
        return cls(tuple(shape), (0,) * len(shape), tuple(shape), copies)

    def cut(self, dim: int, start: int, length: int, axis: str) -> "Piece":
        """A range of this piece along a dimension; along the axis, others now hold other ranges."""
        starts, lengths = list(self.starts), list(self.lengths)
        starts[dim], lengths[dim] = starts[dim] + start, length
        return replace(self, starts=tuple(starts), lengths=tuple(lengths), copies=self.copies - {axis})

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the weight is elsewhere."""
        return self.lengths == self.shape

    @property
    def numel(self) -> int:
        """How many elements the piece has."""
        return math.prod(self.lengths)

    def overlap(self, other: "Piece") -> tuple[slice, ...] | None:
        """The elements that both hold, as a range of the whole weight along each dimension; None where they share none.

        A weight of no dimension has one element, which is in every piece.
        """
        slices = []
        for mine, my_length, theirs, their_length in zip(
            self.starts, self.lengths, other.starts, other.lengths, strict=True
        ):
            first, end = max(mine, theirs), min(mine + my_length, theirs + their_length)
            if first >= end:
                return None
            slices.append(slice(first, end))
        return tuple(slices)

    def within(self, ranges: Sequence[slice]) -> tuple[slice, ...]:
        """Ranges of the whole weight, as ranges of this piece."""
        return tuple(
            slice(each.start - start, each.stop - start) for each, start in zip(ranges, self.starts, strict=True)
        )


def owned(pieces: Mapping[str, Piece], coordinates: Mapping[str, int]) -> dict[str, bool]:
    """Whether each weight counts as this process's: of all that hold the same piece, the first one's it is."""
    return {
        name: piece.is_counted and all(coordinates[axis] == 0 for axis in piece.copies)
        for name, piece in pieces.items()
    }
