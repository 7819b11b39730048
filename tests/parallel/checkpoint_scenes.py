"""What ranks do together in the tests of checkpoints; each function runs in every process of a mesh."""

import os
import weakref
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from scenes import Documents, built

import preceptor.parallel.whole as whole
import preceptor.train.checkpoint as checkpoint
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt
from preceptor.core.errors import ConfigError, OutputError
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import place
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.train.averaging import WeightAverage
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.checkpoint_pieces import weight_of
from preceptor.train.consolidated import Trained, outlined
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import AveragingConfig, OptimizerConfig
from preceptor.train.placement import prepared
from preceptor.train.run import PretrainingConfig
from preceptor.train.state import TrainState

CHANGES = {"vocab_size": 41}
"""Rows that no number of processes shares evenly."""


class Run:
    """A small model with its optimizer and average, as one process of a mesh holds them."""

    def __init__(self, mesh=None, optimizer="adamw", average="ema", model="decoder", dtype="float64"):
        module, table = built(model, dtype, **CHANGES)
        self.mesh = Mesh.join(MeshConfig(**(mesh or {})))
        self.engine = place(module, mesh=self.mesh, table=table)
        self.optimizer = Optimizer(self.engine.parameters, OptimizerConfig(kind=optimizer, learning_rate=1e-2))
        self.average = WeightAverage(AveragingConfig(kind=average), self.engine.parameters)
        self.batches = Batches(Documents(), 7, 8, 2)
        self.state = TrainState()

    def step(self):
        """The mean loss of a step that is now behind."""
        self.engine.clear_gradients()
        objective, at = self.batches.objective, self.state.step
        sums = self.engine.forward_backward(objective, self.batches.at(at, self.mesh.share))
        self.engine.scale_and_clip(1 / sums.tokens, 1.0)
        self.optimizer.step(1.0)
        self.state.step += 1
        self.average.update(self.state.step, 10)
        return sums.total / sums.tokens

    def save(self, saved):
        saved.save(self.engine, self.optimizer, self.state, self.average)

    def resume(self, saved):
        self.state = saved.resume(self.engine, self.optimizer, self.average)

    def shown(self, **facts):
        """Facts and tensors; those that have no box are facts too."""
        tensors, pieces, numbers = {}, {}, {}
        kinds = {
            "weights": self.engine.parameters,
            "optimizer": self.optimizer.state_tensors(),
            "average": self.average.state_tensors(),
        }
        for kind, held in kinds.items():
            for name, tensor in held.items():
                weight = weight_of(kind, name)
                if tensor.dim():
                    tensors[f"{kind}:{name}"] = tensor.detach().clone()
                    pieces[f"{kind}:{name}"] = asdict(self.engine.pieces[weight])
                elif name != "num_tensors":
                    numbers[f"{kind}:{name}"] = float(tensor)
        for piece in pieces.values():
            piece["copies"] = sorted(piece["copies"])
        return {"pieces": pieces, "numbers": numbers, "step": self.state.step, **facts}, tensors


def train(folder, mesh=None, steps=3, save_at=(), background=False, **given):
    """Go on from a folder's checkpoint, save after some steps, and show all that there is at the end."""
    run = Run(mesh, **given)
    saved = Checkpoints(Path(folder), "key", 5, in_background=background)
    run.resume(saved)
    start, losses = run.state.step, []
    while run.state.step < steps:
        losses.append(run.step())
        if run.state.step in save_at:
            run.save(saved)
            if run.state.step == steps:
                saved.keep_best(run.engine, steps)
    saved.finish()
    return run.shown(losses=losses, start=start)


def carry(source, target, mesh=None, **given):
    """Load from one folder, save into another, and show what was loaded."""
    run = Run(mesh, **given)
    run.resume(Checkpoints(Path(source), "key", 5))
    run.save(Checkpoints(Path(target), "key", 5))
    return run.shown()


@contextmanager
def broken(how, where):
    """Saving of tensors that fails on one rank."""
    if int(os.environ["RANK"]) != where:
        yield
        return
    kept, checkpoint.save_file = checkpoint.save_file, how
    try:
        yield
    finally:
        checkpoint.save_file = kept


