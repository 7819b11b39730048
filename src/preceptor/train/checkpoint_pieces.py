"""Tensors in the files of several processes: which part of the whole each file has, and any other part read from them.

One process writes whole tensors into one file of a kind. Several write a file each, of what nobody before them has, and
the first of them a table that says of each tensor its whole shape and where its parts are.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from preceptor.core.artifact import write_folder
from preceptor.core.errors import ArtifactError, OutputError, output_errors
from preceptor.parallel.engine import Engine
from preceptor.parallel.layout import Piece, owned
from preceptor.parallel.mesh import Mesh

TABLE_FILE = "pieces.json"
WEIGHTS, OPTIMIZER, AVERAGE = "weights", "optimizer", "average"
"""The kinds of tensors, each with files of its own."""
_ENDING = ".safetensors"
_OF_ALL = ("step", "count", "num_tensors")
"""What is one number, the same for all parts of a weight or for all weights."""
_AS_IT_WAS = ("state1", "state2", "absmax1", "absmax2", "qmap1", "qmap2", "row_var", "col_var")
"""What is made from all elements of a part together, and so cannot be cut up otherwise."""
_REMEDY = "go on with the files as they were saved, or start into a new --out folder"


def weight_of(kind: str, name: str) -> str | None:
    """The weight to which a saved tensor belongs; None where it belongs to none."""
    if kind == WEIGHTS:
        return name
    if kind == AVERAGE:
        return name.removeprefix("weights.") if name.startswith("weights.") else None
    # Neither a rule of updates nor a key of a state has a dot.
    return name.partition(".")[2].rpartition(".")[0] or None


def file_of(kind: str, mesh: Mesh) -> str:
    """The name of this process's file of a kind."""
    return kind + ("" if mesh.is_alone else f"-{mesh.rank + 1:05d}-of-{mesh.sizes.world:05d}") + _ENDING


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor that this process is to write."""

    tensor: Tensor
    piece: Piece
    """Which part it is: of the tensor, or of its weight where it has another shape than that."""

    def row(self, file: str) -> dict[str, Any]:
        """What the table says of it."""
        starts, lengths = list(self.piece.starts), list(self.piece.lengths)
        return {"shape": list(self.piece.shape), "file": file, "starts": starts, "lengths": lengths}


def parts_of(kind: str, tensors: Mapping[str, Tensor], engine: Engine) -> dict[str, Part]:
    """Those of a process's tensors that it is to write: of all processes that hold the same, the first does."""
    mine = owned(engine.pieces, engine.mesh.coordinates)
    parts = {}
    for name, tensor in tensors.items():
        weight = weight_of(kind, name)
        if engine.mesh.is_alone:
            parts[name] = Part(tensor, Piece.whole(tensor.shape))
        elif weight is None:
            # How many tensors one process has says nothing of the whole, whose table names them all.
            if engine.mesh.is_first and name != "num_tensors":
                parts[name] = Part(tensor, Piece.whole(tensor.shape))
        elif mine[weight]:
            piece = engine.pieces[weight]
            if kind == OPTIMIZER and _key(name) in _OF_ALL:
                if not any(piece.starts):
                    parts[name] = Part(tensor, Piece.whole(tensor.shape))
            else:
                parts[name] = Part(tensor, piece)
    return parts


def _key(name: str) -> str:
    return name.rpartition(".")[2]


def write_together(
    mesh: Mesh, target: Path, kind: str, key: str, write: Callable[[Path], Mapping[str, Mapping[str, Any]]]
) -> None:
    """Write an artifact into which all processes write; verified or invisible, and given up by all or by none.

    ``write`` writes this process's files into a folder and gives the rows of the table by kind and name.

    Raises:
        OutputError: one of them cannot write; what was there before is still there.
    """
    if mesh.is_alone:
        with write_folder(target, kind, key, {}) as draft:
            write(draft.path)
        return
    if not mesh.is_first:
        _write_beside(mesh, write)
        return
    is_told, failure = False, "the process that writes for all has failed"
    try:
        with write_folder(target, kind, key, {}) as draft:
            is_told = True
            mesh.said_by_first(str(draft.path))
            said, error = _written(write, draft.path)
            answers = [json.loads(answer) for answer in mesh.gathered(said)]
            if error is not None:
                raise error
            _require_files(draft.path, answers)
            table = json.dumps(_merged(answer["rows"] for answer in answers))
            (draft.path / TABLE_FILE).write_text(table + "\n", encoding="utf-8")
        failure = ""
    except Exception as error:
        failure = str(error)
        raise
    finally:
        if not is_told:
            mesh.said_by_first("")
        mesh.said_by_first(failure)


def _write_beside(mesh: Mesh, write: Callable[[Path], Mapping[str, Mapping[str, Any]]]) -> None:
    """The part of a process that is not the first in ``write_together``."""
    error: Exception | None = None
    if folder := mesh.said_by_first(""):
        said, error = _written(write, Path(folder))
        mesh.gathered(said)
    failure = mesh.said_by_first("")
    if error is not None:
        raise error
    if failure:
        raise OutputError(failure)


def _written(write: Callable[[Path], Mapping[str, Mapping[str, Any]]], folder: Path) -> tuple[str, Exception | None]:
    """What this process says of its files in a draft, which are on the disk; and what went wrong."""
    try:
        with output_errors(folder):
            rows = write(folder)
            sizes = {}
            for file in sorted({row["file"] for table in rows.values() for row in table.values()}):
                with (folder / file).open("rb") as stream:
                    os.fsync(stream.fileno())
                    sizes[file] = os.fstat(stream.fileno()).st_size
    except Exception as error:
        found: Exception = error
        if isinstance(error, FileNotFoundError | SafetensorError) and not folder.is_dir():
            found = OutputError(
                f"{folder} is not seen by all processes",
                remedy="put --out into a file system that all hosts share",
            )
        return json.dumps({"failure": str(found)}), found
    return json.dumps({"failure": "", "sizes": sizes, "rows": rows}), None


