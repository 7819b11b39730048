"""Several axes at once, over twenty steps, in both precisions."""

import pytest
from processes import cases, require_equal
from scenes import built

from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.parallel.plan import planned_by_rank

LAYOUTS = {
    "copies": (2, {"replicate": 2}),
    "shards": (2, {"shard": 2}),
    "tensor": (2, {"tensor": 2}),
    "tokens": (2, {"tensor": 2, "sequence_parallel": True}),
    "pipeline": (2, {"pipeline": 2}),
    "pipeline, zero-bubble": (2, {"pipeline": 2, "schedule": "zero-bubble"}),
    "pipeline x tensor": (4, {"pipeline": 2, "tensor": 2}),
    "interleaved pipeline x tensor": (
        4,
        {"pipeline": 2, "tensor": 2, "schedule": "interleaved", "stages_per_process": 2},
    ),
    "zero-bubble pipeline x tensor": (4, {"pipeline": 2, "tensor": 2, "schedule": "zero-bubble"}),
    "pipeline x shards": (4, {"pipeline": 2, "shard": 2}),
    "pipeline x copies": (4, {"pipeline": 2}),
    "shards x tensor": (4, {"shard": 2, "tensor": 2}),
    "copies x tensor": (4, {"replicate": 2, "tensor": 2}),
    "pipeline x shards x tensor": (8, {"pipeline": 2, "shard": 2, "tensor": 2}),
    "pipeline x copies x tensor": (8, {"pipeline": 2, "replicate": 2, "tensor": 2}),
    "all four": (16, {"pipeline": 2, "replicate": 2, "shard": 2, "tensor": 2}),
}
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
FAMILIES = {
    "pipeline x tensor": (4, {"pipeline": 2, "tensor": 2}),
    "shards x tensor": (4, {"shard": 2, "tensor": 2}),
}


@pytest.mark.parametrize("dtype", cases(TOLERANCES, ["float64"]))
@pytest.mark.parametrize("layout", cases(LAYOUTS, ["pipeline x tensor", "shards x tensor"]))
def test_twenty_steps_are_those_of_one_process(processes, alone, layout, dtype):
    world, mesh = LAYOUTS[layout]
    check(processes, alone, world, mesh, TOLERANCES[dtype], dtype=dtype, steps=20)


@pytest.mark.parametrize("model", ["encoder", "encoder_decoder", "two_stream"])
@pytest.mark.layouts
@pytest.mark.parametrize("layout", FAMILIES)
def test_products_hold_for_every_family(processes, alone, layout, model):
    world, mesh = FAMILIES[layout]
    check(processes, alone, world, mesh, 1e-10, model=model, steps=3)


def require_planned(pieces, mesh, model):
    """What each process held is what ``model describe --mesh`` would say of it."""
    module, table = built(model)
    by_rank = planned_by_rank(module, MeshConfig(**mesh), table)
    for found, plan in zip(pieces, by_rank, strict=True):
        assert {name: Piece(**each | {"copies": frozenset(each["copies"])}) for name, each in loaded(found)} == plan


def loaded(pieces):
    """Pieces that came as JSON, whose tuples are lists there."""
    for name, piece in pieces.items():
        yield name, {key: tuple(value) if isinstance(value, list) else value for key, value in piece.items()}


def check(processes, alone, world, mesh, tolerance, **given):
    answers = processes.run("curve", world, mesh=mesh, **given)
    pieces = [found["pieces"] for found, _ in answers]
    require_planned(pieces, mesh | {"processes": world}, given.get("model", "decoder"))
    require_equal(answers, alone(**given), tolerance)
