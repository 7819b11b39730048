"""Peak memory and seconds of a training step by what is kept of activations, beside transformers' checkpointing.

Each way runs in a process of its own on the same GPT-2 shape and the same random tokens, in float32 without dropout.
Peak memory is that of a forward and backward pass above what was there before it, the gradients of the weights being
there already, as in every micro-batch but the first. It is counted in bytes of tensors, from each allocation and
release that PyTorch's profiler records, so it is exact and does not depend on the C library; the growth of the
process's resident set since before the first pass, gradients included, stands beside it. What the kernel caches of
files belongs to no process and is in neither. The second table is one update by AdamW of the same weights.

    python benchmarks/activation_memory.py [--steps 3] [--layers 12] [--rows 8] [--context 512] [--folder FOLDER]
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH, HEADS = 8192, 384, 6
OURS = {
    "nothing set": {},
    "every-nth (2)": {"activation_checkpointing": "every-nth"},
    "by-operation": {"activation_checkpointing": "by-operation"},
    "full": {"activation_checkpointing": "full"},
    "none, on disk": {"keep_activations_in": "disk"},
    "full, on disk": {"activation_checkpointing": "full", "keep_activations_in": "disk"},
}
PEERS = {"transformers": False, "transformers, gradient_checkpointing": True}
STATES = {
    "in memory": {},
    "on disk": {"optimizer_states": "disk"},
    "8 bits": {"optimizer_bits": 8},
    "8 bits, on disk": {"optimizer_bits": 8, "optimizer_states": "disk"},
}


def decoder(layers: int, context: int) -> Any:
    """Our model of the shape."""
    import torch

    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig

    config = DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=context,
        norm="layernorm",
        positions="learned",
        gated=False,
        hidden_act="gelu_new",
        qk_norm="none",
        attention_bias="all",
        mlp_bias=True,
        zero_init_outputs=False,
        norm_eps=1e-5,
    )
    return build(config, torch.Generator().manual_seed(0)).train()


def random_tokens(rows: int, context: int) -> Any:
    """The tokens of a step, of shape B T+1."""
    import torch

    return torch.randint(0, VOCABULARY, (rows, context + 1), generator=torch.Generator().manual_seed(1))


def ours(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one of our ways takes."""
    from preceptor.nn.inputs import Inputs
    from preceptor.train.activations import saving_activations
    from preceptor.train.allocator import keep_freed_memory
    from preceptor.train.memory_config import MemoryConfig

    keep_freed_memory()
    model, tokens = decoder(arguments.layers, arguments.context), random_tokens(arguments.rows, arguments.context)

    def step() -> None:
        model.loss_sum(Inputs(tokens[:, :-1]), tokens[:, 1:])[0].backward()

    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        saving_activations(model, MemoryConfig(**OURS[name]), Path(folder)),  # type: ignore[arg-type]
    ):
        return measured(step, arguments.steps) | {"check": gradient_norms(model)}


def peer(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What transformers' model of the shape takes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=arguments.context,
        n_embd=WIDTH,
        n_layer=arguments.layers,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config).train()
    if PEERS[name]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tokens = random_tokens(arguments.rows, arguments.context)[:, :-1]
    return measured(lambda: model(input_ids=tokens, labels=tokens).loss.backward(), arguments.steps)


def measured(step: Callable[[], None], steps: int) -> dict[str, Any]:
    """Growth of the resident set, medians of seconds and of processor seconds of a step, and peak bytes of tensors."""
    before = resident_bytes("VmRSS")
    step()
    seconds, processor = [], []
    for _ in range(steps):
        started, worked = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - worked)
    return {
        "resident": resident_bytes("VmHWM") - before,
        "seconds": statistics.median(seconds),
        "processor": statistics.median(processor),
        "peak": peak_bytes(step),
    }


def peak_bytes(step: Callable[[], None]) -> int:
    """The most bytes of tensors that are held at once during a step beyond those held before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    results: Any = recorded.profiler.kineto_results
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"),
        key=lambda change: change[0],
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def resident_bytes(field: str) -> int:
    """The resident set now (VmRSS) or at its largest (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def gradient_norms(model: Any) -> list[float]:
    """Sums of squares of gradients, by which a way that computes something else is found out."""
    return [float(parameter.grad.double().square().sum()) for parameter in model.parameters()]


def states(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes of optimizer states that are not in a file, and the median of seconds of an update."""
    import torch

    from preceptor.train.memory_config import MemoryConfig
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig

    parameters = dict(decoder(arguments.layers, arguments.context).named_parameters())
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        memory = MemoryConfig(**STATES[name])  # type: ignore[arg-type]
        optimizer = Optimizer(parameters, OptimizerConfig(kind="adamw"), {}, memory, Path(folder))
        seconds = []
        for _ in range(arguments.steps + 2):
            started = time.perf_counter()
            optimizer.step(1.0)
            seconds.append(time.perf_counter() - started)
        held = [tensor.nbytes for tensor in optimizer.state_tensors().values()]
        in_file = optimizer.bytes_on_disk
    return {"bytes": sum(held), "in_file": in_file, "seconds": statistics.median(seconds[2:])}


def run(side: str, name: str, words: list[str]) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, str(Path(__file__)), *words, "--side", side, "--name", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name}: { ({key: value for key, value in found.items() if key != 'check'}) }", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run every way and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each way")
    parser.add_argument("--layers", type=int, default=12, help="blocks of the model")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--context", type=int, default=512, help="tokens of a row")
    parser.add_argument("--folder", help="a folder on the disk to measure; the system's for temporary files")
    parser.add_argument("--side", choices=("ours", "peer", "states"), help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "peer": peer, "states": states}[arguments.side](arguments.name, arguments)))
        return
    words = sys.argv[1:]
    activations_table({name: run("ours", name, words) for name in OURS}, {n: run("peer", n, words) for n in PEERS})
    states_table({name: run("states", name, words) for name in STATES})


def activations_table(rows: dict[str, dict[str, Any]], peers: dict[str, dict[str, Any]]) -> None:
    """Print what the ways of activations take, as ratios to our own with nothing set.

    Raises:
        SystemExit: the gradients of two ways differ.
    """
    first = rows["nothing set"]
    if any(row["check"] != first["check"] for row in rows.values()):
        raise SystemExit("the gradients of two ways differ")
    print(
        f"{'activations':38s}{'peak MB':>9s}{'ratio':>8s}{'resident MB':>13s}{'ratio':>8s}{'s/step':>9s}{'ratio':>8s}"
    )
    for name, row in (rows | peers).items():
        cells = [
            f"{row[key] / scale:12.1f}{row[key] / first[key]:6.2f}"
            for key, scale in (("peak", 1e6), ("resident", 1e6), ("seconds", 1), ("processor", 1))
        ]
        print(f"{name:38s}{''.join(cells)}")


def states_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print what the ways of optimizer states take."""
    first = rows["in memory"]
    print(f"\n{'AdamW states':38s}{'MB':>9s}{'ratio':>8s}{'of it in a file':>17s}{'s/update':>12s}{'ratio':>8s}")
    for name, row in rows.items():
        size = f"{row['bytes'] / 1e6:9.1f}{row['bytes'] / first['bytes']:8.2f}{row['in_file'] / 1e6:17.1f}"
        print(f"{name:38s}{size}{row['seconds']:12.3f}{row['seconds'] / first['seconds']:8.2f}")


if __name__ == "__main__":
    main()
