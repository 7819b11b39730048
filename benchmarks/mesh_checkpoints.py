"""The seconds in which a checkpoint of several processes is saved, loaded, and written as a model's folder.

A decoder of 14 million weights with the states of AdamW, in float32; the least of some rounds. Weights are cut up over
as many processes as are started:

    torchrun --nproc-per-node 4 benchmarks/mesh_checkpoints.py [--rounds 3] [--replicate]
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import architecture_of
from preceptor.parallel.engine import place
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshConfig, world_size
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.consolidated import Trained, outlined
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.state import TrainState

MODEL = DecoderConfig(
    vocab_size=8192,
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=6,
    num_key_value_heads=6,
    max_position_embeddings=512,
)


def timed(mesh: Mesh, work: Callable[[], object]) -> float:
    """The seconds until the last process has done its work."""
    mesh.wait()
    started = time.perf_counter()
    work()
    mesh.wait()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """Save, load and write, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--replicate", action="store_true", help="every process holds all weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mesh = Mesh.join(MeshConfig(shard=1 if options.replicate else world_size()))
    model = architecture_of(MODEL).family.build(MODEL, torch.Generator().manual_seed(0))
    outline = model if mesh.is_alone else outlined(model)
    engine = place(model, mesh=mesh)
    optimizer = Optimizer(engine.parameters, OptimizerConfig(kind="adamw"))
    for parameter in engine.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0)
    engine.clear_gradients()
    root = Path(mesh.said_by_first(tempfile.mkdtemp() if mesh.is_first else ""))
    checkpoints, seconds = Checkpoints(root, "benchmark", 1), []
    for step in range(1, options.rounds + 1):
        folder = root / f"model-{step}"
        if mesh.is_first:
            folder.mkdir()
        state, trained = TrainState(step=step), Trained(outline, engine)
        saving = timed(mesh, partial(checkpoints.save, engine, optimizer, state))
        loading = timed(mesh, lambda: checkpoints.resume(engine, optimizer))
        writing = timed(mesh, partial(trained.save_model, folder if mesh.is_first else None))
        seconds.append((saving, loading, writing))
    if mesh.is_first:
        weights = sum(weight.numel() for weight in outline.parameters())
        least = " ".join(
            f"{name} {min(found):.3f} s"
            for name, found in zip(("save", "load", "model"), zip(*seconds, strict=True), strict=True)
        )
        size = sum(path.stat().st_size for path in next(root.glob("step-*")).iterdir())
        print(f"{weights:,} weights, {mesh.sizes}: {least}; {size:,} bytes")
        shutil.rmtree(root)
    Mesh.leave()


if __name__ == "__main__":
    main()
