"""Texts with a source and a target, several pairs in a row, each target seeing its own source only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, to_tensor
from preceptor.objectives.packing import PADDING_SEGMENT

Pair = tuple[NDArray[np.integer], NDArray[np.integer]]


@dataclass(frozen=True, slots=True)
class TwoSided:
    """The size of rows on both sides, the token that starts every target, and the one that fills rows up."""

    source_length: int
    target_length: int
    start_id: int
    padding_id: int

    def batch(self, rows: Sequence[Sequence[Pair]]) -> Batch:
        """The batch of these rows; a target is read one token late, and every token of it is supervised."""
        source, target = _Side(len(rows), self.source_length), _Side(len(rows), self.target_length)
        labels = np.full((len(rows), self.target_length), IGNORED, np.int64)
        for line, pairs in enumerate(rows):
            for segment, (first, second) in enumerate(pairs):
                if not len(second):
                    continue
                source.add(line, segment, first)
                place = target.add(line, segment, np.concatenate(([self.start_id], second[:-1])))
                labels[line, place : place + len(second)] = second
        read = target.inputs(self.padding_id)._replace(source=source.inputs(self.padding_id))
        return Batch(read, to_tensor(labels))

    def prefixed(self, rows: Sequence[Sequence[Pair]]) -> Batch:
        """The same for a model of one side: source and target one after another, in rows of ``source_length``.

        The source is read both ways, and only the target is supervised.
        """
        side = _Side(len(rows), self.source_length)
        labels = np.full((len(rows), self.source_length), IGNORED, np.int64)
        prefix = np.zeros((len(rows), self.source_length), np.bool_)
        for line, pairs in enumerate(rows):
            for segment, (first, second) in enumerate(pairs):
                place = side.add(line, segment, np.concatenate((first, [self.start_id], second[:-1])))
                prefix[line, place : place + len(first)] = True
                begin = place + len(first)
                labels[line, begin : begin + len(second)] = second
        inputs = side.inputs(self.padding_id)._replace(prefix_BT=to_tensor(prefix).bool())
        return Batch(inputs, to_tensor(labels))


class _Side:
    """Rows that are filled from the left."""

    def __init__(self, num_rows: int, length: int) -> None:
        self._filled = [0] * num_rows
        self._tokens = np.full((num_rows, length), -1, np.int64)
        self._segments = np.full((num_rows, length), PADDING_SEGMENT, np.int64)
        self._positions = np.zeros((num_rows, length), np.int64)

    def add(self, line: int, segment: int, tokens: NDArray[np.integer]) -> int:
        """The place from which on the tokens stand in the row."""
        first = self._filled[line]
        here = slice(first, first + len(tokens))
        self._tokens[line, here] = tokens
        self._segments[line, here] = segment
        self._positions[line, here] = np.arange(len(tokens))
        self._filled[line] += len(tokens)
        return first

    def inputs(self, padding_id: int) -> Inputs:
        """The rows, filled up with padding."""
        tokens = np.where(self._segments == PADDING_SEGMENT, padding_id, self._tokens)
        return Inputs(to_tensor(tokens), to_tensor(self._positions), to_tensor(self._segments))
