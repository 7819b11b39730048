"""Memory and time of the language-model loss, forward and backward: ours in chunks against transformers' on all logits.

Both are given the same hidden states, output layer and labels in float32: the shape of SmolLM-135M (576 wide) with a
vocabulary of 128,000, two rows of 2,048 tokens. Transformers' side is what its models do: logits by a linear layer,
then ForCausalLMLoss. Each run is a fresh process on the CPU, in turns; it first runs a tiny shape, so that libraries
are loaded. Memory is the growth of the peak resident memory (VmHWM) above what is resident before the first product
(hidden states, weights and labels are there already); the gradient of the weights, which both must make, is counted
in both, and given for comparison. Time is by the clock, and by the processor over all threads, which other work on
the machine disturbs less. The losses and both gradients are compared.

    python benchmarks/losses.py [--rounds 3] [--tokens 4096] [--hidden 576] [--vocabulary 128000]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_ROWS = 2
_NAMES = {"ours": "preceptor", "peer": "transformers"}


def ours(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """The mean loss by our chunks."""
    from preceptor.nn.losses import cross_entropy_sum

    loss, _, count = cross_entropy_sum(hidden_BTD, weight_VD, labels_BT)
    return loss / count


def peer(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """The mean loss as transformers' models compute it."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits_BTV = torch.nn.functional.linear(hidden_BTD, weight_VD)
    return ForCausalLMLoss(logits_BTV, labels_BT, weight_VD.shape[0], shift_labels=labels_BT)


def _case(num_tokens: int, width: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(_ROWS, num_tokens // _ROWS, width, generator=generator).requires_grad_()
    weight = torch.empty(vocabulary, width).normal_(0, 0.05, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, hidden.shape[:2], generator=generator)


def _resident_mebibytes(field: str) -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) / 1024


def _measure(
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, int, int], results: Path | None
) -> dict[str, float]:
    hidden, weight, labels = _case(8, 16, 32)
    loss_of(hidden, weight, labels).backward()  # type: ignore[no-untyped-call]
    hidden, weight, labels = _case(*shape)
    before = _resident_mebibytes("VmRSS")
    clock, processor = time.perf_counter(), time.process_time()
    loss = loss_of(hidden, weight, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    measured = {
        "seconds": time.perf_counter() - clock,
        "processor_seconds": time.process_time() - processor,
        "mebibytes": _resident_mebibytes("VmHWM") - before,
        "loss": loss.item(),
    }
    if results:
        torch.save([hidden.grad, weight.grad], results)
    return measured


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def _report(rows: dict[str, list[dict[str, float]]], shape: tuple[int, int, int]) -> None:
    num_tokens, width, vocabulary = shape
    print(f"{num_tokens:,} tokens, {width:,} wide, a vocabulary of {vocabulary:,}, float32; medians")
    print(f"{'':16s}{'peak growth, MiB':>20s}{'seconds':>12s}{'processor s':>14s}")
    medians = {
        side: {key: statistics.median(row[key] for row in rows[side]) for key in rows[side][0]} for side in _NAMES
    }
    for side, name in _NAMES.items():
        row = medians[side]
        print(f"{name:16s}{row['mebibytes']:20,.0f}{row['seconds']:12.2f}{row['processor_seconds']:14.2f}")
    print(f"of which the gradient of the weights: {vocabulary * width * 4 / 1024**2:,.0f} MiB in both")
    one, other = medians["ours"], medians["peer"]
    print(
        f"ratio: {one['mebibytes'] / other['mebibytes']:.3f} of transformers' memory, "
        f"{other['seconds'] / one['seconds']:.2f} times its speed by the clock, "
        f"{other['processor_seconds'] / one['processor_seconds']:.2f} times by the processor"
    )


def main() -> None:
    """Run both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times each side runs, in turns")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = (arguments.tokens, arguments.hidden, arguments.vocabulary)
    if arguments.side:
        print(json.dumps(_measure({"ours": ours, "peer": peer}[arguments.side], shape, arguments.results)))
        return
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(arguments.rounds):
            for side in _NAMES:
                command = [sys.executable, str(Path(__file__)), "--side", side]
                command += ["--tokens", str(shape[0]), "--hidden", str(shape[1]), "--vocabulary", str(shape[2])]
                if round_number == 0:
                    command += ["--results", f"{folder}/{side}"]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rows[side].append(json.loads(output.strip().splitlines()[-1]))
                print(f"round {round_number + 1} {side:8s} {rows[side][-1]}", file=sys.stderr, flush=True)
        gradients = [torch.load(f"{folder}/{side}") for side in _NAMES]
    _report(rows, shape)
    losses = [torch.tensor(rows[side][0]["loss"]) for side in _NAMES]
    print(
        f"largest relative difference: loss {_difference(*losses):.1e}, gradient of the hidden states "
        f"{_difference(gradients[0][0], gradients[1][0]):.1e}, of the weights "
        f"{_difference(gradients[0][1], gradients[1][1]):.1e}"
    )


if __name__ == "__main__":
    main()