def _require_files(folder: Path, answers: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a draft that is not as the processes say they wrote it."""
    for rank, answer in enumerate(answers):
        if answer["failure"]:
            raise OutputError(f"process {rank} cannot write: {answer['failure']}")
        for file, size in answer["sizes"].items():
            if not (folder / file).exists() or (folder / file).stat().st_size != size:
                raise OutputError(
                    f"{folder / file} is not as process {rank} wrote it",
                    remedy="put --out into a file system that all hosts share",
                )


def _merged(tables: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The table of all processes: by kind and name the whole shape, and of each part file, starts and lengths."""
    merged: dict[str, dict[str, Any]] = {}
    for table in tables:
        for kind, rows in table.items():
            for name, row in rows.items():
                whole = merged.setdefault(kind, {}).setdefault(name, {"shape": row["shape"], "parts": []})
                whole["parts"].append({each: row[each] for each in ("file", "starts", "lengths")})
    return merged


class SavedTensors:
    """The tensors of a kind in a checkpoint, of which any part can be read without the rest."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self._files: dict[str, Any] = {}
        self._rows: dict[str, list[tuple[str, Piece]]] = {}
        self.has_table = (folder / TABLE_FILE).exists()
        """Whether several processes may have written them."""
        if self.has_table:
            table = json.loads((folder / TABLE_FILE).read_text(encoding="utf-8"))
            for name, row in table.get(kind, {}).items():
                shape = tuple(row["shape"])
                self._rows[name] = [(part["file"], _piece(shape, part)) for part in row["parts"]]
        elif (folder / (kind + _ENDING)).exists():
            file = self._open(kind + _ENDING)
            for name in sorted(file.keys()):
                self._rows[name] = [(kind + _ENDING, Piece.whole(file.get_slice(name).get_shape()))]

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self._rows.keys()

    def read(self, name: str, wanted: Piece | None) -> Tensor:
        """The wanted part of a tensor, or of that which belongs to this part of a weight; None wants all.

        Raises:
            ArtifactError: it has another shape, a part of it is nowhere, or it cannot be cut up in this way.
        """
        parts = self._rows[name]
        if self.kind == OPTIMIZER and _key(name) in _AS_IT_WAS:
            return self._as_it_was(name, wanted)
        shape = parts[0][1].shape
        if wanted is None or (self.kind == OPTIMIZER and _key(name) in _OF_ALL):
            wanted = Piece.whole(shape)
        if shape != wanted.shape:
            raise ArtifactError(
                f"{self.folder}: the saved {name} has shape {shape} and that of this model {wanted.shape}",
                remedy="resume with the recipe the checkpoint was made with, or start into a new --out folder",
            )
        # Several files may have the same box where a weight is shared by processes that do not know of each other.
        boxes = {(part.starts, part.lengths): (file, part) for file, part in reversed(parts)}
        found, missing = None, wanted.numel
        for file, part in boxes.values():
            ranges = part.overlap(wanted)
            if ranges is None:
                continue
            read = self._slice(file, name, part.within(ranges))
            if read.shape == wanted.lengths:
                return read
            if found is None:
                found = torch.empty(wanted.lengths, dtype=read.dtype)
            found[wanted.within(ranges)] = read
            missing -= read.numel()
        if missing:
            raise ArtifactError(f"{self.folder}: a part of {name} is nowhere", remedy=_REMEDY)
        if found is None:
            return torch.empty(wanted.lengths, dtype=self._dtype(parts[0][0], name))
        return found

    def _as_it_was(self, name: str, wanted: Piece | None) -> Tensor:
        """What belongs to exactly this part of a weight."""
        for file, part in self._rows[name]:
            if self.has_table:
                is_it = wanted is None or (part.starts, part.lengths) == (wanted.starts, wanted.lengths)
            else:
                is_it = wanted is None or wanted.is_whole
            if is_it:
                return self._slice(file, name, None)
        raise ArtifactError(
            f"{self.folder}: {name} was made from all elements that one process held together, and cannot be cut up "
            "otherwise",
            remedy="resume with the [mesh] the checkpoint was made with; runs with memory.optimizer_bits = 32 and an "
            "optimizer that looks at each element alone can resume with any",
        )

    def _slice(self, file: str, name: str, ranges: tuple[slice, ...] | None) -> Tensor:
        opened = self._open(file)
        try:
            return _found(opened.get_slice(name)[ranges] if ranges else opened.get_tensor(name))
        except SafetensorError as error:
            raise ArtifactError(f"{self.folder / file}: {name} cannot be read: {error}", remedy=_REMEDY) from error

    def _dtype(self, file: str, name: str) -> torch.dtype:
        return _found(self._open(file).get_tensor(name)).dtype

    def _open(self, file: str) -> Any:
        if file not in self._files:
            if Path(file).name != file:
                raise ArtifactError(f"{TABLE_FILE} names {file!r}, which is not a file of {self.folder}")
            try:
                self._files[file] = safe_open(self.folder / file, "pt")
            except (OSError, SafetensorError) as error:
                raise ArtifactError(f"{self.folder / file} cannot be read: {error}", remedy=_REMEDY) from error
        return self._files[file]


def _found(tensor: Any) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor


def _piece(shape: tuple[int, ...], part: Mapping[str, Any]) -> Piece:
    return Piece(shape, tuple(part["starts"]), tuple(part["lengths"]))
