"""The order of rows: another in every epoch and whole in each; and what is random is the same for nobody else."""

import itertools

import numpy as np
import pytest
import torch

from preceptor.core.seeds import numpy_generator
from preceptor.models.encoder_config import EncoderConfig
from preceptor.nn.inputs import Inputs
from preceptor.objectives.batch import Batch, Batches
from preceptor.objectives.choice import objective_for
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.training import train

NUM_EPOCHS = 6


class Rows:
    def __init__(self, num_rows):
        self.num_rows = num_rows

    def collate(self, rows, samples=None):
        tokens = torch.tensor(rows).unsqueeze(1)
        return Batch(Inputs(tokens), tokens)


def rows_of(num_rows, seed=3, rows_per_step=4):
    """The rows of some epochs, one after another."""
    batches = Batches(Rows(num_rows), seed, rows_per_step, 2)
    steps = -(-NUM_EPOCHS * num_rows // rows_per_step)
    flat = [row for step in range(steps) for row in batches.rows(step)]
    return [flat[epoch * num_rows : (epoch + 1) * num_rows] for epoch in range(NUM_EPOCHS)]


@pytest.mark.parametrize("num_rows", [7, 24, 101])
def test_every_epoch_is_a_permutation_of_its_own(num_rows):
    epochs = rows_of(num_rows)
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    assert all(one != other for one, other in itertools.combinations(epochs, 2))
    assert epochs == rows_of(num_rows) and epochs != rows_of(num_rows, seed=4)
    # Nor does one begin or end as another does.
    assert len({tuple(epoch[:4]) for epoch in epochs}) == NUM_EPOCHS


def test_the_rows_of_a_step_do_not_depend_on_how_it_is_cut():
    for size in (1, 2, 4, 8):
        batches = Batches(Rows(24), 3, 8, size)
        for step in range(5):
            read = torch.cat([batch.tokens_BT for batch in batches.at(step)]).flatten().tolist()
            assert read == Batches(Rows(24), 3, 8, 8).rows(step)


@pytest.mark.parametrize("kind", ["masked"])
def test_what_is_hidden_differs_by_row_and_epoch_and_follows_from_the_seed(kind, tmp_path):
    tokenizer = train(["amber birch cedar"] * 8, TokenizerConfig(vocab_size=270, mask_token=True), tmp_path)
    # Every row has the same text, so that whatever differs was drawn.
    ids = [*tokenizer.encode("amber birch cedar " * 3)[:31], tokenizer.end_of_text_id]
    offsets = np.arange(0, 9 * len(ids), len(ids)).astype(np.int64)
    stream = TokenStream(np.array(ids * 8, np.uint16), offsets, [str(n) for n in range(8)], 100)
    config = EncoderConfig(
        vocab_size=270, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )

    def hidden(seed, size):
        objective = objective_for(ObjectiveConfig(kind=kind), stream, len(ids), tokenizer, seed, config)
        assert objective.num_rows == 8
        steps = [Batches(objective, 1, 8, size).at(step) for step in range(2)]
        return [tuple(row.tolist()) for batches in steps for batch in batches for row in batch.labels_BT]

    found = hidden(3, 8)
    # Sixteen rows of two epochs, of which no two hide the same places.
    assert len(set(found)) == 16
    assert hidden(3, 8) == hidden(3, 2) == hidden(3, 1) == found
    assert not set(found) & set(hidden(4, 8))


def test_generators_of_many_uses_are_pairwise_different_and_reproducible():
    names = [("worker", number, "epoch", epoch) for number in range(8) for epoch in range(4)]
    drawn = {name: tuple(numpy_generator(5, *name).integers(0, 1 << 62, 16).tolist()) for name in names}
    assert len({number for numbers in drawn.values() for number in numbers}) == 16 * len(names)
    assert drawn == {name: tuple(numpy_generator(5, *name).integers(0, 1 << 62, 16).tolist()) for name in names}
    others = {name: tuple(numpy_generator(6, *name).integers(0, 1 << 62, 16).tolist()) for name in names}
    assert not set(drawn.values()) & set(others.values())
