"""Meshes that cannot work are refused before any work, and the docs say which."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from scenes import MODELS

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.core.errors import ConfigError
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.placement import require_mesh
from preceptor.train.run import FinetuningConfig, PretrainingConfig

HERE = Path(__file__).parent
SMALL = {"context_length": 16, "batch_tokens": 128, "micro_batch_tokens": 32}
ADAMW = OptimizerConfig(kind="adamw")
IN_4_BITS = FinetuningConfig(**SMALL, adapter=AdapterConfig(kind="lora"), quantise="nf4")
REFUSED = {
    "heads": ({"num_key_value_heads": 1}, {"tensor": 2}, {}, "mesh.tensor", "tensor = 1"),
    "4 bits": ({}, {"tensor": 2}, IN_4_BITS, "mesh.tensor", "tensor = 1"),
    "stages along the tokens": (
        {},
        {"tensor": 2, "pipeline": 2, "sequence_parallel": True},
        {},
        "mesh.sequence_parallel",
        "sequence_parallel = false",
    ),
    "rows of odd length": (
        {"max_position_embeddings": 32},
        {"tensor": 2, "sequence_parallel": True},
        {"context_length": 17, "batch_tokens": 136, "micro_batch_tokens": 34},
        "mesh.sequence_parallel",
        "sequence_parallel = false",
    ),
    "layers that may not run, sharded": ({"layer_drop": 0.1}, {"shard": 2}, {}, "mesh.shard", "layer_drop = 0"),
    "layers that may not run, in stages": (
        {"layer_drop": 0.1},
        {"pipeline": 2},
        {},
        "mesh.pipeline",
        "layer_drop = 0",
    ),
    "whole matrices": (
        {},
        {"shard": 2},
        {"optimizer": OptimizerConfig(kind="muon")},
        "pretraining.optimizer.kind",
        "adamw",
    ),
    "few rows": ({}, {"replicate": 16}, {}, "mesh.replicate", "batch_tokens"),
    "few layers": ({}, {"pipeline": 8}, {}, "mesh.pipeline", "at most 4"),
    "weights that wait": (
        {},
        {"pipeline": 2, "shard": 2, "schedule": "zero-bubble"},
        {},
        "mesh.schedule",
        "1f1b",
    ),
}


def mesh(axes):
    world = 1
    for axis in ("replicate", "shard", "tensor", "pipeline"):
        world *= axes.get(axis, 1)
    return MeshConfig(processes=world, **axes)


@pytest.mark.parametrize("case", REFUSED)
def test_a_mesh_that_cannot_work_is_refused_before_any_work(case):
    changes, axes, settings, path, remedy = REFUSED[case]
    config = settings
    if not isinstance(settings, FinetuningConfig):
        config = PretrainingConfig(**({"optimizer": ADAMW} | SMALL | settings))
    with pytest.raises(ConfigError) as refused:
        require_mesh(config, replace(MODELS["decoder"], **changes), mesh(axes), "pretraining")
    assert refused.value.path == path
    assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    "axes",
    [{}, {"replicate": 8}, {"shard": 4}, {"tensor": 2, "sequence_parallel": True}, {"pipeline": 4, "tensor": 2}],
    ids=str,
)
def test_meshes_that_work_are_not(axes):
    require_mesh(PretrainingConfig(**SMALL, optimizer=ADAMW), MODELS["decoder"], mesh(axes), "pretraining")


def test_what_the_docs_say_is_refused_is_shown_by_a_test():
    page = (HERE.parents[1] / "docs" / "parallel.md").read_text(encoding="utf-8")
    table = page[page.index("| what | refused |") : page.index("Everything else of a recipe")]
    shown = re.findall(r"`(test_\w+\.py)::(test_\w+)` \|", table)
    assert len(shown) == len(table.strip().splitlines()) - 2 >= 15
    for file, name in shown:
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}, (file, name)
