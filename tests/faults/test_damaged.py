"""Rows 7, 8 and 9: checkpoints of which something was cut off, changed or overwritten after they were made."""

import shutil

import pytest
from evidence import named, resumed_at, weights

STEPS = 12
FILES = ["average.safetensors", "manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"]


@pytest.fixture(scope="module")
def killed(nursery, tmp_path_factory):
    """A training with checkpoints of steps 4 and 8, and the weights that it comes to."""
    folder = tmp_path_factory.mktemp("killed")
    assert nursery.run(folder / "run", folder / "notes", num_steps=STEPS)[0] == 0
    assert [path.name for path in named(folder / "run")] == ["step-0000004", "step-0000008"]
    return folder


def resume_after(nursery, killed, tmp_path, damage):
    """The step at which a training goes on, and what it tells, after damage to its newest checkpoint."""
    shutil.copytree(killed / "run", tmp_path / "run")
    damage(named(tmp_path / "run")[-1])
    code, said = nursery.run(tmp_path / "run", tmp_path / "notes", num_steps=STEPS)
    assert code == 0 and weights(tmp_path / "notes") == weights(killed / "notes"), said
    return resumed_at(said), said


def test_the_files_are_those_of_a_checkpoint(killed):
    assert sorted(path.name for path in named(killed / "run")[-1].iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_row_07_a_file_cut_short_is_named_and_the_checkpoint_before_is_taken(nursery, killed, tmp_path, name):
    def cut(folder):
        content = (folder / name).read_bytes()
        # Of the manifest the last byte is the end of its line, without which it says the same.
        (folder / name).write_bytes(content[: -2 if name == "manifest.json" else -1])

    step, said = resume_after(nursery, killed, tmp_path, cut)
    assert step == 4 and "step-0000008" in said and name in said
    if name != "manifest.json":
        size = (killed / "run" / "checkpoints" / "step-0000008" / name).stat().st_size
        assert f"expected {size:,} bytes, found {size - 1:,}" in said


@pytest.mark.parametrize("name", FILES)
def test_row_08_a_flipped_bit_is_found_and_the_checkpoint_before_is_taken(nursery, killed, tmp_path, name):
    def flip(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    step, said = resume_after(nursery, killed, tmp_path, flip)
    assert step == 4 and "step-0000008" in said and name in said and "SHA-256" in said


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"{}", b"[]", b'{"format": 1}', b"[" * 100_000, None])
def test_row_09_a_manifest_of_anything_else_hides_its_checkpoint_alone(nursery, killed, tmp_path, content):
    def overwrite(folder):
        (folder / "manifest.json").unlink()
        if content is not None:
            (folder / "manifest.json").write_bytes(content)

    step, said = resume_after(nursery, killed, tmp_path, overwrite)
    assert step == 4 and "step-0000008" in said and "manifest" in said


def test_row_09_nothing_but_the_checkpoints_says_which_is_the_newest(nursery, killed, tmp_path):
    assert {path.name for path in (killed / "run" / "checkpoints").iterdir()} == {"step-0000004", "step-0000008"}
    step, _ = resume_after(nursery, killed, tmp_path, shutil.rmtree)
    assert step == 4


def test_row_09_with_no_checkpoint_left_training_begins_again_and_says_why(nursery, killed, tmp_path):
    def ruin(newest):
        for folder in newest.parent.iterdir():
            (folder / "manifest.json").write_bytes(b"")

    step, said = resume_after(nursery, killed, tmp_path, ruin)
    assert step == 0 and "step-0000004" in said and "step-0000008" in said
