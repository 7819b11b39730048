"""Checkpoints of a running training: saved whole, verified or invisible, and resumed bit for bit.

What is to be saved is copied while training waits, and written by a thread while training goes on. Of several processes
each writes what it alone holds into one folder, from which any other number of processes can go on.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from preceptor.core.artifact import load
from preceptor.core.drafts import remove_folder
from preceptor.core.errors import ArtifactError, OutputError
from preceptor.core.progress import say
from preceptor.parallel.engine import Engine
from preceptor.parallel.mesh import ALONE, Mesh
from preceptor.train.averaging import WeightAverage
from preceptor.train.checkpoint_pieces import (
    AVERAGE,
    OPTIMIZER,
    WEIGHTS,
    Part,
    SavedTensors,
    file_of,
    parts_of,
    weight_of,
    write_together,
)
from preceptor.train.optim import Optimizer
from preceptor.train.state import TrainState

KIND = "training-state"
STATE_FILE = "state.json"
_WAITING = 2
"""How many states may wait to be written: that of a step, and the best."""


class Checkpoints:
    """The checkpoints of one run in one folder; a run is known by its key.

    The newest ``keep`` stay, and every one of a step that ``keep_every_steps`` divides. The best weights stay beside
    them. Nothing is removed before what takes its place is whole on the disk.
    """

    def __init__(
        self, folder: Path, key: str, keep: int, *, keep_every_steps: int = 0, in_background: bool = False
    ) -> None:
        self.folder, self.key, self.keep, self.keep_every_steps = folder, key, keep, keep_every_steps
        self.waited_seconds = 0.0
        """How long training has waited for its checkpoints."""
        self._writer = _Writer() if in_background else None
        self._apart: Mesh | None = None

    def save(
        self, engine: Engine, optimizer: Optimizer, state: TrainState, average: WeightAverage | None = None
    ) -> None:
        """Save the whole state; where it is not finite, or the disk is full, that is told and the older ones stand."""
        started = time.perf_counter()
        kinds: dict[str, Mapping[str, Tensor]] = {WEIGHTS: engine.parameters, OPTIMIZER: optimizer.state_tensors()}
        if average is not None and (averaged := average.state_tensors()):
            kinds[AVERAGE] = averaged
        table = json.dumps(asdict(state))
        self._write(f"step-{state.step:07d}", engine, kinds, table, self._remove_old)
        self.waited_seconds += time.perf_counter() - started

    def keep_best(self, engine: Engine, step: int) -> None:
        """Save the weights as the best of all validations, in place of those that were."""
        started = time.perf_counter()
        name = f"best-{step:07d}"

        def remove_others() -> None:
            for old in self.folder.glob("best-[0-9]*"):
                if old.name != name:
                    remove_folder(old)

        self._write(name, engine, {WEIGHTS: engine.parameters}, "", remove_others)
        self.waited_seconds += time.perf_counter() - started

    def _write(
        self,
        name: str,
        engine: Engine,
        kinds: Mapping[str, Mapping[str, Tensor]],
        table: str,
        then: Callable[[], None],
    ) -> None:
        if (bad := _not_finite(kinds, engine.mesh)) is not None:
            # It would take the place of one from which training can go on.
            _warn(engine.mesh, f"{name} is not saved, as {bad} holds numbers that are not finite")
            return
        # Training changes weights in place, so what a thread writes must be a copy.
        held = {
            kind: _held(parts_of(kind, tensors, engine), copy=self._writer is not None)
            for kind, tensors in kinds.items()
        }
        mesh = self._mesh_of_writing(engine.mesh)

        def write() -> None:
            try:
                write_together(
                    mesh, self.folder / name, KIND, self.key, lambda draft: _write_files(held, mesh, table, draft)
                )
            except OutputError as error:
                _warn(mesh, f"{name} could not be saved, training goes on: {error}")
                return
            if mesh.is_first:
                then()

        if self._writer is None:
            write()
        else:
            self._writer.put(write)

    def _mesh_of_writing(self, mesh: Mesh) -> Mesh:
        """The processes that write, who do not speak by the group by which they train meanwhile."""
        if self._writer is None:
            return mesh
        if self._apart is None:
            self._apart = mesh.apart()
        return self._apart

    def _remove_old(self) -> None:
        for old in self._folders()[: -self.keep]:
            step = int(old.name.removeprefix("step-"))
            if not self.keep_every_steps or step % self.keep_every_steps:
                remove_folder(old)

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            Exception: what went wrong in writing, where it was not the disk's fault.
        """
        started = time.perf_counter()
        if self._writer is not None:
            self._writer.wait()
        self.waited_seconds += time.perf_counter() - started

    @contextmanager
    def written(self) -> Iterator[None]:
        """A block at whose end everything is written; not after a second signal, which stops at once: a disk may hang.

        Raises:
            Exception: what went wrong in writing, where it was not the disk's fault.
        """
        try:
            yield
        except Exception:
            self.finish()
            raise
        self.finish()

    def restore_best(self, engine: Engine, step: int) -> bool:
        """Whether the weights now are those of the best validation, which was at a step; tells where they are not."""
        self.finish()
        folder = self.folder / f"best-{step:07d}"
        try:
            with _told_to_all(engine.mesh):
                if engine.mesh.is_first:
                    load(folder, KIND)
            everyone = _trained(engine)
            with _told_to_all(engine.mesh):
                _put(SavedTensors(folder, WEIGHTS), engine, everyone)
        except (ArtifactError, OSError) as error:
            _warn(engine.mesh, f"the best weights, of step {step}, cannot be restored; the last ones stay: {error}")
            return False
        return True

    def resume(self, engine: Engine, optimizer: Optimizer, average: WeightAverage | None = None) -> TrainState:
        """The newest state that verifies, loaded into the engine and optimizer; a new state where there is none."""
        return self.go_back(engine, optimizer, average) or TrainState()

    def go_back(self, engine: Engine, optimizer: Optimizer, average: WeightAverage | None = None) -> TrainState | None:
        """The newest state that verifies, loaded into the engine and optimizer; None, and nothing loaded, without.

        The first process says which it is, so that all load the same.
        """
        self.finish()
        name = ""
        with _told_to_all(engine.mesh):
            if engine.mesh.is_first:
                name = self._newest()
        if not (name := engine.mesh.said_by_first(name)):
            return None
        everyone = _trained(engine)
        with _told_to_all(engine.mesh):
            return _load(self.folder / name, engine, everyone, optimizer, average)

    def _newest(self) -> str:
        """The name of the newest state of this run that verifies; empty without."""
        for folder in reversed(self._folders()):
            try:
                artifact = load(folder, KIND)
            except ArtifactError as error:
                say(f"warning: {folder.name} is passed over: {error.message}")
                continue
            if artifact.key == self.key:
                return folder.name
        return ""

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-[0-9]*")) if self.folder.is_dir() else []


