"""Checkpoints of many processes: any layout goes on from any other, and what is not whole is not seen."""

import pytest
import torch
from processes import assembled, cases
from safetensors.torch import load_file
from scenes import built

from preceptor.models.interchange import load_model

SCENES = "checkpoint_scenes.py"
LAYOUTS = {
    "one": (1, {}),
    "two copies": (2, {"replicate": 2}),
    "two shards": (2, {"shard": 2}),
    "four shards": (4, {"shard": 4}),
    "two copies of two shards": (4, {"replicate": 2, "shard": 2}),
    "two parts": (2, {"tensor": 2}),
    "two stages": (2, {"pipeline": 2}),
    "two stages of two parts": (4, {"pipeline": 2, "tensor": 2}),
    "two shards of two parts": (4, {"shard": 2, "tensor": 2}),
}
WAYS = {
    "adamw": ("one", "two shards", "two copies of two shards", "one"),
    "sgd": ("two copies", "four shards", "one", "two shards"),
    "lion": ("two stages of two parts", "four shards", "two shards of two parts", "two stages"),
}
"""From layout to layout; all that was trained in the first is in the last."""
CHANGES = (
    ("one", "two copies of two shards"),
    ("two shards", "one"),
    ("four shards", "two copies"),
    ("two copies", "two stages of two parts"),
    ("two shards of two parts", "two stages"),
    ("two parts", "two shards"),
)


def run(processes, scene, layout, **given):
    world, mesh = LAYOUTS[layout]
    return processes.run(scene, world, mesh=mesh, **given)


def require_same(answers, others):
    """The same bits of every tensor, and the same numbers."""
    ours, theirs = assembled(answers), assembled(others)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    for facts, _ in others:
        for name, number in facts["numbers"].items():
            assert answers[0][0]["numbers"][name] == number, name
        assert facts["step"] == answers[0][0]["step"]


@pytest.mark.parametrize("kind", cases(WAYS, ["lion"]))
def test_weights_states_and_average_come_through_any_layouts_bit_for_bit(processes, tmp_path, kind):
    first, *others = WAYS[kind]
    trained = run(processes, "train", first, folder=str(tmp_path / "0"), save_at=[3], optimizer=kind)
    for number, layout in enumerate(others):
        given = {"source": str(tmp_path / str(number)), "target": str(tmp_path / str(number + 1)), "optimizer": kind}
        require_same(trained, run(processes, "carry", layout, **given))


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory):
    return run(processes, "train", "one", folder=str(tmp_path_factory.mktemp("straight")), steps=6)


@pytest.mark.parametrize("ways", cases(CHANGES, CHANGES[4:5]), ids=" to ".join)
def test_a_curve_goes_on_in_another_layout(processes, undisturbed, tmp_path, ways):
    before, after = ways
    first = run(processes, "train", before, folder=str(tmp_path), save_at=[3], background=True)
    then = run(processes, "train", after, folder=str(tmp_path), steps=6)
    losses = undisturbed[0][0]["losses"]
    assert first[0][0]["losses"] == pytest.approx(losses[:3], rel=1e-10)
    for facts, _ in then:
        assert facts["start"] == 3
        assert facts["losses"] == pytest.approx(losses[3:], rel=1e-10)


@pytest.mark.parametrize("layout", ["one", "two shards"])
def test_the_same_layout_goes_on_bit_for_bit(processes, tmp_path, layout):
    straight = run(processes, "train", layout, folder=str(tmp_path / "a"), steps=5)
    run(processes, "train", layout, folder=str(tmp_path / "b"), save_at=[3], background=True)
    resumed = run(processes, "train", layout, folder=str(tmp_path / "b"), steps=5)
    require_same(straight, resumed)
    assert straight[0][0]["losses"][3:] == resumed[0][0]["losses"]


def test_each_piece_is_written_once(processes, tmp_path):
    run(processes, "train", "two copies of two shards", folder=str(tmp_path), steps=1, save_at=[1])
    files = sorted((tmp_path / "step-0000001").glob("weights-*"))
    assert [file.name for file in files] == ["weights-00001-of-00004.safetensors", "weights-00002-of-00004.safetensors"]
    found = [load_file(file) for file in files]
    run(processes, "train", "one", folder=str(tmp_path / "one"), steps=1, save_at=[1])
    whole = load_file(tmp_path / "one" / "step-0000001" / "weights.safetensors")
    assert sum(t.numel() for table in found for t in table.values()) == sum(t.numel() for t in whole.values())
    assert not (tmp_path / "one" / "step-0000001" / "pieces.json").exists()


