import pytest
from processes import cases, require_equal

LAYOUTS = {
    "two copies": (2, {"replicate": 2}),
    "four copies": (4, {}),
    "two shards": (2, {"shard": 2}),
    "two shards that stay": (2, {"shard": 2, "reshard_after_forward": False}),
    "two shards, summed each time": (2, {"shard": 2, "reduce_every_microbatch": True}),
    "four shards": (4, {"shard": 4}),
    "two copies of two shards": (4, {"replicate": 2, "shard": 2}),
}


TOLERANCES = {"float64": 1e-10, "float32": 1e-5}


@pytest.mark.parametrize("dtype", cases(TOLERANCES, ["float32"]))
@pytest.mark.parametrize("tied", cases([False, True], [True]), ids=["untied", "tied"])
@pytest.mark.parametrize("layout", cases(LAYOUTS, ["two copies", "two shards", "two shards, summed each time"]))
def test_any_deal_of_rows_gives_the_gradients_of_one_process(processes, alone, layout, tied, dtype):
    world, mesh = LAYOUTS[layout]
    given = {"steps": 3, "dtype": dtype, "changes": {"tie_word_embeddings": tied}}
    answers = processes.run("curve", world, mesh=mesh, **given)
    require_equal(answers, alone(**given), TOLERANCES[dtype])


@pytest.mark.parametrize("mesh", [{"shard": 2}, {"replicate": 2}], ids=str)
@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_adapters_over_dealt_rows_are_those_of_one_process(processes, alone, mesh, kind):
    given = {"steps": 3, "adapter": {"kind": kind}, "changes": {"max_position_embeddings": 40}}
    answers = processes.run("curve", 2, mesh=mesh, **given)
    require_equal(answers, alone(**given))


def test_weights_gathered_in_half_the_width_give_nearly_the_same(processes, alone):
    given = {"steps": 3, "dtype": "float32"}
    facts, _ = alone(**given)
    for found, _ in processes.run("curve", 2, mesh={"shard": 2, "gather_precision": "bfloat16"}, **given):
        assert found["losses"] == pytest.approx(facts["losses"], rel=2e-2)
        assert found["losses"] != facts["losses"]
