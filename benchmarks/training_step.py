"""Tokens per second of a training step, ours against transformers' Trainer with torch_compile, side by side.

Both train the same GPT-2 shape on the same random tokens with AdamW in float32, in turns, each in a process of its
own. Prints a table with the ratio of the medians and the time to the first step.

    python benchmarks/training_step.py [--rounds 3] [--steps 12]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH, LAYERS, HEADS, CONTEXT, ROWS = 8192, 384, 6, 6, 256, 16
WARMUP_STEPS = 3


def ours(steps: int) -> dict[str, float]:
    """Seconds to the first step and tokens per second after the warm-up, by our loop's own parts."""
    started = time.perf_counter()
    import numpy as np
    import torch

    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig
    from preceptor.objectives.batch import Batch, Batches, LossSum
    from preceptor.objectives.packing import collate_rows, plan_rows
    from preceptor.parallel.engine import place
    from preceptor.train.allocator import keep_freed_memory
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig

    class RandomTokens:
        """As many documents of one row each as a step has rows, times the number of steps."""

        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.tokens = generator.integers(0, VOCABULARY, (steps + WARMUP_STEPS) * ROWS * CONTEXT, dtype=np.uint32)
            self.plan = plan_rows(np.arange(0, self.tokens.size + 1, CONTEXT), CONTEXT)
            self.num_rows = self.plan.num_rows

        def collate(self, rows: Any, samples: Any = None) -> Batch:
            return collate_rows(self.plan, rows, self.tokens, 0)

        def loss(self, model: Any, batch: Batch) -> LossSum:
            return LossSum(*model.loss_sum(batch.inputs, batch.labels_BT))

    keep_freed_memory()
    config = DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=CONTEXT,
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
    engine = place(build(config, torch.Generator().manual_seed(0)))
    optimizer = Optimizer(engine.parameters, OptimizerConfig(kind="adamw", learning_rate=3e-4))
    batches = Batches(RandomTokens(), 0, ROWS, ROWS)
    marks = []
    for step in range(WARMUP_STEPS + steps):
        tokens = engine.forward_backward(batches.objective, batches.at(step)).tokens
        engine.scale_and_clip(1 / tokens, 1.0)
        optimizer.step(1.0)
        engine.clear_gradients()
        marks.append(time.perf_counter())
    return _summary(started, marks, steps)


def trainer(steps: int) -> dict[str, float]:
    """The same by transformers' Trainer with torch_compile."""
    started = time.perf_counter()
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Marks(TrainerCallback):
        """Notes the clock at the end of every step."""

        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append(time.perf_counter())

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, ((steps + WARMUP_STEPS) * ROWS, CONTEXT), generator=generator)
    data = [{"input_ids": row, "labels": row} for row in ids]
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            max_steps=steps + WARMUP_STEPS,
            learning_rate=3e-4,
            torch_compile=True,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=data, callbacks=[marks]).train()
    return _summary(started, marks.marks, steps)


def _summary(started: float, marks: list[float], steps: int) -> dict[str, float]:
    durations = [after - before for before, after in zip(marks[-steps - 1 : -1], marks[-steps:], strict=True)]
    return {
        "first_step_seconds": marks[0] - started,
        "tokens_per_second": ROWS * CONTEXT / statistics.median(durations),
    }


def main() -> None:
    """Run both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times each side runs, in turns")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each run")
    parser.add_argument("--side", choices=("ours", "trainer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "trainer": trainer}[arguments.side](arguments.steps)))
        return
    results: dict[str, list[dict[str, float]]] = {"ours": [], "trainer": []}
    for round_number in range(arguments.rounds):
        for side, rows in results.items():
            command = [sys.executable, str(Path(__file__)), "--side", side, "--steps", str(arguments.steps)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(output.strip().splitlines()[-1]))
            print(f"round {round_number + 1} {side:8s} {rows[-1]}", file=sys.stderr, flush=True)
    print(f"{'':38s}{'tokens/s (median)':>20s}{'first step, s':>16s}")
    medians = {}
    for side, name in (("ours", "preceptor"), ("trainer", "transformers Trainer, torch_compile")):
        medians[side] = statistics.median(row["tokens_per_second"] for row in results[side])
        first = statistics.median(row["first_step_seconds"] for row in results[side])
        print(f"{name:38s}{medians[side]:20,.0f}{first:16.1f}")
    print(f"ratio: {medians['ours'] / medians['trainer']:.2f} times the Trainer's tokens per second")


if __name__ == "__main__":
    main()
