"""Documents packed into rows of one length, isolated from each other, with as little padding as possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, to_tensor

PADDING_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class RowLayout:
    """What stands where in some rows: by piece, padding included, where it starts in the stream and how long it is.

    ``positions`` and ``segments`` are by place, row after row.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """Which pieces of the stream stand in which row.

    Piece p is the run of labels ``[starts[p], starts[p] + lengths[p])`` of one document; pieces come in the order of
    the stream. Row r holds the pieces ``pieces[row_offsets[r] : row_offsets[r + 1]]``.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    pieces: NDArray[np.int64]
    row_offsets: NDArray[np.int64]
    row_length: int

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.row_offsets) - 1

    @property
    def fill(self) -> float:
        """The share of the rows' places that hold a token."""
        return float(self.lengths.sum()) / (self.num_rows * self.row_length)

    def row(self, number: int) -> list[int]:
        """The pieces of a row in their order."""
        return list(map(int, self.pieces[self.row_offsets[number] : self.row_offsets[number + 1]]))

    def layout(self, rows: Sequence[int]) -> "RowLayout":
        """What stands where in these rows, one after another."""
        chosen = np.asarray(rows, np.int64)
        firsts = self.row_offsets[chosen]
        # One more than the pieces of a row: the padding that fills it up, which may be nothing.
        counts = self.row_offsets[chosen + 1] - firsts + 1
        begins = np.cumsum(counts) - counts
        number = np.arange(int(counts.sum())) - np.repeat(begins, counts)
        is_padding = number == np.repeat(counts - 1, counts)
        pieces = self.pieces[np.where(is_padding, 0, np.repeat(firsts, counts) + number)]
        starts, lengths = np.where(is_padding, 0, self.starts[pieces]), np.where(is_padding, 0, self.lengths[pieces])
        lengths[is_padding] = self.row_length - np.add.reduceat(lengths, begins)
        positions = np.arange(len(chosen) * self.row_length) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        segments = np.repeat(np.where(is_padding, PADDING_SEGMENT, number), lengths)
        return RowLayout(starts, lengths, positions, segments)

    def rows_of(self, start: int, stop: int) -> list[int]:
        """The rows in which labels of ``[start, stop)`` stand, in increasing order."""
        last = np.searchsorted(self.starts, stop, "left")
        first = max(0, int(np.searchsorted(self.starts, start, "right")) - 1)
        wanted = [p for p in range(first, int(last)) if self.starts[p] + self.lengths[p] > start]
        places = np.flatnonzero(np.isin(self.pieces, wanted))
        return sorted({int(row) for row in np.searchsorted(self.row_offsets, places, "right") - 1})


def plan_rows(offsets: NDArray[np.int64], row_length: int, groups: NDArray[np.integer] | None = None) -> PackingPlan:
    """Every document cut into pieces of at most a row, and the pieces packed by best fit, longest first.

    Where each document has a group, a row holds documents of one group only, and the rows of a group stand together,
    in the order of the groups.

    Source: best-fit-decreasing bin packing, as in Ding et al. 2024, Fewer Truncations Improve Language Modeling.
    """
    sizes = np.diff(offsets)
    num_pieces = -(-sizes // row_length)
    document = np.repeat(np.arange(len(sizes)), num_pieces)
    place = np.arange(len(document)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    starts = offsets[:-1][document] + place * row_length
    lengths = np.minimum(row_length, offsets[1:][document] - starts)
    rows: list[list[int]] = []
    piece_group = np.zeros(len(starts), np.int64) if groups is None else groups[document]
    for group in np.unique(piece_group):
        members = np.flatnonzero(piece_group == group)
        longest_first = members[np.argsort(-lengths[members], kind="stable")]
        rows += _best_fit(longest_first.tolist(), lengths[longest_first].tolist(), row_length)
    row_offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    pieces = np.fromiter(chain.from_iterable(rows), np.int64, len(starts))
    return PackingPlan(starts.astype(np.int64), lengths.astype(np.int64), pieces, row_offsets, row_length)


def _best_fit(pieces: list[int], lengths: list[int], row_length: int) -> list[list[int]]:
    """The rows, where each piece goes to the row with the least room that is enough; among equals to the oldest."""
    rows: list[list[int]] = []
    # The rows with so much room, and as the bits of one number the rooms of which there is a row.
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    rooms = 0
    for piece, length in zip(pieces, lengths, strict=True):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = heappop(with_room[room])
            rows[row].append(piece)
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = row_length, len(rows)
            rows.append([piece])
        if room > length:
            heappush(with_room[room - length], row)
            rooms |= 1 << (room - length)
    return rows


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
    layout = plan.layout(rows)
    places = layout.positions + np.repeat(layout.starts, layout.lengths)
    # Padding has no place in the stream; what is read for it is written over below.
    np.minimum(places, len(tokens) - 1, out=places)
    labels = tokens[places].astype(np.int64)
    inputs = tokens[places - 1].astype(np.int64)
    if supervised is not None:
        labels[~supervised[places]] = IGNORED
    is_padding = layout.segments == PADDING_SEGMENT
    np.copyto(inputs, first_token, where=is_padding)
    np.copyto(labels, IGNORED, where=is_padding)
    begins = np.cumsum(layout.lengths) - layout.lengths
    inputs[begins[(layout.starts == 0) & (layout.lengths > 0)]] = first_token
    tokens_BT, positions_BT, segments_BT, labels_BT = (
        to_tensor(array.reshape(len(rows), plan.row_length))
        for array in (inputs, layout.positions, layout.segments, labels)
    )
    return Batch(Inputs(tokens_BT, positions_BT, segments_BT), labels_BT)
