"""What watching costs a training step: all its hooks, as a run has them, beside steps of a given length.

The loop's own hooks are told of steps that only sleep: measures, metrics file, TensorBoard's events, figures on the
screen. Their time is what a training loses by them; the median, as somebody else may be at work on this machine.

    python benchmarks/watching.py [--steps 300] [--milliseconds 100]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from preceptor.core.progress import Progress
from preceptor.models.step_flops import StepFlops
from preceptor.train.hooks import Board, MetricsLog, StepMeter, Watcher, Workload
from preceptor.train.state import StepRecord
from preceptor.train.trackers import Stage, open_trackers
from preceptor.train.tracking_config import TrackingConfig

WORKLOAD = Workload(
    rows=lambda step: 4,
    row_tokens=16,
    flops=StepFlops(1000, 10),
    peak_flops=50_000.0,
    device=torch.device("cpu"),
)


def seconds_of_hooks(folder: Path, num_steps: int, step_seconds: float) -> list[float]:
    """How long the hooks of each step take."""
    spent = []
    with (
        Progress("pretrain", num_steps, "steps") as progress,
        open_trackers(TrackingConfig(), Stage("watched", folder, {})) as trackers,
    ):
        watcher = Watcher(
            StepMeter(WORKLOAD, 0, lambda: 7.0),
            MetricsLog(folder / "watched.jsonl", 0),
            trackers,
            Board(progress, 0, lambda: num_steps),
        )
        for step in range(1, num_steps + 1):
            time.sleep(step_seconds)
            record = StepRecord(step, 64 * step, 2.5, 0.1, 1.5, False)
            started = time.perf_counter()
            watcher(record, step_seconds)
            spent.append(time.perf_counter() - started)
    return spent


def main() -> None:
    """Watch steps that only sleep, and print the median of their hooks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--milliseconds", type=float, default=100, help="the length of a step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spent = seconds_of_hooks(Path(folder), arguments.steps, arguments.milliseconds / 1e3)
    median, most = 1e3 * statistics.median(spent), 1e3 * max(spent)
    share = median / arguments.milliseconds
    print(
        f"hooks of a step: median {median:.2f} ms, at most {most:.2f} ms; {share:.2%} of {arguments.milliseconds:g} ms"
    )


if __name__ == "__main__":
    main()
