"""Documents packed into rows of one length, isolated from each other, with as little padding as possible."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, to_tensor

PADDING_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """Which pieces of the stream stand in which row.

    A piece is a run of labels ``[start, start + length)`` of one document; row r holds the pieces
    ``row_pieces[r]``. The plan depends on the documents' lengths alone.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    row_pieces: list[list[int]]
    row_length: int

    @property
    def fill(self) -> float:
        """The share of the rows' places that hold a token."""
        return float(self.lengths.sum()) / (len(self.row_pieces) * self.row_length)


def plan_rows(offsets: NDArray[np.int64], row_length: int) -> PackingPlan:
    """Every document cut into pieces of at most a row, and the pieces packed by best fit, longest first.

    Source: best-fit-decreasing bin packing, as in Ding et al. 2024, Fewer Truncations Improve Language Modeling.
    """
    starts: list[int] = []
    lengths: list[int] = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        for start in range(begin, end, row_length):
            starts.append(start)
            lengths.append(min(row_length, end - start))
    order = sorted(range(len(starts)), key=lambda piece: (-lengths[piece], piece))
    rows: list[list[int]] = []
    # Rows with room left, sorted by room and then by age: the first that is large enough fits best.
    open_rows: list[tuple[int, int]] = []
    for piece in order:
        place = bisect_left(open_rows, (lengths[piece], -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
            rows[row].append(piece)
        else:
            room, row = row_length, len(rows)
            rows.append([piece])
        if room > lengths[piece]:
            insort(open_rows, (room - lengths[piece], row))
    return PackingPlan(np.array(starts, np.int64), np.array(lengths, np.int64), rows, row_length)


def collate_rows(
    plan: PackingPlan,
    rows: Sequence[int],
    tokens: NDArray[np.unsignedinteger],
    first_token: int,
    supervised: NDArray[np.bool_] | None = None,
) -> Batch:
    """The batch of the given rows.

    ``tokens`` is the stream of labels; what precedes a document's first label is the end of text that closes the
    document before it, or ``first_token`` at the start of the stream. Where ``supervised`` is False no loss is taken.
    """
    shape = (len(rows), plan.row_length)
    inputs = np.full(shape, first_token, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    positions = np.zeros(shape, np.int64)
    segments = np.full(shape, PADDING_SEGMENT, np.int64)
    for line, row in enumerate(rows):
        place = 0
        for segment, piece in enumerate(plan.row_pieces[row]):
            start, length = int(plan.starts[piece]), int(plan.lengths[piece])
            target = slice(place, place + length)
            run = tokens[start : start + length].astype(np.int64)
            inputs[line, place] = tokens[start - 1] if start else first_token
            inputs[line, place + 1 : place + length] = run[:-1]
            labels[line, target] = (
                run if supervised is None else np.where(supervised[start : start + length], run, IGNORED)
            )
            positions[line, target] = np.arange(length)
            segments[line, target] = segment
            place += length
        positions[line, place:] = np.arange(plan.row_length - place)
    return Batch(*(to_tensor(array) for array in (inputs, labels, positions, segments)))