@pytest.mark.parametrize("background", [False, True], ids=["at once", "in the background"])
@pytest.mark.parametrize("where", [0, 1])
def test_where_one_process_has_no_room_all_give_up_and_training_goes_on(processes, tmp_path, where, background):
    answers = run(processes, "full_disk", "two shards", folder=str(tmp_path), where=where, background=background)
    assert all(facts["folders"] == ["step-0000001", "step-0000003"] for facts, _ in answers)
    require_same(answers, run(processes, "train", "one", folder=str(tmp_path), steps=3))


def test_what_is_not_finite_on_one_process_is_saved_by_none(processes, tmp_path):
    answers = run(processes, "lost", "two shards", folder=str(tmp_path), where=1)
    assert [facts["folders"] for facts, _ in answers] == [0, 0]


def test_a_flipped_bit_in_one_processs_file_is_seen_by_all(processes, tmp_path):
    run(processes, "train", "two shards", folder=str(tmp_path), steps=2, save_at=[1, 2])
    file = tmp_path / "step-0000002" / "optimizer-00002-of-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    answers = run(processes, "train", "two copies of two shards", folder=str(tmp_path), steps=1)
    assert [facts["start"] for facts, _ in answers] == [1] * 4


@pytest.mark.parametrize("layout", ["two shards", "two copies"])
def test_the_best_weights_are_found_again(processes, tmp_path, layout):
    for facts, _ in run(processes, "best", layout, folder=str(tmp_path)):
        assert facts == {"same": True, "is_there": True, "is_not": False}


@pytest.mark.parametrize("layout", ["two shards", "two copies of two shards"])
def test_the_whole_model_is_written_with_one_file_in_memory(processes, tmp_path, layout):
    folders = [tmp_path / name for name in ("alone", "together")]
    for folder in folders:
        folder.mkdir()
    given = {"max_file_bytes": 6000}
    run(processes, "export", "one", folder=str(folders[0]), **given)
    answers = run(processes, "export", layout, folder=str(folders[1]), **given)
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] and sum(name.endswith(".safetensors") for name in files[0]) > 4
    facts, others = answers[0][0], answers[1:]
    largest = max(len(content) for name, content in files[0].items() if name.endswith(".safetensors"))
    assert largest / 2 < facts["most"] <= largest < facts["total"] / 4
    assert all(each["most"] == 0 for each, _ in others)
    module = built("decoder", "float32", vocab_size=41)[0]
    model = load_model(folders[1])
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in module.state_dict().items())


def test_where_the_first_process_cannot_write_the_model_all_are_told(processes, tmp_path):
    first, second = run(processes, "export", "two shards", folder=str(tmp_path), room=False)
    assert first[0]["failure"] and "the first process has failed" in second[0]["failure"]


@pytest.mark.parametrize("given", [{"kind": "lora"}, {"kind": "lora", "magnitude": True}, {"kind": "prefix"}])
def test_an_adapter_is_written_whole(processes, tmp_path, given):
    folders = [tmp_path / name for name in ("alone", "together")]
    for folder, layout in zip(folders, ("one", "two shards"), strict=True):
        folder.mkdir()
        run(processes, "export_adapter", layout, folder=str(folder), **given)
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] and len(files[0]) == 2


@pytest.mark.parametrize("kind", ["muon", "adafactor"])
def test_optimizers_of_whole_matrices_are_refused_where_they_are_cut_up(processes, tmp_path, kind):
    for facts, _ in run(processes, "refused", "two shards", folder=str(tmp_path), kind=kind):
        assert facts["path"] == "optimizer.kind" and "adamw" in facts["remedy"] and "mesh.shard = 1" in facts["remedy"]
    assert run(processes, "refused", "two copies", folder=str(tmp_path), kind=kind)[0][0]["path"] == ""


def test_a_process_that_is_killed_while_it_writes_leaves_the_checkpoint_before(processes, tmp_path):
    # The last test: it takes the processes down.
    with pytest.raises(AssertionError, match="rank"):
        run(processes, "killed", "two shards", folder=str(tmp_path), where=1)
    answers = run(processes, "train", "two copies", folder=str(tmp_path), steps=2, save_at=[2])
    assert [facts["start"] for facts, _ in answers] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-0000002", "step-0000001", "step-0000002"]
