"""Fine-tuning: a LoRA adapter trained on questions and answers over a frozen base model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from preceptor.adapters.adapter import trainable
from preceptor.adapters.attach import adapt, save_adapter
from preceptor.core.artifact import Draft
from preceptor.core.seeds import derive
from preceptor.data.examples import Example
from preceptor.models.interchange import load_decoder
from preceptor.objectives.instruct import InstructObjective
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import count_steps, make_batches
from preceptor.train.optim import freeze
from preceptor.train.pretrain import resolve_model
from preceptor.train.run import FinetuningConfig
from preceptor.train.session import TrainingResult, checkpoints_of, no_cost, save_curve, train_model
from preceptor.train.state import StopRequest
from preceptor.train.validation_sets import finetuning_sets


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
        DataError: no example, or none of a validation set, leaves an answer to learn from.
        ConfigError: a target names no layer of the model, or training is to stop by what is not measured.
        Interrupted: a stop was requested; a checkpoint was saved first.
    """
    keep_freed_memory()
    model = load_decoder(base)
    resolve_model(model.config, config, tokenizer)
    adapt(model, config.adapter, torch.Generator().manual_seed(derive(seed, "adapter")))
    freeze(model, config.optimizer)
    objective = InstructObjective(train, tokenizer, config.context_length)
    check = InstructObjective(held_out, tokenizer, config.context_length)
    batches = make_batches(objective, config, derive(seed, "finetuning"))
    result = train_model(
        config=config,
        model=model,
        batches=batches,
        validation=check,
        num_steps=count_steps(config, batches, objective.plan.fill),
        checkpoints=checkpoints_of(config, checkpoints, run_key),
        metrics=metrics,
        stop=stop,
        read_cost=read_cost,
        label="finetune",
        sets=finetuning_sets(config, tokenizer, seed),
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
