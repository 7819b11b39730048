"""Tokens per second of a training step: ours against transformers' Trainer, Lightning's litgpt and a plain loop.

All peers are compiled whole; ours runs eagerly, and with its layers compiled. They train the same shape, GPT-2's or
Llama's, on random tokens with AdamW in float32, in turns, each in a process of its own with as many threads. Beside
them stand the matrix products of our step alone, which no step can beat.

Prints for each shape a table, the ratio of ours (eager or compiled, whichever is faster) to the best peer, and after
how many steps compiling has paid. The first step counts from the start of the process; it is that of the first round,
which starts with no compiled code.

    python benchmarks/training_step.py [--litgpt FOLDER] [--shape llama] [--rounds 3] [--steps 12]

FOLDER holds what `pip install --no-deps --target FOLDER -r benchmarks/litgpt.txt` puts there, which runs on the torch
of this environment; without it litgpt is left out.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training_sides import CONTEXT, SIDES, WARMUP_STEPS, Load

NAMES = {
    "ours": "preceptor, eager",
    "ours-compiled": "preceptor, layers compiled",
    "trainer": "transformers Trainer, compiled",
    "litgpt": "litgpt, compiled",
    "plain": "plain PyTorch loop, compiled",
    "products": "the matrix products alone",
}
PEERS = ("trainer", "litgpt", "plain")
_PARAMETERS_MAY_DIFFER = 0.01
Result = dict[str, float]


def run_side(side: str, load: Load) -> Result:
    """What one side comes to, in this process."""
    started = time.perf_counter()
    timed = SIDES[side](load)
    ends = timed.marks[WARMUP_STEPS - 1 :]
    durations = [after - before for before, after in itertools.pairwise(ends)]
    return {
        "tokens_per_second": load.rows * CONTEXT / statistics.median(durations),
        "first_step_seconds": timed.marks[0] - started,
        "parameters": timed.num_parameters,
        "loss": timed.loss,
    }


def race(sides: list[str], shape: str, arguments: argparse.Namespace) -> dict[str, list[Result]]:
    """The results of all sides in turns, of each round."""
    results: dict[str, list[Result]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | ({"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {})
        for round_number in range(arguments.rounds):
            for side, rows in results.items():
                # Each has a cache of its own, so that no side compiles what another has compiled before.
                own = environment | {"TORCHINDUCTOR_CACHE_DIR": str(Path(cache) / side)}
                if side == "litgpt":
                    own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(arguments.litgpt), own.get("PYTHONPATH"))))
                command = [sys.executable, __file__, "--side", side, "--shape", shape]
                command += ["--steps", str(arguments.steps), "--rows", str(arguments.rows)]
                done = subprocess.run(command, capture_output=True, text=True, env=own, check=False)
                if done.returncode:
                    raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
                rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(f"{shape} round {round_number + 1} {side:14s}{rows[-1]}", file=sys.stderr, flush=True)
    _require_same_size(results)
    return results


def _require_same_size(results: dict[str, list[Result]]) -> None:
    sizes = {side: rows[0]["parameters"] for side, rows in results.items() if rows[0]["parameters"]}
    for side, size in sizes.items():
        if abs(size / sizes["ours"] - 1) > _PARAMETERS_MAY_DIFFER:
            raise SystemExit(f"{side} has {size:,} parameters and ours {sizes['ours']:,}: these are not the same shape")


def tell(shape: str, results: dict[str, list[Result]], rows_per_step: int) -> None:
    """Print the table of a shape and its ratios."""
    speed = {side: statistics.median(row["tokens_per_second"] for row in rows) for side, rows in results.items()}
    print(
        f"{shape + ' shape':34s}{'parameters':>12s}{'tokens/s (median)':>19s}{'of products':>13s}{'first step, s':>15s}"
    )
    for side, rows in results.items():
        size, first = (f"{rows[0][key]:,.{digits}f}" for key, digits in (("parameters", 0), ("first_step_seconds", 1)))
        if side == "products":
            size = first = ""
        share = f"{speed[side] / speed['products']:.1%}"
        print(f"{NAMES[side]:34s}{size:>12s}{speed[side]:19,.0f}{share:>13s}{first:>15s}")
    best = max(("ours", "ours-compiled"), key=speed.__getitem__)
    peer = max((side for side in PEERS if side in speed), key=speed.__getitem__)
    print(f"ratio: {NAMES[best]}, {speed[best] / speed[peer]:.2f} times the best peer ({NAMES[peer]})")
    print(f"of the matrix products alone: {speed[best] / speed['products']:.1%}")
    print(_break_even(results, speed, rows_per_step))
    if "litgpt" not in speed:
        print("litgpt was left out: no --litgpt FOLDER")


def _break_even(results: dict[str, list[Result]], speed: dict[str, float], rows_per_step: int) -> str:
    """After how many steps compiling our layers has paid, in words."""
    seconds = {side: rows_per_step * CONTEXT / speed[side] for side in ("ours", "ours-compiled")}
    saved = seconds["ours"] - seconds["ours-compiled"]
    compiling = results["ours-compiled"][0]["first_step_seconds"] - results["ours"][0]["first_step_seconds"]
    said = f"compiling: {compiling:.1f} s, and {saved * 1000:.0f} ms saved per step of {seconds['ours']:.2f} s"
    if saved <= 0:
        return f"{said}: it does not pay here"
    return f"{said}: it pays after {max(0, math.ceil(compiling / saved)):,} steps"


def main() -> None:
    """Run all sides in turns and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("gpt2", "llama"), help="one of the shapes; both when left out")
    parser.add_argument("--rounds", type=int, default=3, help="times each side runs, in turns")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each run")
    parser.add_argument("--rows", type=int, default=16, help=f"rows of {CONTEXT} tokens in a step")
    parser.add_argument("--threads", type=int, default=0, help="threads of each side; 0 is what PyTorch takes")
    parser.add_argument("--litgpt", type=Path, metavar="FOLDER", help="where litgpt is installed")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side, Load(arguments.shape, arguments.steps, arguments.rows))))
        return
    sides = [side for side in SIDES if side != "litgpt" or arguments.litgpt]
    found: dict[str, Any] = {}
    for shape in (arguments.shape,) if arguments.shape else ("gpt2", "llama"):
        found[shape] = race(sides, shape, arguments)
    for shape, results in found.items():
        tell(shape, results, arguments.rows)


if __name__ == "__main__":
    main()
