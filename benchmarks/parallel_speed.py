"""Tokens per second of one, two or more processes that train one model together, and of PyTorch's DDP beside them.

    python benchmarks/parallel_speed.py [--steps 8] [--rounds 2] [--layouts replicate=2 shard=2 ...]

Each process has one thread, and the batch is the same whatever the number of processes: 4,096 tokens in 16 rows of 256,
in micro-batches of at most 4 rows, of a Llama of some 14 M parameters in float32 with AdamW. A layout is axes with
their lengths, joined by commas (replicate=2,shard=2), and may name a schedule (pipeline=2,schedule=zero-bubble). The
side "apart" is as many processes that share the rows and never speak, which is as fast as the machine can be. The sides
run in turns; the best round counts, in seconds of a middling step but the first two.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

ROWS, CONTEXT, ROWS_PER_MICROBATCH, VOCABULARY = 16, 256, 4, 8192
LAYOUTS = (
    "replicate=1",
    "apart=2",
    "replicate=2",
    "ddp=2",
    "shard=2",
    "tensor=2",
    "pipeline=2",
    "pipeline=2,schedule=gpipe",
    "pipeline=2,schedule=zero-bubble",
)


def settings(layout: str) -> dict[str, Any]:
    """The mesh that a layout names."""
    pairs = (each.split("=") for each in layout.split(","))
    return {name: int(value) if value.isdecimal() else value for name, value in pairs}


def side(layout: str, steps: int) -> dict[str, float]:
    """Seconds of a step, in this process, which is one of several."""
    import torch

    from preceptor.models.decoder import FAMILY, build
    from preceptor.models.decoder_config import DecoderConfig
    from preceptor.nn.inputs import Inputs
    from preceptor.objectives.batch import Batch, Batches, LossSum
    from preceptor.parallel.engine import place
    from preceptor.parallel.mesh import ALONE, Mesh
    from preceptor.parallel.mesh_config import MeshConfig
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig

    torch.set_num_threads(1)

    class Random:
        num_rows = 4096

        def collate(self, rows: Any, samples: Any = None) -> Batch:
            generator = torch.Generator().manual_seed(rows[0])
            tokens = torch.randint(0, VOCABULARY, (len(rows), CONTEXT + 1), generator=generator)
            return Batch(Inputs(tokens[:, :-1]), tokens[:, 1:].contiguous())

        def loss(self, model: Any, batch: Batch) -> LossSum:
            return LossSum(*model.loss_sum(batch.inputs, batch.labels_BT))

    model = build(
        DecoderConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=6,
            head_dim=64,
            max_position_embeddings=CONTEXT,
        )
    )
    asked = settings(layout)
    is_peer = "ddp" in asked
    shares = (int(os.environ["RANK"]), asked["apart"]) if "apart" in asked else None
    mesh = ALONE if shares else Mesh.join(MeshConfig() if is_peer else MeshConfig(**asked))
    batches = Batches(Random(), 0, ROWS, ROWS_PER_MICROBATCH)
    if is_peer:
        return {"seconds": _peer(model, batches, mesh, steps)}
    engine = place(model, mesh=mesh, table=FAMILY.sharding)
    optimizer = Optimizer(engine.parameters, OptimizerConfig(kind="adamw"))
    seconds = []
    for step in range(steps):
        started = time.perf_counter()
        sums = engine.forward_backward(batches.objective, batches.at(step, shares or mesh.share))
        engine.scale_and_clip(1 / sums.tokens, 1.0)
        optimizer.step(1.0)
        engine.clear_gradients()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[2:])}


def _peer(model: Any, batches: Any, mesh: Any, steps: int) -> float:
    """The same by PyTorch's DistributedDataParallel, with ``no_sync`` before the last micro-batch and fused AdamW."""
    import contextlib

    import torch
    from torch.nn.parallel import DistributedDataParallel

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Any) -> Any:
            return model.loss_sum(batch.inputs, batch.labels_BT)[0]

    placed = DistributedDataParallel(Whole())
    optimizer = torch.optim.AdamW(placed.parameters(), lr=1e-3, fused=True)
    seconds = []
    for step in range(steps):
        started = time.perf_counter()
        mine = batches.at(step, mesh.share)
        for number, batch in enumerate(mine):
            with contextlib.nullcontext() if number == len(mine) - 1 else placed.no_sync():
                placed(batch).backward()
        torch.nn.utils.clip_grad_norm_(placed.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def together(layout: str, steps: int) -> float:
    """Seconds of a step of all processes that a layout asks for."""
    world = 1
    for name, value in settings(layout).items():
        world *= value if name in ("replicate", "shard", "tensor", "pipeline", "ddp", "apart") else 1
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, __file__, "--side", layout, "--steps", str(steps)]
    started = [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    answers = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{layout}: a process failed")
    return max(float(json.loads(answer.splitlines()[-1])["seconds"]) for answer in answers)


def main() -> None:
    """Print a row for each layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(side(arguments.side, arguments.steps)))
        return
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for layout in arguments.layouts:
            best[layout] = min(best.get(layout, float("inf")), together(layout, arguments.steps))
    first = best[arguments.layouts[0]]
    print(f"{'layout':34}{'tokens/s':>10}{'of one':>8}")
    for layout, seconds in best.items():
        print(f"{layout:34}{ROWS * CONTEXT / seconds:10,.0f}{first / seconds:8.2f}")


if __name__ == "__main__":
    main()
