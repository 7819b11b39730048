"""Noise on the inputs: shares that hold, labels that stay, and the same noise whatever the micro-batches."""

import pytest
import torch

from preceptor.nn.inputs import Inputs
from preceptor.objectives.batch import Batch, Batches
from preceptor.objectives.noise import InputNoise
from preceptor.objectives.noise_config import InputNoiseConfig

CONFIG = InputNoiseConfig(dropout=0.1, replacement=0.2)


class Rows:
    num_rows = 64

    def collate(self, rows, samples=None):
        tokens = torch.full((len(rows), 512), 7)
        return Batch(Inputs(tokens, tokens + 2, tokens + 3), tokens + 1)


def batches(rows_per_microbatch=4, config=CONFIG, seed=3):
    return Batches(Rows(), 1, 16, rows_per_microbatch, noise=InputNoise(config, seed, 1000, 0))


def test_shares_hold_and_only_inputs_change():
    tokens = torch.cat([batch.tokens_BT for batch in batches().at(5)])
    assert abs((tokens == 0).float().mean() - 0.1) < 0.02
    assert abs(((tokens != 7) & (tokens != 0)).float().mean() - 0.2) < 0.02
    for batch in batches().at(5):
        assert (batch.labels_BT == 8).all()
        assert (batch.inputs.positions_BT == 9).all() and (batch.inputs.segments_BT == 10).all()


def test_noise_follows_from_seed_and_step_and_not_from_micro_batches():
    whole = torch.cat([batch.tokens_BT for batch in batches(16).at(2)])
    assert torch.equal(torch.cat([batch.tokens_BT for batch in batches(2).at(2)]), whole)
    for other in (batches(16).at(3), batches(16, seed=4).at(2)):
        assert not torch.equal(torch.cat([batch.tokens_BT for batch in other]), whole)


def test_a_share_of_one_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        InputNoiseConfig(dropout=1.0)
