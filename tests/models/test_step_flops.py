"""The operations of a training step: as PaLM counts them, and as PyTorch does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.low_rank_targets import attach
from preceptor.models import decoder, encoder_decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.describe import describe
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.step_flops import step_flops
from preceptor.nn.inputs import Inputs

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=16,
)


def model(config=CONFIG):
    return decoder.build(config, torch.Generator().manual_seed(0))


def test_a_decoder_needs_six_operations_for_each_weight_and_token_and_palms_share_for_attention():
    flops = step_flops(model(), 16)
    per_layer = 32 * 8 * (4 + 2 + 2 + 4) + 3 * 32 * 48
    assert flops.of_a_row == 16 * (6 * 3 * per_layer + 12 * 3 * 4 * 8 * 16)
    assert flops.of_a_supervised_token == 6 * 64 * 32
    assert flops.step(5, 70) == 5 * flops.of_a_row + 70 * flops.of_a_supervised_token
    assert flops.step(1, 16) == 16 * describe(CONFIG, 16).flops_per_token.forward_and_backward


def counted(trained, inputs, labels_BT) -> int:
    """What PyTorch counts of a step, which leaves out the inside of attention."""
    with FlopCounterMode(display=False) as counter:
        total, _, _ = trained.loss_sum(inputs, labels_BT)
        total.backward()
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))


def test_weights_are_counted_as_pytorch_counts_them():
    torch.manual_seed(0)
    tokens_BT, labels_BT = torch.randint(0, 64, (3, 16)), torch.full((3, 16), -100)
    labels_BT[:, 5:9] = 1
    attention = 3 * 12 * 16 * 3 * 4 * 8 * 16
    expected = step_flops(model(), 16).step(3, 12) - attention
    assert counted(model(), Inputs(tokens_BT), labels_BT) == pytest.approx(expected, rel=0.01)


def test_frozen_weights_need_no_gradient_of_their_own():
    adapted = attach(model(), AdapterConfig(rank=2, target_modules=("q_proj", "down_proj")), torch.Generator())
    per_layer = 32 * 8 * (4 + 2 + 2 + 4) + 3 * 32 * 48
    thin = 2 * (32 + 32) + 2 * (48 + 32)
    flops = step_flops(adapted, 16)
    assert flops.of_a_row == 16 * (3 * (4 * per_layer + 6 * thin) + 12 * 3 * 4 * 8 * 16)
    assert flops.of_a_supervised_token == 4 * 64 * 32


def test_the_two_sides_of_an_encoder_decoder_read_texts_of_different_lengths():
    config = EncoderDecoderConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_decoder_layers=1,
        head_dim=8,
        num_attention_heads=2,
    )
    built = encoder_decoder.build(config, torch.Generator().manual_seed(0))
    attended, fed = 4 * 16 * 16, (3 if config.gated else 2) * 16 * 24
    weights = 2 * 20 * (attended + fed) + 6 * (attended + fed) + 16 * 16 * (2 * 6 + 2 * 20)
    scores = 16 * (2 * 20 * 20 + 6 * 6 + 6 * 20)
    assert step_flops(built, 6, 20).of_a_row == 6 * weights + 12 * scores