def full_disk(folder, where, background, mesh=None):
    """Three steps, each saved; one rank has no room at the second."""

    def full(tensors, path):
        raise OSError(28, "No space left on device", str(path))

    run = Run(mesh)
    saved = Checkpoints(Path(folder), "key", 5, in_background=background)
    for step in range(1, 4):
        run.step()
        if step == 2:
            with broken(full, where):
                run.save(saved)
                saved.finish()
        else:
            run.save(saved)
    saved.finish()
    return run.shown(folders=sorted(path.name for path in Path(folder).iterdir()))


def killed(folder, where, mesh=None):
    """A step that is saved, and one in whose saving a rank is killed."""
    run = Run(mesh)
    saved = Checkpoints(Path(folder), "key", 5)
    run.step()
    run.save(saved)
    run.step()
    with broken(lambda tensors, path: os._exit(9), where):
        run.save(saved)
    return run.shown()


def lost(folder, where, mesh=None):
    """One rank's weights are not all finite."""
    run = Run(mesh)
    saved = Checkpoints(Path(folder), "key", 5)
    run.step()
    if run.mesh.rank == where:
        with torch.no_grad():
            next(iter(run.engine.parameters.values())).view(-1)[0] = float("inf")
    run.save(saved)
    return {"folders": len(list(Path(folder).iterdir())) if Path(folder).exists() else 0}, {}


def best(folder, mesh=None):
    """The weights of a step that were kept as the best, found again after more steps."""
    run = Run(mesh)
    saved = Checkpoints(Path(folder), "key", 5, in_background=True)
    run.step()
    saved.keep_best(run.engine, 1)
    kept = {name: weight.detach().clone() for name, weight in run.engine.parameters.items()}
    run.step()
    is_there, is_not = saved.restore_best(run.engine, 1), saved.restore_best(run.engine, 7)
    same = all(torch.equal(kept[name], weight) for name, weight in run.engine.parameters.items())
    return {"same": same, "is_there": is_there, "is_not": is_not}, {}


def export(folder, mesh=None, model="decoder", max_file_bytes=5_000_000_000, room=True):
    """A trained model as a folder, with the most bytes of whole weights that lived at any time on any process."""
    module, table = built(model, "float32", **CHANGES)
    joined = Mesh.join(MeshConfig(**(mesh or {})))
    outline = module if joined.is_alone else outlined(module)
    engine = place(module, mesh=joined, table=table)
    counts = Lives()
    look_up = whole._Whole.__getitem__
    whole._Whole.__getitem__ = lambda self, name: counts.born(look_up(self, name))
    target = Path(folder) / "nowhere" if not room else Path(folder)
    failure = ""
    try:
        trained = Trained(outline, engine)
        trained.save_model(target if joined.is_first else None, 0, max_file_bytes=max_file_bytes)
    except OutputError as error:
        failure = str(error)
    except Exception as error:
        failure = type(error).__name__
    finally:
        whole._Whole.__getitem__ = look_up
    return {"most": counts.most, "total": counts.total, "failure": failure}, {}


class Lives:
    """How many bytes of tensors have lived at the same time."""

    def __init__(self):
        self.now = self.most = self.total = 0

    def born(self, tensor):
        size = tensor.nbytes
        self.now, self.total = self.now + size, self.total + size
        self.most = max(self.most, self.now)
        weakref.finalize(tensor.untyped_storage(), self.gone, size)
        return tensor

    def gone(self, size):
        self.now -= size


def export_adapter(folder, kind, magnitude=False, mesh=None):
    """An adapter and a head, as a folder."""
    module, table = built("decoder", "float32", **CHANGES)
    config = (
        AdapterConfig(kind=kind, rank=2, magnitude=magnitude)
        if kind == "lora"
        else AdapterConfig(kind=kind, num_virtual_tokens=3)
    )
    adapt(module, config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    joined = Mesh.join(MeshConfig(**(mesh or {})))
    outline = module if joined.is_alone else outlined(module)
    trained = Trained(outline, place(module, mesh=joined, table=table))
    trained.save_adapter(config, Path(folder) if joined.is_first else None, "base")
    return {}, {}


def refused(folder, kind, mesh=None):
    """What is said of an optimizer, before a model is placed."""
    module, _ = built("decoder", "float32", **CHANGES)
    joined = Mesh.join(MeshConfig(**(mesh or {})))
    config = PretrainingConfig(context_length=16, batch_tokens=64, optimizer=OptimizerConfig(kind=kind))
    try:
        prepared(module, config, 1, joined)
    except ConfigError as error:
        return {"path": error.path, "remedy": error.remedy}, {}
    return {"path": "", "remedy": ""}, {}
