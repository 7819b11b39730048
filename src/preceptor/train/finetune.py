"""Fine-tuning: a LoRA adapter trained on questions and answers over a frozen base model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from preceptor.adapters.adapter import trainable
from preceptor.adapters.low_rank import LowRankConfig, attach, save_adapter
from preceptor.core.artifact import Draft
from preceptor.core.seeds import derive
from preceptor.data.examples import Example
from preceptor.models.interchange import load_decoder
from preceptor.objectives.instruct import InstructObjective
from preceptor.parallel.engine import place
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import count_steps, make_batches
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.loop import StopRequest
from preceptor.train.pretrain import (
    TrainingResult,
    no_cost,
    resolve_model,
    save_curve,
    train_model,
)
from preceptor.train.run import OptimizerConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningConfig(TrainingConfig):
    """How a base model learns to answer."""

    examples: str = "python-docs"
    """Where the questions and answers are: "python-docs", a JSON or JSONL file, or "" for no fine-tuning."""
    held_out_fraction: float = 0.1
    """The share of examples, by group, that is kept for the evaluation."""
    adapter: LowRankConfig = field(default_factory=LowRankConfig)
    """The adapter that is trained."""
    duration: str = "2 epochs"
    """How long to train: a number of steps, tokens or epochs."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(kind="adamw", learning_rate=2e-3, weight_decay=0.0)
    )
    """How gradients become updates."""

    def __post_init__(self) -> None:
        """Refuse a split that leaves one side empty."""
        # A dataclass with slots is made anew, so that super() without arguments would name the wrong class.
        TrainingConfig.__post_init__(self)
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must be between 0 and 1, got {self.held_out_fraction}")


def finetune(
    *,
    base: Path,
    base_id: str,
    config: FinetuningConfig,
    train: Sequence[Example],
    held_out: Sequence[Example],
    tokenizer: Tokenizer,
    draft: Draft,
    checkpoints: Path,
    run_key: str,
    seed: int,
    metrics: Path,
    stop: StopRequest,
    read_cost: Callable[[], Mapping[str, Any]] = no_cost,
) -> TrainingResult:
    """The result of training an adapter, whose files are then in ``draft``; goes on from the newest checkpoint.

    Raises:
        DataError: no example leaves an answer to learn from.
        ConfigError: a target names no layer of the model.
        Interrupted: a stop was requested; a checkpoint was saved first.
    """
    keep_freed_memory()
    model = load_decoder(base)
    resolve_model(model.config, config, tokenizer)
    attach(model, config.adapter, torch.Generator().manual_seed(derive(seed, "adapter")))
    objective = InstructObjective(train, tokenizer, config.context_length)
    check = InstructObjective(held_out, tokenizer, config.context_length)
    batches = make_batches(objective, config, derive(seed, "finetuning"))
    result = train_model(
        config=config,
        engine=place(model),
        batches=batches,
        validation=check,
        num_steps=count_steps(config, batches, objective.plan.fill),
        checkpoints=Checkpoints(checkpoints, run_key, config.keep_checkpoints),
        metrics=metrics,
        stop=stop,
        read_cost=read_cost,
        label="finetune",
    )
    save_adapter(model, config.adapter, draft.path, base_id)
    save_curve(result.state, draft.path)
    num_trainable, num_all = trainable(model)
    facts = result.facts | {
        "num_trainable_parameters": num_trainable,
        "num_parameters": num_all,
        "num_examples": objective.num_examples,
        "num_examples_too_long": objective.num_too_long,
        "num_held_out_examples": check.num_examples,
        "num_supervised_tokens": objective.num_supervised_tokens,
    }
    return replace(result, facts=facts)