def _state_of(table: Mapping[str, Any], folder: Path) -> TrainState:
    """The state that was saved, of which nothing is missing and nothing is left over."""
    names = {each.name for each in fields(TrainState)}
    if odd := sorted(names ^ table.keys()):
        raise ArtifactError(
            f"{folder / STATE_FILE} {'lacks' if odd[0] in names else 'has an unknown'} {odd[0]}",
            remedy="go on with the version that saved it, or start into a new --out folder",
        )
    return TrainState(**table)


def _load(
    folder: Path, engine: Engine, everyone: set[str], optimizer: Optimizer, average: WeightAverage | None
) -> TrainState:
    """The state that was saved in a folder; what it says of weights, optimizer and average is now theirs."""
    _put(SavedTensors(folder, WEIGHTS), engine, everyone)
    optimizer.load_state_tensors(_states(SavedTensors(folder, OPTIMIZER), engine, everyone))
    if average is not None:
        # A run that goes back may have an average now and had none then.
        average.load_state_tensors(_states(SavedTensors(folder, AVERAGE), engine, everyone))
    return _state_of(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")), folder)


def _trained(engine: Engine) -> set[str]:
    """The names of the trained weights of all processes."""
    return {name for said in engine.mesh.gathered(json.dumps([*engine.parameters])) for name in json.loads(said)}


def _put(weights: SavedTensors, engine: Engine, everyone: set[str]) -> None:
    """Give this process's weights the values that were saved; ``everyone`` are the names of those of all processes."""
    if weights.names != everyone:
        raise ArtifactError(
            f"{weights.folder} holds the weights of another model", remedy="start into a new --out folder"
        )
    with torch.no_grad():
        for name, parameter in engine.parameters.items():
            parameter.copy_(weights.read(name, engine.pieces[name]))


def _states(saved: SavedTensors, engine: Engine, everyone: set[str]) -> dict[str, Tensor]:
    """The states of this process's weights as they were saved, and of weights that nobody knows, to be refused."""
    found, count = {}, None
    for name in saved.names:
        weight = weight_of(saved.kind, name)
        if weight in engine.parameters:
            found[name] = saved.read(name, engine.pieces[weight])
        elif name == "num_tensors":
            count = int(saved.read(name, None))
        elif weight not in everyone:
            found[name] = saved.read(name, None)
    if saved.kind == OPTIMIZER and (count is not None or saved.has_table):
        # A table of several processes names all there are; of one process it stays to be seen how many are missing.
        missing = 0 if count is None else count - (len(saved.names) - 1)
        found["num_tensors"] = torch.tensor(len(found) + missing)
    return found


def _write_files(
    held: Mapping[str, Mapping[str, Part]], mesh: Mesh, table: str, folder: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    """What is to be said of the files that this process has written into a folder, by kind and name of tensors."""
    if table and mesh.is_first:
        (folder / STATE_FILE).write_text(table, encoding="utf-8")
    rows = {}
    for kind, parts in held.items():
        if parts or mesh.is_alone:
            file = file_of(kind, mesh)
            save_file({name: part.tensor for name, part in parts.items()}, folder / file)
            rows[kind] = {name: part.row(file) for name, part in parts.items()}
    return rows


def _not_finite(kinds: Mapping[str, Mapping[str, Tensor]], mesh: Mesh = ALONE) -> str | None:
    """A tensor of numbers that are not all finite, on any process."""
    bad = next(
        (
            name
            for tensors in kinds.values()
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and not bool(tensor.isfinite().all())
        ),
        "",
    )
    return next(filter(None, mesh.gathered(bad)), None)


def _held(parts: Mapping[str, Part], *, copy: bool) -> dict[str, Part]:
    """The tensors in host memory; copies, where they are to stay as they are now."""
    return {
        name: replace(part, tensor=part.tensor.detach().to("cpu", copy=copy, memory_format=torch.contiguous_format))
        for name, part in parts.items()
    }


@contextmanager
def _told_to_all(mesh: Mesh) -> Iterator[None]:
    """A block in which no process speaks to others; where it fails for one, it fails for all.

    Raises:
        ArtifactError: what another process could not read.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    said = mesh.gathered("" if failure is None else str(failure) or "it failed")
    if failure is not None:
        raise failure
    if text := next(filter(None, said), ""):
        raise ArtifactError(text)


def _warn(mesh: Mesh, text: str) -> None:
    if mesh.is_first:
        say(f"warning: {text}")


class _Writer:
    """A thread that does one thing after another; who brings more than may wait, waits.

    It is a daemon: whoever stops at once does not wait for it, and what it was writing stays invisible.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=_WAITING - 1)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, work: Callable[[], None]) -> None:
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
            self._thread.start()
        self._queue.put(work)

    def wait(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._raise()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except BaseException as error:  # raised again where training waits for it
                self._error = error
            # What the work holds is a copy of all weights.
            del work

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
