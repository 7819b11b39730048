"""Checkpoints of a running training: saved whole, verified or invisible, and resumed bit for bit."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.core.artifact import load, write_folder
from preceptor.core.errors import ArtifactError, OutputError
from preceptor.core.progress import say
from preceptor.parallel.engine import Engine
from preceptor.train.averaging import WeightAverage
from preceptor.train.loop import TrainState
from preceptor.train.optim import Optimizer

KIND = "training-state"
AVERAGE_FILE, BEST_FILE = "average.safetensors", "weights.safetensors"


class Checkpoints:
    """The checkpoints of one run in one folder, newest last; a run is known by its key."""

    def __init__(self, folder: Path, key: str, keep: int) -> None:
        self.folder, self.key, self.keep = folder, key, keep

    def save(
        self, engine: Engine, optimizer: Optimizer, state: TrainState, average: WeightAverage | None = None
    ) -> None:
        """Write the whole state; a disk that is full is told and training goes on, for the older ones still stand."""
        target = self.folder / f"step-{state.step:07d}"
        try:
            with write_folder(target, KIND, self.key, {}) as draft:
                weights = {name: p.detach().contiguous() for name, p in engine.parameters.items()}
                save_file(weights, draft.path / "weights.safetensors")
                save_file(optimizer.state_tensors(), draft.path / "optimizer.safetensors")
                if average is not None and (averaged := average.state_tensors()):
                    save_file(averaged, draft.path / AVERAGE_FILE)
                (draft.path / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        except OutputError as error:
            say(f"warning: step {state.step} could not be saved, training goes on: {error}")
            return
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def keep_best(self, engine: Engine, step: int) -> None:
        """Write the weights as the best of all validations, in place of those that were."""
        target = self.folder / f"best-{step:07d}"
        try:
            # A run that was killed and goes on comes to the same best once more.
            shutil.rmtree(target, ignore_errors=True)
            with write_folder(target, KIND, self.key, {}) as draft:
                save_file(
                    {name: p.detach().contiguous() for name, p in engine.parameters.items()}, draft.path / BEST_FILE
                )
        except OutputError as error:
            say(f"warning: the best weights, of step {step}, could not be saved, training goes on: {error}")
            return
        for old in self.folder.glob("best-[0-9]*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def restore_best(self, engine: Engine, step: int) -> bool:
        """Whether the weights now are those of the best validation, which was at a step; tells where they are not."""
        folder = self.folder / f"best-{step:07d}"
        try:
            load(folder, KIND)
            self._put(load_file(folder / BEST_FILE), engine, folder)
        except (ArtifactError, OSError) as error:
            say(f"warning: the best weights, of step {step}, cannot be restored; the last ones stay: {error}")
            return False
        return True

    def resume(self, engine: Engine, optimizer: Optimizer, average: WeightAverage | None = None) -> TrainState:
        """The newest state that verifies, loaded into the engine and optimizer; a new state where there is none."""
        for folder in reversed(self._folders()):
            try:
                artifact = load(folder, KIND)
            except ArtifactError as error:
                say(f"warning: {folder.name} is passed over: {error.message}")
                continue
            if artifact.key == self.key:
                return self._load(folder, engine, optimizer, average)
        return TrainState()

    def _load(self, folder: Path, engine: Engine, optimizer: Optimizer, average: WeightAverage | None) -> TrainState:
        self._put(load_file(folder / "weights.safetensors"), engine, folder)
        optimizer.load_state_tensors(load_file(folder / "optimizer.safetensors"))
        if average is not None and (folder / AVERAGE_FILE).exists():
            average.load_state_tensors(load_file(folder / AVERAGE_FILE))
        table: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return TrainState(**table)

    def _put(self, weights: Mapping[str, Tensor], engine: Engine, folder: Path) -> None:
        if weights.keys() != engine.parameters.keys():
            raise ArtifactError(f"{folder} holds the weights of another model", remedy="start into a new --out folder")
        with torch.no_grad():
            for name, parameter in engine.parameters.items():
                parameter.copy_(weights[name])

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-[0-9]*")) if self.folder.is_dir() else []
