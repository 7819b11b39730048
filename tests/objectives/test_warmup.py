"""Smaller steps and shorter rows at the beginning: the order stays a function, and nothing is lost or seen twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError
from preceptor.data.mixture import Blending, Mixture
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batches, Blend, cut
from preceptor.objectives.causal import CausalObjective
from preceptor.objectives.masked import MaskedObjective
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.warmup import RowLengths, StepSizes, floor_sum
from preceptor.recipes.seen import Rows, steps_of
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.training import train
from preceptor.train.blend import count_steps, make_batches, pretraining_order
from preceptor.train.run import PretrainingConfig
from preceptor.train.warmup_config import BatchWarmupConfig, ContextWarmupConfig

GROWING = StepSizes(full=8, start=2, steps=9, kind="linear")
DOUBLING = StepSizes(full=8, start=1, steps=10, kind="doubling")


def stream(num_documents=40, vocabulary=60, longest=60):
    sizes = np.random.default_rng(0).integers(3, longest, num_documents)
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    tokens = np.random.default_rng(1).integers(1, vocabulary, offsets[-1]).astype(np.uint16)
    names = np.array([f"{n:016x}" for n in range(num_documents)], "S16")
    sources = np.arange(num_documents, dtype=np.uint16) % 3
    return TokenStream(tokens, offsets, names, 0, sources=sources, collections=["a", "b", "c"])


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 500), st.integers(1, 300))
def test_the_sum_under_a_line_is_that_of_its_floors(count, slope, divisor):
    assert floor_sum(count, slope, divisor) == sum(slope * each // divisor for each in range(count))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 30), st.sampled_from(["linear", "doubling"]))
def test_sizes_of_steps_add_up_and_are_found_again(full, start, steps, kind):
    sizes = StepSizes(full, start, steps, kind)
    rows = [sizes.rows(step) for step in range(50)]
    assert rows == sorted(rows) and rows[-1] == full
    assert rows[0] == (min(start, full) if steps else full)
    assert [sizes.first(step) for step in range(51)] == np.cumsum([0, *rows]).tolist()
    assert [sizes.step_of(sample) for sample in range(sum(rows))] == np.repeat(range(50), rows).tolist()
    for wanted in range(1, sum(rows), 37):
        nearest = min(abs(sizes.first(steps) - wanted) for steps in range(1, 51))
        assert abs(sizes.first(sizes.steps_for(wanted)) - wanted) == nearest


def test_far_steps_are_found_at_once():
    sizes = StepSizes(full=10**6 + 3, start=7, steps=10**12)
    step = 10**12 - 5
    assert sizes.step_of(sizes.first(step)) == step
    assert sizes.step_of(sizes.first(step) - 1) == step - 1


def test_whole_micro_batches_grow_to_whole_micro_batches():
    assert [StepSizes(16, 4, 6).rows(step) for step in range(7)] == [4, 4, 8, 8, 12, 12, 16]
    assert [StepSizes(16, 4, 6, "doubling").rows(step) for step in range(7)] == [4, 4, 4, 8, 8, 8, 16]


@pytest.mark.parametrize("growth", [GROWING, DOUBLING])
def test_an_epoch_of_growing_steps_holds_every_row_once(growth):
    made = CausalObjective(stream(), 16, 0)
    batches = Batches(made, 4, 8, 3, growth=growth)
    drawn = [row for step in range(40) for row in batches.rows(step)]
    for epoch in range(3):
        rows = drawn[epoch * made.num_rows : (epoch + 1) * made.num_rows]
        assert sorted(rows) == list(range(made.num_rows))
    assert batches.epochs(17) == sum(map(growth.rows, range(17))) / made.num_rows
    # The order is that of steps of any size.
    assert drawn == [row for step in range(40) for row in replace(batches, growth=None).rows(step)][: len(drawn)]


@pytest.mark.parametrize("growth", [GROWING, DOUBLING, None])
@pytest.mark.parametrize("by_source", [False, True])
def test_the_steps_of_a_row_are_those_that_drew_it(by_source, growth):
    made = CausalObjective(stream(15), 16, 0, by_source=by_source)
    blend = Blend(Mixture([1, 5, 2], 9), made.source_ranges()) if by_source else None
    batches = Batches(made, 4, 8, 3, blend, growth=growth)
    drawn = [batches.rows(step) for step in range(30)]
    mixed = {"shares": tuple(blend.mixture.drawn(1 << 40)), "mixture_seed": 9, "ranges": blend.ranges} if blend else {}
    kept = Rows(num_rows=made.num_rows, seed=4, rows_per_step=8, num_steps=30, growth=growth, **mixed)
    for row in range(made.num_rows):
        expected = [step for step, rows in enumerate(drawn) for each in rows if each == row]
        assert batches.steps_of(row, 30) == expected
        assert sorted(steps_of(kept, row)) == [step + 1 for step in expected]


def test_micro_batches_of_a_growing_step_are_its_rows():
    made = CausalObjective(stream(), 16, 0)
    batches = Batches(made, 4, 8, 3, growth=GROWING)
    for step in (0, 5, 8, 30):
        together = torch.cat([batch.tokens_BT for batch in batches.at(step)])
        assert torch.equal(together, made.collate(batches.rows(step)).tokens_BT)


def test_lengths_double_up_to_the_context():
    lengths = RowLengths(256, 64, 9)
    assert [lengths.at(step) for step in (0, 4, 5, 8, 9, 1000)] == [64, 64, 128, 128, 256, 256]
    # Halves that are shorter than the first length, or not whole, are none.
    assert RowLengths(96, 64, 9).at(0) == 96
    assert RowLengths(36, 4, 9).at(0) == 9
    assert RowLengths(64, 128, 9).at(0) == 64


def supervised(batch):
    """What is to be said after or in place of what, at which position, as a sorted list."""
    is_said = batch.labels_BT != IGNORED
    each = (batch.tokens_BT, batch.inputs.positions_BT, batch.labels_BT)
    return sorted(zip(*(part[is_said].tolist() for part in each), strict=True))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    text = ["the quick brown fox jumps over the lazy dog again and again " * 8]
    return train(text, TokenizerConfig(vocab_size=290, mask_token=True), folder)


def test_cut_rows_say_what_the_rows_say(tokenizer):
    causal = CausalObjective(stream(), 32, 0)
    masked = MaskedObjective(stream(), 32, tokenizer, ObjectiveConfig(kind="masked"), seed=3)
    for objective in (causal, masked):
        whole = Batches(objective, 4, 8, 4)
        short = replace(whole, row_lengths=RowLengths(32, 8, 6))
        for step, length in ((0, 8), (3, 16), (6, 32)):
            pairs = list(zip(whole.at(step), short.at(step), strict=True))
            assert all(supervised(one) == supervised(other) for one, other in pairs)
            assert all(other.tokens_BT.shape == (4 * 32 // length, length) for _, other in pairs)


def test_a_piece_sees_nothing_of_the_others_and_no_document_another():
    shape = dict(vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    config = DecoderConfig(**shape, num_key_value_heads=1, head_dim=8, max_position_embeddings=32)
    model = build(replace(config, zero_init_outputs=False), torch.Generator().manual_seed(0)).eval()
    batch = cut(CausalObjective(stream(longest=12), 32, 0).collate(range(4)), 8)
    segments_BT = batch.inputs.segments_BT
    piece = next(line for line in range(len(segments_BT)) if len(segments_BT[line].unique()) > 1)
    seen = model(batch.inputs).detach()
    changed = batch.tokens_BT.clone()
    first = segments_BT[piece] == segments_BT[piece, 0]
    changed[piece, first] = (changed[piece, first] + 1) % 60
    again = model(batch.inputs._replace(tokens_BT=changed)).detach()
    others = [line for line in range(len(segments_BT)) if line != piece]
    assert torch.equal(seen[others], again[others])
    assert torch.equal(seen[piece, ~first], again[piece, ~first])
    assert not torch.equal(seen[piece, first], again[piece, first])


def config_of(**changes):
    sizes = {"context_length": 32, "batch_tokens": 256, "micro_batch_tokens": 128}
    return PretrainingConfig(**{**sizes, **changes})


def test_durations_count_the_smaller_steps():
    objective = CausalObjective(stream(), 32, 0)
    warm = BatchWarmupConfig(start_tokens=64, steps=12)
    for duration in ("3 epochs", "9000 tokens"):
        plain, grown = config_of(duration=duration), config_of(duration=duration, batch_warmup=warm)
        seen = []
        for config in (plain, grown):
            batches = make_batches(objective, config, 0)
            seen.append(batches.sizes.first(count_steps(config, batches, objective.plan.fill)))
        assert abs(seen[0] - seen[1]) <= 8
    config = config_of(duration="20 steps", batch_warmup=warm)
    assert count_steps(config, make_batches(objective, config, 0), 1.0) == 20
    off = make_batches(objective, config_of(), 0)
    assert off.growth is None and off.row_lengths is None and off.rate_scale(0) == 1.0


def test_the_rate_follows_the_root_of_the_size_where_asked():
    warm = BatchWarmupConfig(start_tokens=64, steps=4, scale_learning_rate=True)
    batches = make_batches(CausalObjective(stream(), 32, 0), config_of(batch_warmup=warm), 0)
    assert batches.rate_scale(0) == 0.5 and batches.rate_scale(4) == 1.0


@pytest.mark.parametrize("kind", ["prefix", "spans", "permuted"])
def test_rows_that_belong_together_are_not_cut(kind, tokenizer):
    config = config_of(
        objective=ObjectiveConfig(kind=kind), context_warmup=ContextWarmupConfig(start_length=8, steps=5)
    )
    with pytest.raises(ConfigError, match=f"{kind}.*together") as caught:
        pretraining_order(stream(), config, tokenizer, 0, Blending(), EncoderConfig())
    assert "context_warmup.steps = 0" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (BatchWarmupConfig, {"start_tokens": 0}),
        (BatchWarmupConfig, {"steps": -1}),
        (ContextWarmupConfig, {"start_length": 0}),
        (ContextWarmupConfig, {"steps": -1}),
    ],
)
def test_sizes_of_nothing_are_refused(kind, values):
    with pytest.raises(ValueError, match=next(iter(values))):
        kind(**values)
