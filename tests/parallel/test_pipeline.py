import itertools
import json

import pipeline_scenes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import cases, require_equal

from preceptor.parallel.layout import Piece, owned
from preceptor.parallel.pipeline_stages import cut_by_cost, holders, stacks_of

SCENES = "pipeline_scenes.py"
TWO = {"pipeline": 2}
GPIPE, ZERO = {"schedule": "gpipe"}, {"schedule": "zero-bubble"}
INTERLEAVED = {"schedule": "interleaved", "stages_per_process": 2}
LORA = {"kind": "lora", "rank": 2}
PREFIX = {"kind": "prefix", "num_virtual_tokens": 2}

CASES = {
    "1f1b": (2, TWO, {}),
    "gpipe": (2, TWO | GPIPE, {}),
    "interleaved": (2, TWO | INTERLEAVED, {}),
    "zero-bubble": (2, TWO | ZERO, {}),
    "untied": (2, TWO, {"tie_word_embeddings": False}),
    "untied, zero-bubble": (2, TWO | ZERO, {"tie_word_embeddings": False}),
    "one micro-batch": (2, TWO, {"rows_per_microbatch": 9}),
    "micro-batches of one row": (2, TWO | INTERLEAVED, {"rows_per_microbatch": 1}),
    "losses that are scaled": (2, TWO, {"loss_scale": 4.0}),
    "activations made anew": (2, TWO, {"checkpointing": "full"}),
    "activations made anew, zero-bubble": (2, TWO | ZERO, {"checkpointing": "full"}),
    "learned positions and biases": (2, TWO | ZERO, {"model": "gpt2"}),
    "a frozen embedding": (2, TWO | ZERO, {"frozen": "model.embed_tokens"}),
    "an encoder": (2, TWO, {"model": "encoder"}),
    "an encoder that normalises behind": (2, TWO | INTERLEAVED, {"model": "bert"}),
    "two streams": (2, TWO, {"model": "two_stream"}),
    "two streams, untied": (2, TWO | INTERLEAVED, {"model": "two_stream", "tie_word_embeddings": False}),
    "an encoder-decoder": (2, TWO, {"model": "t5"}),
    "an encoder-decoder, interleaved": (2, TWO | INTERLEAVED, {"model": "t5"}),
    "an encoder-decoder, a layer a stage": (2, TWO | INTERLEAVED | {"stages_per_process": 3}, {"model": "bart"}),
    "sinusoids": (2, TWO | INTERLEAVED, {"model": "bart", "positions": "sinusoidal"}),
    "an encoder-decoder whose stage has both": (2, TWO | INTERLEAVED, {"model": "t5", "num_hidden_layers": 1}),
    "a head": (2, TWO, {"head": True}),
    "a head on an encoder": (2, TWO, {"model": "bert", "head": True, "lm_head": False}),
    "a head on an encoder-decoder": (2, TWO, {"model": "t5", "head": True}),
    "low ranks": (2, TWO, {"adapter": LORA}),
    "low ranks of the embedding too": (
        2,
        TWO | INTERLEAVED,
        {"adapter": LORA | {"target_modules": ["embed_tokens", "q_proj", "down_proj"]}},
    ),
    "a prefix": (2, TWO, {"adapter": PREFIX, "max_position_embeddings": 20}),
    "a prefix of a network": (2, TWO, {"adapter": PREFIX | {"hidden_size": 4}, "max_position_embeddings": 20}),
    "four stages": (4, {"pipeline": 4}, {}),
    "four stages, zero-bubble": (4, {"pipeline": 4} | ZERO, {"rows_per_microbatch": 1}),
    "four stages of an encoder-decoder": (4, {"pipeline": 4}, {"model": "bart"}),
    "two copies": (4, TWO, {}),
    "two copies, zero-bubble": (4, TWO | ZERO, {"tie_word_embeddings": False}),
    "two shards": (4, TWO | {"shard": 2}, {}),
    "two shards, untied": (4, TWO | GPIPE | {"shard": 2}, {"tie_word_embeddings": False}),
    "two shards, interleaved": (4, TWO | INTERLEAVED | {"shard": 2}, {}),
    "layers cut in two": (4, TWO | {"tensor": 2}, {}),
    "layers cut in two, untied, zero-bubble": (
        4,
        TWO | ZERO | {"tensor": 2},
        {"model": "gpt2", "tie_word_embeddings": False},
    ),
    "layers of an encoder-decoder cut in two": (4, TWO | {"tensor": 2}, {"model": "t5"}),
    "two shards that stay": (4, TWO | {"shard": 2, "reshard_after_forward": False}, {"model": "t5"}),
    "two shards, summed each time": (4, TWO | {"shard": 2, "reduce_every_microbatch": True}, {}),
}

REFUSED = {
    "more stages than layers": (TWO | INTERLEAVED | {"stages_per_process": 3}, {}, "the model has 5", "at most 5"),
    "layers left out": (TWO, {"layer_drop": 0.5}, "left out", "layer_drop = 0"),
    "a memory": (TWO, {"model": "two_stream", "before": True}, "before a row", "memory_tokens = 0"),
    "a prompt": (
        TWO,
        {"adapter": {"kind": "prompt", "num_virtual_tokens": 2}, "tie_word_embeddings": False},
        "process 1 of the pipeline holds no weight that is trained",
        "mesh.pipeline = 1",
    ),
}


@pytest.fixture(scope="module")
def one_process():
    """What one process makes of the scene ``curve``."""
    known = {}

    def run(given):
        key = json.dumps(given, sort_keys=True)
        if key not in known:
            known[key] = pipeline_scenes.curve(**given)
        return known[key]

    return run


