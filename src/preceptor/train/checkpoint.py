"""Checkpoints of a running training: saved whole, verified or invisible, and resumed bit for bit.

What is to be saved is copied while training waits, and written by a thread while training goes on.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.core.artifact import load, write_folder
from preceptor.core.drafts import remove_folder
from preceptor.core.errors import ArtifactError, OutputError
from preceptor.core.progress import say
from preceptor.parallel.engine import Engine
from preceptor.train.averaging import WeightAverage
from preceptor.train.optim import Optimizer
from preceptor.train.state import TrainState

KIND = "training-state"
WEIGHTS_FILE, OPTIMIZER_FILE, AVERAGE_FILE = "weights.safetensors", "optimizer.safetensors", "average.safetensors"
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

    def save(
        self, engine: Engine, optimizer: Optimizer, state: TrainState, average: WeightAverage | None = None
    ) -> None:
        """Save the whole state; where it is not finite, or the disk is full, that is told and the older ones stand."""
        started = time.perf_counter()
        files: dict[str, Mapping[str, Tensor]] = {
            WEIGHTS_FILE: engine.parameters,
            OPTIMIZER_FILE: optimizer.state_tensors(),
        }
        if average is not None and (averaged := average.state_tensors()):
            files[AVERAGE_FILE] = averaged
        table = json.dumps(asdict(state))
        self._write(f"step-{state.step:07d}", files, table, self._remove_old)
        self.waited_seconds += time.perf_counter() - started

    def keep_best(self, engine: Engine, step: int) -> None:
        """Save the weights as the best of all validations, in place of those that were."""
        started = time.perf_counter()
        name = f"best-{step:07d}"

        def remove_others() -> None:
            for old in self.folder.glob("best-[0-9]*"):
                if old.name != name:
                    remove_folder(old)

        self._write(name, {WEIGHTS_FILE: engine.parameters}, "", remove_others)
        self.waited_seconds += time.perf_counter() - started

    def _write(
        self, name: str, files: Mapping[str, Mapping[str, Tensor]], table: str, then: Callable[[], None]
    ) -> None:
        if (bad := _not_finite(files)) is not None:
            # It would take the place of one from which training can go on.
            say(f"warning: {name} is not saved, as {bad} holds numbers that are not finite")
            return
        # Training changes weights in place, so what a thread writes must be a copy.
        held = {file: _held(tensors, copy=self._writer is not None) for file, tensors in files.items()}

        def write() -> None:
            try:
                with write_folder(self.folder / name, KIND, self.key, {}) as draft:
                    for file, tensors in held.items():
                        save_file(tensors, draft.path / file)
                    if table:
                        (draft.path / STATE_FILE).write_text(table, encoding="utf-8")
            except OutputError as error:
                say(f"warning: {name} could not be saved, training goes on: {error}")
                return
            then()

        if self._writer is None:
            write()
        else:
            self._writer.put(write)

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
            load(folder, KIND)
            self._put(load_file(folder / WEIGHTS_FILE), engine, folder)
        except (ArtifactError, OSError) as error:
            say(f"warning: the best weights, of step {step}, cannot be restored; the last ones stay: {error}")
            return False
        return True

    def resume(self, engine: Engine, optimizer: Optimizer, average: WeightAverage | None = None) -> TrainState:
        """The newest state that verifies, loaded into the engine and optimizer; a new state where there is none."""
        return self.go_back(engine, optimizer, average) or TrainState()

    def go_back(self, engine: Engine, optimizer: Optimizer, average: WeightAverage | None = None) -> TrainState | None:
        """The newest state that verifies, loaded into the engine and optimizer; None, and nothing loaded, without."""
        self.finish()
        for folder in reversed(self._folders()):
            try:
                artifact = load(folder, KIND)
            except ArtifactError as error:
                say(f"warning: {folder.name} is passed over: {error.message}")
                continue
            if artifact.key == self.key:
                return self._load(folder, engine, optimizer, average)
        return None

    def _load(self, folder: Path, engine: Engine, optimizer: Optimizer, average: WeightAverage | None) -> TrainState:
        self._put(load_file(folder / WEIGHTS_FILE), engine, folder)
        optimizer.load_state_tensors(load_file(folder / OPTIMIZER_FILE))
        if average is not None:
            # A run that goes back may have an average now and had none then.
            averaged = folder / AVERAGE_FILE
            average.load_state_tensors(load_file(averaged) if averaged.exists() else {})
        return _state_of(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")), folder)

    def _put(self, weights: Mapping[str, Tensor], engine: Engine, folder: Path) -> None:
        if weights.keys() != engine.parameters.keys():
            raise ArtifactError(f"{folder} holds the weights of another model", remedy="start into a new --out folder")
        with torch.no_grad():
            for name, parameter in engine.parameters.items():
                parameter.copy_(weights[name])

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


def _not_finite(files: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """A tensor of numbers that are not all finite."""
    for tensors in files.values():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return name
    return None


def _held(tensors: Mapping[str, Tensor], *, copy: bool) -> dict[str, Tensor]:
    """The tensors in host memory; copies, where they are to stay as they are now."""
    return {
        name: tensor.detach().to("cpu", copy=copy, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


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
