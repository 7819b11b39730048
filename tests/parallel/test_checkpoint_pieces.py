"""Boxes of tensors in files, as any axes of a mesh may cut them, read as any other boxes. No process is started."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from preceptor.core.dealing import even_part
from preceptor.core.errors import ArtifactError
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshSizes
from preceptor.train.checkpoint_pieces import OPTIMIZER, TABLE_FILE, WEIGHTS, SavedTensors, file_of, parts_of

SHAPES = {"columns": (6, 10), "rows": (7, 3), "vector": (5,), "cube": (3, 4, 5), "one": ()}


def whole(name):
    count = torch.Size(SHAPES[name]).numel()
    return (torch.arange(count, dtype=torch.float64) / 7).reshape(SHAPES[name])


def boxes(shape, parts):
    """A tensor cut into so many parts along each dimension, uneven and empty ones among them."""
    found = [Piece.whole(shape)]
    for dim, number in enumerate(parts[: len(shape)]):
        cut = [(each, even_part(shape[dim], number, place)) for each in found for place in range(number)]
        found = [each.cut(dim, start, length, "tensor") for each, (start, length) in cut]
    return found


def cut_out(tensor, piece):
    return tensor[tuple(slice(start, start + n) for start, n in zip(piece.starts, piece.lengths, strict=True))]


def save(folder, kind, held):
    """Files of so many processes with their table; ``held`` has for each process its boxes and tensors by name."""
    table = {}
    for rank, tensors in enumerate(held):
        file = f"{kind}-{rank}.safetensors"
        save_file({name: tensor.contiguous() for name, (_, tensor) in tensors.items()}, folder / file)
        for name, (piece, _) in tensors.items():
            row = table.setdefault(name, {"shape": list(piece.shape), "parts": []})
            row["parts"].append({"file": file, "starts": list(piece.starts), "lengths": list(piece.lengths)})
    (folder / TABLE_FILE).write_text(json.dumps({kind: table}))


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(SHAPES)), data=st.data())
def test_any_boxes_are_read_from_any_boxes(tmp_path_factory, name, data):
    folder, tensor = tmp_path_factory.mktemp("boxes"), whole(name)
    ways = st.lists(st.integers(1, 8), min_size=3, max_size=3)
    written, read = (boxes(SHAPES[name], data.draw(ways)) for _ in range(2))
    save(folder, WEIGHTS, [{name: (piece, cut_out(tensor, piece))} for piece in written])
    saved = SavedTensors(folder, WEIGHTS)
    for piece in read:
        found = saved.read(name, piece)
        assert found.dtype == tensor.dtype and torch.equal(found, cut_out(tensor, piece))


def test_the_file_of_one_process_is_read_in_any_boxes(tmp_path):
    save_file({name: whole(name) for name in SHAPES}, tmp_path / "weights.safetensors")
    saved = SavedTensors(tmp_path, WEIGHTS)
    assert set(saved.names) == set(SHAPES)
    for name, shape in SHAPES.items():
        for piece in boxes(shape, [2, 3, 4]):
            assert torch.equal(saved.read(name, piece), cut_out(whole(name), piece))


def test_of_a_large_file_only_the_wanted_rows_are_read(tmp_path, monkeypatch):
    import preceptor.train.checkpoint_pieces as module

    save_file({"w": torch.arange(1000.0).reshape(100, 10)}, tmp_path / "weights.safetensors")
    taken, found = [], module._found
    monkeypatch.setattr(module, "_found", lambda tensor: taken.append(tensor.numel()) or found(tensor))
    wanted = Piece.whole((100, 10)).cut(0, 20, 5, "shard").cut(1, 2, 3, "tensor")
    assert SavedTensors(tmp_path, WEIGHTS).read("w", wanted).numel() == sum(taken) == 15


def test_a_part_that_is_nowhere_is_told(tmp_path):
    written = boxes((6, 10), [3])
    save(tmp_path, WEIGHTS, [{"columns": (piece, cut_out(whole("columns"), piece))} for piece in written[:2]])
    saved = SavedTensors(tmp_path, WEIGHTS)
    assert saved.read("columns", written[0]).shape == (2, 10)
    with pytest.raises(ArtifactError, match="a part of columns is nowhere"):
        saved.read("columns", Piece.whole((6, 10)))


def test_another_shape_is_another_model(tmp_path):
    save_file({"rows": whole("rows")}, tmp_path / "weights.safetensors")
    with pytest.raises(ArtifactError, match="has shape"):
        SavedTensors(tmp_path, WEIGHTS).read("rows", Piece.whole((8, 3)))


@pytest.mark.parametrize("key", ["state1", "absmax1", "row_var"])
def test_what_was_made_of_a_whole_part_is_read_for_that_part_alone(tmp_path, key):
    name, pieces = f"adamw.w.{key}", boxes((8, 4), [2])
    held = [{name: (piece, torch.full((3,), float(number)))} for number, piece in enumerate(pieces)]
    save(tmp_path, OPTIMIZER, held)
    saved = SavedTensors(tmp_path, OPTIMIZER)
    assert [saved.read(name, piece).tolist() for piece in pieces] == [[0.0] * 3, [1.0] * 3]
    with pytest.raises(ArtifactError, match="cannot be cut up") as caught:
        saved.read(name, Piece.whole((8, 4)))
    assert "optimizer_bits = 32" in caught.value.remedy
    (tmp_path / "alone").mkdir()
    save_file({name: torch.ones(3)}, tmp_path / "alone" / "optimizer.safetensors")
    alone = SavedTensors(tmp_path / "alone", OPTIMIZER)
    assert alone.read(name, Piece.whole((8, 4))).tolist() == [1.0] * 3
    with pytest.raises(ArtifactError, match="cannot be cut up"):
        alone.read(name, pieces[0])


@pytest.mark.parametrize("sizes", [MeshSizes(tensor=4), MeshSizes(2, 1, 1, 2), MeshSizes(1, 2, 2, 2)], ids=str)
def test_every_element_is_written_once_whoever_holds_it(sizes):
    """A matrix cut by columns, a vector that all copy, and a weight of one stage of a pipeline."""
    written = {"columns": torch.zeros(SHAPES["columns"]), "vector": torch.zeros(SHAPES["vector"]), "steps": 0}
    every = frozenset(axis for axis in ("pipeline", "replicate", "shard", "tensor") if getattr(sizes, axis) > 1)
    for rank in range(sizes.world):
        mesh = Mesh(sizes, rank)
        columns = Piece.whole(SHAPES["columns"], every)
        if sizes.tensor > 1:
            columns = columns.cut(1, *even_part(10, sizes.tensor, mesh.place.tensor), "tensor")
        engine = SimpleNamespace(mesh=mesh, pieces={"columns": columns, "vector": Piece.whole((5,), every)})
        states = {"adamw.columns.exp_avg": torch.ones(columns.lengths), "adamw.columns.step": torch.tensor(3.0)}
        states |= {"adamw.vector.exp_avg": torch.ones(5), "num_tensors": torch.tensor(3)}
        for name, part in parts_of(OPTIMIZER, states, engine).items():
            assert name != "num_tensors"
            if name.endswith("step"):
                written["steps"] += 1
            else:
                weight = name.split(".")[1]
                written[weight][part.piece.overlap(Piece.whole(part.piece.shape))] += part.tensor
    assert bool((written["columns"] == 1).all()) and bool((written["vector"] == 1).all()) and written["steps"] == 1


def test_each_process_has_a_file_of_its_own():
    assert file_of(WEIGHTS, Mesh()) == "weights.safetensors"
    names = {file_of(WEIGHTS, Mesh(MeshSizes(shard=2), rank)) for rank in range(2)}
    assert names == {"weights-00001-of-00002.safetensors", "weights-00002-of-00002.safetensors"}


def test_a_table_that_names_a_file_elsewhere_is_refused(tmp_path):
    row = {"shape": [1], "parts": [{"file": str(Path("..") / "other.safetensors"), "starts": [0], "lengths": [1]}]}
    (tmp_path / TABLE_FILE).write_text(json.dumps({WEIGHTS: {"w": row}}))
    with pytest.raises(ArtifactError, match="not a file of"):
        SavedTensors(tmp_path, WEIGHTS).read("w", Piece.whole((1,)))
