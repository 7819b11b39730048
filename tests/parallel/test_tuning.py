"""What reads two models, or one in 4 bits, learns over several processes as it does in one."""

import json

import pytest
import torch
import tuning_scenes
from processes import cases
from tuning import make_decoder, write_rows

SCENES = "tuning_scenes.py"
pytestmark = pytest.mark.timeout(300)  # several starts of Python and PyTorch, on a machine that may be busy

PLAIN = ("finetuning.optimizer.kind=sgd", "finetuning.optimizer.learning_rate=0.5")
WAYS = {
    "QLoRA": ("instruct", ("finetuning.quantise=nf4",)),
    "preferences": ("prefer", ()),
    "a teacher's probabilities": ("instruct", ("finetuning.distil.teacher={teacher}",)),
}
MESHES = {"copies": "mesh.replicate=2", "shards": "mesh.shard=2", "stages": "mesh.pipeline=2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, a teacher and files of examples."""
    found = tmp_path_factory.mktemp("tuning")
    make_decoder(found / "base")
    make_decoder(found / "teacher", seed=5)
    for name in ("instruct", "prefer"):
        write_rows(found, name)
    return found


@pytest.fixture(scope="module")
def alone(folder):
    """What one process learns in a way, and how it was asked."""
    known = {}

    def run(way):
        if way not in known:
            recipe, changes = WAYS[way]
            changes = [*PLAIN, *(change.format(teacher=folder / "teacher") for change in changes)]
            given = {"recipe": recipe, "base": str(folder / "base"), "examples": str(folder / f"{recipe}.jsonl")}
            out = str(folder / f"{way} alone")
            known[way] = given | {"changes": changes}, tuning_scenes.tuned(**given, out=out, changes=changes)
        return known[way]

    return run


@pytest.mark.parametrize("mesh", cases(MESHES, ["shards"]))
@pytest.mark.parametrize("way", WAYS)
def test_it_is_learned_as_by_one_process(processes, alone, folder, way, mesh):
    given, (facts, weights) = alone(way)
    given = given | {"changes": [*given["changes"], MESHES[mesh]], "out": str(folder / f"{way} {mesh}")}
    for found, tensors in processes.run("tuned", 2, **given):
        assert found["losses"] == pytest.approx(facts["losses"], rel=1e-5), json.dumps(found)
        assert found["validation"] == pytest.approx(facts["validation"], rel=1e-5) and found["validation"]
        for name, weight in weights.items():
            torch.testing.assert_close(tensors[name], weight, rtol=1e-5, atol=1e-5)
    assert any(name.endswith("lora_B.weight") and weight.abs().max() > 1e-4 for name, weight in weights.items())
