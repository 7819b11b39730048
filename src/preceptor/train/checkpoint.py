"""Checkpoints of a running training: saved whole, verified or invisible, and resumed bit for bit."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from preceptor.core.artifact import load, write_folder
from preceptor.core.errors import ArtifactError, OutputError
from preceptor.core.progress import say
from preceptor.parallel.engine import Engine
from preceptor.train.loop import TrainState
from preceptor.train.optim import Optimizer

KIND = "training-state"


class Checkpoints:
    """The checkpoints of one run in one folder, newest last; a run is known by its key."""

    def __init__(self, folder: Path, key: str, keep: int) -> None:
        self.folder, self.key, self.keep = folder, key, keep

    def save(self, engine: Engine, optimizer: Optimizer, state: TrainState) -> None:
        """Write the whole state; a disk that is full is told and training goes on, for the older ones still stand."""
        target = self.folder / f"step-{state.step:07d}"
        try:
            with write_folder(target, KIND, self.key, {}) as draft:
                weights = {name: p.detach().contiguous() for name, p in engine.parameters.items()}
                save_file(weights, draft.path / "weights.safetensors")
                save_file(optimizer.state_tensors(), draft.path / "optimizer.safetensors")
                (draft.path / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        except OutputError as error:
            say(f"warning: step {state.step} could not be saved, training goes on: {error}")
            return
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def resume(self, engine: Engine, optimizer: Optimizer) -> TrainState:
        """The newest state that verifies, loaded into the engine and optimizer; a new state where there is none."""
        for folder in reversed(self._folders()):
            try:
                artifact = load(folder, KIND)
            except ArtifactError as error:
                say(f"warning: {folder.name} is passed over: {error.message}")
                continue
            if artifact.key == self.key:
                return self._load(folder, engine, optimizer)
        return TrainState()

    def _load(self, folder: Path, engine: Engine, optimizer: Optimizer) -> TrainState:
        weights = load_file(folder / "weights.safetensors")
        if weights.keys() != engine.parameters.keys():
            raise ArtifactError(f"{folder} holds the weights of another model", remedy="start into a new --out folder")
        with torch.no_grad():
            for name, parameter in engine.parameters.items():
                parameter.copy_(weights[name])
        optimizer.load_state_tensors(load_file(folder / "optimizer.safetensors"))
        table: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return TrainState(**table)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-[0-9]*")) if self.folder.is_dir() else []
