"""The losses of the first steps of each way to train, on a text made here; they move only when somebody means it.

After a change that is meant to change numbers: python tests/golden/test_losses.py writes the new ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.low_rank_targets import attach
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.objectives.batch import Batches
from preceptor.objectives.causal import CausalObjective
from preceptor.parallel.engine import place
from preceptor.tokenizer.stream import TokenStream
from preceptor.train.length import Length
from preceptor.train.loop import fit
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.run import TrainingConfig
from preceptor.train.state import TrainState, Validation

GOLDEN = Path(__file__).with_name("losses.json")
STEPS = 20
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 32,
}
GPT2 = SHAPE | {
    "norm": "layernorm",
    "positions": "learned",
    "gated": False,
    "hidden_act": "gelu_new",
    "qk_norm": "none",
    "attention_bias": "all",
    "mlp_bias": True,
    "num_key_value_heads": 2,
    "zero_init_outputs": False,
}
RECIPES = {
    "default": (SHAPE, OptimizerConfig(kind="muon"), False),
    "gpt2": (GPT2, OptimizerConfig(kind="adamw", learning_rate=0.002), False),
    "low-rank": (SHAPE | {"zero_init_outputs": False}, OptimizerConfig(kind="adamw", learning_rate=0.004), True),
}


class NeverStops:
    requested = False

    def check(self) -> None:
        """Nobody asks."""


def losses(name: str) -> list[float]:
    shape, optimizer, is_adapted = RECIPES[name]
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 60, 80)
    # Each token follows from the one before it by a fixed rule with some noise, so that there is something to learn.
    tokens = np.zeros(lengths.sum(), np.uint16)
    for place_ in range(1, tokens.size):
        tokens[place_] = (tokens[place_ - 1] * 5 + 3 + generator.integers(0, 3)) % 63 + 1
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    tokens[offsets[1:] - 1] = 0
    stream = TokenStream(tokens, offsets, [], 1)
    config = TrainingConfig(context_length=32, batch_tokens=256, micro_batch_tokens=128, optimizer=optimizer)
    model = build(DecoderConfig(**shape), torch.Generator().manual_seed(0))
    if is_adapted:
        attach(model, AdapterConfig(rank=4, alpha=8), torch.Generator().manual_seed(1))
    engine = place(model)
    batches = Batches(CausalObjective(stream, 32, 0), 0, 8, 4)
    state = fit(
        config,
        engine,
        Optimizer(engine.parameters, optimizer),
        batches,
        TrainState(),
        length=Length.of_steps(STEPS),
        validate=lambda: Validation(0.0, 0.0),
        save=lambda state: None,
        stop=NeverStops(),
    )
    return [round(point["loss"], 6) for point in state.curve]


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_losses_are_the_golden_ones(name):
    golden = json.loads(GOLDEN.read_text())[name]
    assert len(golden) == STEPS and golden[-1] < golden[0]
    # Processors round differently; a change of what is computed moves the third digit.
    assert losses(name) == pytest.approx(golden, rel=5e-4)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: losses(name) for name in RECIPES}, indent=1) + "\n")
