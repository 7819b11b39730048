"""What `model describe --mesh` says: which mesh was meant, and who would hold what."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from preceptor.cli import cli
from preceptor.core.errors import ConfigError
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.recipes.mesh_table import mesh_of


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", {}),
        ("tensor=2,shard=4", {"tensor": 2, "shard": 4}),
        (" tensor=2  pipeline=2,", {"tensor": 2, "pipeline": 2}),
        ("tensor=2,sequence_parallel=true", {"tensor": 2, "sequence_parallel": True}),
        ("pipeline=2,schedule=gpipe", {"pipeline": 2, "schedule": "gpipe"}),
    ],
)
def test_a_mesh_is_what_was_meant(said, meant):
    assert mesh_of(said) == replace(MeshConfig(), **meant)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("tensor", "'tensor' has no value"),
        ("tensor=0", "mesh.tensor must be at least 1, got 0"),
        ("tensor=two", "mesh.tensor: expected an integer"),
        ("tensr=2", "mesh.tensr: unknown key; did you mean 'tensor'"),
    ],
)
def test_what_is_no_mesh_is_told_with_its_place(said, told):
    with pytest.raises(ConfigError, match=told):
        mesh_of(said)


def describe(mesh, *more):
    command = ["model", "describe", "gpt2", "--mesh", mesh, *more]
    return CliRunner().invoke(cli, command, catch_exceptions=False).stdout


def test_more_processes_than_there_are_to_be_are_refused():
    with pytest.raises(ConfigError, match="shard 3 make 3 processes, and there are 2"):
        describe("shard=3,processes=2")


def test_together_the_processes_hold_the_whole_model_once_per_copy():
    mesh = json.loads(describe("replicate=2,shard=2,pipeline=2", "--json"))
    assert [each["rank"] for each in mesh["holdings"]] == list(range(8))
    first = [each["weights"] for each in mesh["holdings"] if each["place"]["replicate"] == 0]
    # The tied embedding lies at both ends of the pipeline.
    tied = 50257 * 768
    assert sum(first) == mesh["weights"] + tied and mesh["weights"] == 124_439_808
    assert {each["bytes"] for each in mesh["holdings"]} == {16 * count for count in first}


def test_the_table_names_the_axes_that_cut_a_tensor():
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in describe("tensor=2").splitlines() if line.strip()}
    assert rows["model.layers.*.mlp.up_proj.weight"] == "3072 x 768 tensor 1536 x 768"
    assert rows["model.norm.weight"] == "768 nothing 768"
