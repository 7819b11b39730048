"""A very small training, real in all but size: what the faults of this folder are done to."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from preceptor.core.config import decode
from preceptor.core.errors import PreceptorError
from preceptor.core.interrupt import grace
from preceptor.core.progress import say
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.objectives.batch import Batches, LossSum
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import load_run
from preceptor.train.run import TrainingConfig
from preceptor.train.session import checkpoints_of, no_cost, train_model

ROW, ROWS_PER_STEP = 16, 4
SETTINGS = {
    "context_length": ROW,
    "batch_tokens": ROWS_PER_STEP * ROW,
    "micro_batch_tokens": 2 * ROW,
    "validation_every_steps": 10,
    "validation_tokens": 2 * ROW,
    "checkpoint_every_steps": 4,
    "schedule": {"warmup_steps": 2},
    "averaging": {"kind": "ema"},
    "tracking": {"loggers": []},
}
MODEL = DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=ROW,
    dropout=0.1,
)
WEIGHTS, ORDER, METRICS, CHECKPOINTS = "final.safetensors", "order.jsonl", "metrics.jsonl", "checkpoints"


class Rows:
    """Rows of small documents. It notes which rows each step reads, and stops its process where the test wants that."""

    def __init__(self, notes: Path, stop_at: Sequence[int] = ()) -> None:
        generator = np.random.default_rng(0)
        lengths = generator.integers(2, 20, 40)
        self.tokens = generator.integers(1, 40, lengths.sum()).astype(np.uint32)
        self.supervised = generator.random(self.tokens.size) < 0.7
        self.plan = plan_rows(np.cumsum([0, *lengths]).astype(np.int64), ROW)
        self.num_rows = self.plan.num_rows
        self.order, self.stop_at = notes / ORDER, stop_at

    def collate(self, rows: Sequence[int], samples: range | None = None) -> Any:
        if samples is not None:
            with self.order.open("a", encoding="utf-8") as file:
                file.write(json.dumps([samples.start, list(map(int, rows))]) + "\n")
            step, place = divmod(samples.start, ROWS_PER_STEP)
            if place == 0 and step + 1 in self.stop_at:
                os.kill(os.getpid(), signal.SIGSTOP)
        return collate_rows(self.plan, rows, self.tokens, 0, self.supervised)

    def loss(self, model: Any, batch: Any) -> LossSum:
        return LossSum(*model.loss_sum(batch.inputs, batch.labels_BT))


def train(folder: Path, notes: Path, *, num_steps: int, settings: dict[str, Any], stop_at: Sequence[int]) -> None:
    """Train in a folder from its newest checkpoint to the last step; the weights go to the folder of notes."""
    config = decode(TrainingConfig, {**SETTINGS, **settings})
    rows = Rows(notes, stop_at)
    model = build(MODEL, torch.Generator().manual_seed(0))
    with grace() as stop, stop.within(config.grace_seconds):
        train_model(
            config=config,
            model=model,
            batches=Batches(rows, 7, ROWS_PER_STEP, ROWS_PER_STEP // 2),
            validation=rows,
            num_steps=num_steps,
            checkpoints=checkpoints_of(config, folder / CHECKPOINTS, "key"),
            metrics=folder / METRICS,
            stop=stop,
            read_cost=no_cost,
            label="train",
        )
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, notes / WEIGHTS)


def make(folder: Path, recipe: str, stage: str, overrides: Sequence[str]) -> None:
    """Make one artifact of a run in its folder, in this process alone."""
    run = load_run(recipe, [*overrides, 'execution.kind="in-process"', 'footprint.method="clock"'])
    with grace() as stop:
        getattr(Pipeline(run, folder, stop), stage)()


def run(
    folder: Path,
    notes: Path,
    num_steps: int = 20,
    settings: dict[str, Any] | None = None,
    stop_at: Sequence[int] = (),
    recipe: str = "",
    stage: str = "",
    overrides: Sequence[str] = (),
) -> int:
    """The exit code of a training or of another stage, as of a command; errors are told in its words."""
    try:
        if recipe:
            make(folder, recipe, stage, overrides)
        else:
            train(folder, notes, num_steps=num_steps, settings=settings or {}, stop_at=stop_at)
    except PreceptorError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0