ALWAYS = ["1f1b", "gpipe", "interleaved", "zero-bubble", "an encoder", "two streams", "an encoder-decoder", "low ranks"]


@pytest.mark.parametrize("case", cases(CASES, ALWAYS))
def test_a_pipeline_gives_the_gradients_of_one_process(processes, one_process, case):
    world, mesh, given = CASES[case]
    facts, gradients = one_process(given)
    answers = processes.run("curve", world, mesh=mesh, **given)
    for found, _ in answers:
        assert found["layers"] == facts["layers"]
        # What other stages hold is let go.
        assert found["held"] < facts["held"]
    require_equal(answers, (facts, gradients))


@pytest.mark.layouts
@pytest.mark.parametrize("schedule", ["1f1b", "zero-bubble"])
def test_numbers_of_half_the_width_give_nearly_the_same(processes, one_process, schedule):
    given = {"dtype": "float32", "computes": "bfloat16"}
    facts, _ = one_process(given)
    for found, _ in processes.run("curve", 2, mesh=TWO | {"schedule": schedule}, **given):
        assert found["losses"] == pytest.approx(facts["losses"], rel=1e-3)
        assert found["norms"] == pytest.approx(facts["norms"], rel=3e-2)


def test_dropout_is_the_same_each_time_and_differs_between_stages(processes):
    first, second = (processes.run("curve", 2, mesh=TWO, dropout=0.3, seed=5) for _ in range(2))
    for (facts, gradients), (again, same) in zip(first, second, strict=True):
        assert facts["losses"] == again["losses"]
        assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    assert first[0][0]["drawn"] != first[1][0]["drawn"]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_by_all(processes, case):
    mesh, given, message, remedy = REFUSED[case]
    for said, _ in processes.run("refusal", 2, mesh=mesh, **given):
        assert message in said["message"]
        assert remedy in said["remedy"]
        assert said["path"] == "mesh.pipeline"


def test_weights_that_need_their_gradients_at_once_are_refused(processes):
    for said, _ in processes.run("refusal", 4, mesh=TWO | ZERO | {"shard": 2}):
        assert "computes them later" in said["message"]
        assert said["path"] == "mesh.schedule"
        assert "1f1b" in said["remedy"]


def test_sharded_weights_that_several_stages_of_a_process_read_are_refused(processes):
    for said, _ in processes.run("refusal", 4, model="t5", mesh=TWO | INTERLEAVED | {"shard": 2}):
        assert "decoder.relative_bias.weight" in said["message"] or "encoder.relative_bias.weight" in said["message"]
        assert said["path"] == "mesh.stages_per_process"
        assert "mesh.shard = 1" in said["remedy"]


def test_few_microbatches_are_told_once(processes):
    said = [facts["said"] for facts, _ in processes.run("told", 2, mesh=TWO)]
    assert said[1] == ""
    assert said[0].count("wait 50% of the time") == 1


@given(costs=st.lists(st.integers(1, 20), min_size=1, max_size=8), parts=st.integers(1, 8))
@settings(deadline=None)
def test_the_dearest_part_is_as_cheap_as_can_be(costs, parts):
    parts = min(parts, len(costs))
    lengths = cut_by_cost(costs, parts)
    assert sum(lengths) == len(costs)
    assert len(lengths) == parts
    assert min(lengths) >= 1

    def dearest(ends):
        return max(sum(costs[start:end]) for start, end in itertools.pairwise([0, *ends, len(costs)]))

    every = itertools.combinations(range(1, len(costs)), parts - 1)
    assert dearest(list(itertools.accumulate(lengths))[:-1]) == min(map(dearest, every))


def test_parts_that_cost_the_same_are_the_most_alike():
    assert sorted(cut_by_cost([1.0] * 10, 4)) == [2, 2, 3, 3]
    assert cut_by_cost([1.0, 1.0, 1.0, 1.0, 1.0 + 3.0], 2) == [4, 1]


def test_who_holds_what():
    model, _ = pipeline_scenes.built("t5", tie_word_embeddings=True)
    assert [(stack.prefix, stack.start, stack.end) for stack in stacks_of(model)] == [
        ("encoder.", 0, 3),
        ("decoder.", 3, 6),
    ]
    stage_of = [0, 0, 1, 2, 2, 3]
    held = {name: holders(model, name, stage_of, is_tied=True) for name, _ in model.named_parameters()}
    assert held["shared.weight"] == {0, 2, 3}
    assert held["encoder.relative_bias.weight"] == {0, 1}
    assert held["decoder.relative_bias.weight"] == {2, 3}
    assert held["encoder.layers.2.mlp.up_proj.weight"] == {1}
    assert held["encoder.layer_norm.weight"] == {1}
    assert held["decoder.layers.0.mlp.up_proj.weight"] == {2}
    assert held["decoder.layer_norm.weight"] == {3}


def test_a_weight_of_several_stages_is_counted_once():
    piece = Piece.whole((2,), frozenset({"replicate"}))
    shared = Piece.whole((2,), frozenset({"replicate"}))
    shared = Piece(shared.shape, shared.starts, shared.lengths, shared.copies, is_counted=False)
    assert owned({"a": piece, "b": shared}, {"pipeline": 1, "replicate": 0}) == {"a": True, "b": False}
    assert owned({"a": piece, "b": shared}, {"pipeline": 1, "replicate": 1}) == {"a": False, "b": False}
