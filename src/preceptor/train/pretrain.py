"""Pre-training: from starting weights and a stream of tokens to a checkpoint."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from preceptor.core.artifact import Draft
from preceptor.core.errors import ConfigError, output_errors
from preceptor.core.progress import say
from preceptor.core.seeds import KeyedPermutation, derive
from preceptor.data.mixture import Blending
from preceptor.models.config import ModelConfig
from preceptor.models.growth import with_output_layer
from preceptor.models.initialisation import growth_of, learning_rate_scales
from preceptor.models.interchange import architecture_of, load_model, save_model
from preceptor.models.language_model import LanguageModel
from preceptor.models.word_vectors import start_from
from preceptor.objectives.batch import Batches, Objective
from preceptor.objectives.choice import objective_for
from preceptor.objectives.noise import InputNoise
from preceptor.objectives.spans import SpanObjective
from preceptor.parallel.engine import Engine
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.activations import saving_activations
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.averaging import WeightAverage
from preceptor.train.blend import Order, pretraining_order
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.events import EventLog
from preceptor.train.length import joules_of, length_of
from preceptor.train.loop import fit
from preceptor.train.optim import Optimizer, freeze
from preceptor.train.placement import prepared, rows_that_fit
from preceptor.train.run import PretrainingConfig, TrainingConfig, require_context
from preceptor.train.state import StopRequest, TrainState, Validation
from preceptor.train.watch import watch


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training stage leaves beside its files."""

    state: TrainState
    facts: dict[str, Any]
    resumed_cost: Mapping[str, Any]
    """The cost of earlier sessions of this run, as their last checkpoint recorded it."""


def no_cost() -> dict[str, Any]:
    """The cost of a run that nobody measures."""
    return {}


def pretrain(
    *,
    model_config: ModelConfig,
    config: PretrainingConfig,
    train: TokenStream,
    validation: TokenStream,
    tokenizer: Tokenizer,
    draft: Draft,
    checkpoints: Path,
    run_key: str,
    seed: int,
    metrics: Path,
    stop: StopRequest,
    read_cost: Callable[[], Mapping[str, Any]] = no_cost,
    blending: Blending,
    base: Path | None = None,
) -> TrainingResult:
    """The result of training a model, whose files are then in ``draft``; goes on from the newest checkpoint.

    It starts from random weights, or from those of the model in the folder ``base``, which then is of
    ``model_config``.

    Raises:
        ConfigError: the context is longer than the model's, the streams have too little text, or a file of word
            vectors is missing.
        DataError: no word vector can be used.
        Interrupted: a stop was requested; a checkpoint was saved first.
        TrainingError: the loss was not finite several times in a row.
    """
    keep_freed_memory()
    model_config = resolve_model(model_config, config, tokenizer)
    model, started = starting_model(model_config, config, train, tokenizer, seed, base)
    order = pretraining_order(train, config, tokenizer, seed, blending, model_config)
    check = objective_for(
        config.objective, validation, config.context_length, tokenizer, derive(seed, "validation"), model_config
    )
    freeze(model, config.optimizer)
    result = train_model(
        config=config,
        model=model,
        batches=with_noise(order.batches, config, tokenizer),
        validation=check,
        num_steps=order.num_steps,
        checkpoints=checkpoints_of(config, checkpoints, run_key),
        metrics=metrics,
        stop=stop,
        read_cost=read_cost,
        label="pretrain",
    )
    save_model(model, draft.path, tokenizer.end_of_text_id)
    tokenizer.save(draft.path)
    save_curve(result.state, draft.path)
    return replace(result, facts=result.facts | started | _counts(model, order))


def _counts(model: LanguageModel, order: Order) -> dict[str, Any]:
    """How large the model is, and what of the data it was given."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    objective = order.objective
    # A row of hidden spans stands for more text than it has places.
    fill = objective.row_fill if isinstance(objective, SpanObjective) else objective.plan.fill
    return {
        "num_parameters": num_parameters,
        "num_parameters_without_embedding": num_parameters - model.input_embedding.weight.numel(),
        "row_fill": round(fill, 4),
        "sources": order.sources,
    }


def starting_model(
    model_config: ModelConfig,
    config: PretrainingConfig,
    train: TokenStream,
    tokenizer: Tokenizer,
    seed: int,
    base: Path | None,
) -> tuple[LanguageModel, dict[str, Any]]:
    """The model with its first weights, which are drawn from the seed or those of the base; and what is to be known."""
    generator = torch.Generator().manual_seed(derive(seed, "weights"))
    if base is None:
        model = architecture_of(model_config).family.build(model_config, generator)
    else:
        model = load_model(base).train()
        if not getattr(model_config, "lm_head", True):
            say("base: it has no layer that says tokens; one is added that shares the embedding's weights")
            model = with_output_layer(model, tied=True, generator=generator)
    if not config.word_vectors.path:
        return model, {}
    counts = train.token_counts(tokenizer.vocab_size)
    drawn = torch.Generator().manual_seed(derive(seed, "word vectors"))
    coverage = start_from(model, tokenizer, config.word_vectors, drawn, dict(enumerate(counts.tolist())))
    say(f"word vectors: {coverage.sentence()}")
    return model, {"word_vectors": coverage.to_json()}


def with_noise(batches: Batches, config: PretrainingConfig, tokenizer: Tokenizer) -> Batches:
    """The batches with the noise that the settings ask for, if they ask for any."""
    if not config.noise.is_on:
        return batches
    noise = InputNoise(config.noise, batches.seed, tokenizer.vocab_size, tokenizer.end_of_text_id)
    return replace(batches, noise=noise)


def resolve_model(model_config: ModelConfig, config: TrainingConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model's configuration with the tokenizer's vocabulary.

    Raises:
        ConfigError: the vocabulary or the context do not fit.
    """
    if model_config.vocab_size == 0:
        model_config = replace(model_config, vocab_size=tokenizer.vocab_size)
    if model_config.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {model_config.vocab_size}, smaller than the tokenizer's {tokenizer.vocab_size}",
            path="model.vocab_size",
            remedy="set it to 0, which takes the tokenizer's size",
        )
    require_context(model_config, config.context_length)
    return model_config


def train_model(
    *,
    config: TrainingConfig,
    model: LanguageModel,
    batches: Batches,
    validation: Objective,
    num_steps: int,
    checkpoints: Checkpoints,
    metrics: Path,
    stop: StopRequest,
    read_cost: Callable[[], Mapping[str, Any]],
    label: str,
) -> TrainingResult:
    """The result of training a built model to its end, from its newest checkpoint where there is one."""
    engine = prepared(model, config, num_steps)
    scales = width_scales(engine, config)
    optimizer = Optimizer(engine.parameters, config.optimizer, scales, config.memory, checkpoints.folder)
    average = WeightAverage(config.averaging, engine.parameters)
    state = checkpoints.resume(engine, optimizer, average)
    resumed_cost = state.cost
    if state.step:
        say(f"{label}: going on from step {state.step} of {num_steps}")
    rows = validation_rows(validation, config, batches.seed)

    def validate() -> Validation:
        width = state.rows_per_microbatch or batches.rows_per_microbatch
        chunks = (validation.collate(rows[start : start + width]) for start in range(0, len(rows), width))
        total, correct, tokens = engine.evaluate(validation, chunks)
        return Validation(total / max(1, tokens), correct / max(1, tokens))

    def save(state: TrainState) -> None:
        state.cost = read_cost()
        checkpoints.save(engine, optimizer, state, average)

    length = length_of(config, num_steps, lambda: joules_of(read_cost()) + joules_of(resumed_cost))
    with (
        saving_activations(engine.model, config.memory, checkpoints.folder),
        watch(label, config, engine, batches, state, length, metrics, read_cost) as hooks,
    ):
        if not config.micro_batch_tokens and not state.rows_per_microbatch:
            state.rows_per_microbatch = rows_that_fit(engine, batches)
        try:
            state = fit(
                config,
                engine,
                optimizer,
                batches,
                state,
                length=length,
                validate=validate,
                save=save,
                keep_best=lambda state: checkpoints.keep_best(engine, state.best_step),
                go_back=lambda: checkpoints.go_back(engine, optimizer, average),
                average=average,
                hooks=hooks,
                tell=EventLog(metrics.with_name(f"{metrics.stem}-events.jsonl"), label),
                stop=stop,
            )
        finally:
            checkpoints.finish()
    facts = _facts(state, batches)
    if config.early_stopping.patience:
        facts |= _best(state, checkpoints, engine, num_steps, label)
    return TrainingResult(state=state, facts=facts, resumed_cost=resumed_cost)


def width_scales(engine: Engine, config: TrainingConfig) -> dict[str, float]:
    """What the learning rate of each weight is multiplied by, for the width of the model.

    Raises:
        ConfigError: the optimizer's updates follow the size of gradients, for which these scales are not.
    """
    if config.optimizer.kind == "sgd" and growth_of(engine.model.config) != 1:
        raise ConfigError(
            "model.width_base carries over learning rates of optimizers that do not follow the size of gradients",
            path="pretraining.optimizer.kind",
            remedy="choose another optimizer than sgd, or leave out model.width_base",
        )
    return learning_rate_scales(engine.model, "muon" if config.optimizer.kind == "muon" else "adamw")


def checkpoints_of(config: TrainingConfig, folder: Path, key: str) -> Checkpoints:
    """The checkpoints of a run in a folder, as its settings want them."""
    return Checkpoints(
        folder,
        key,
        config.keep_checkpoints,
        keep_every_steps=config.keep_checkpoint_every_steps,
        in_background=config.checkpoints_in_background,
    )


def _facts(state: TrainState, batches: Batches) -> dict[str, Any]:
    """What is to be known of a training run."""
    last = state.curve[-1]
    optional = {"untrained_steps": state.untrained, "gradients": state.health}
    return {name: value for name, value in optional.items() if value} | {
        "num_steps": state.step,
        "num_tokens": state.tokens,
        "num_epochs": round(batches.epochs(state.step), 3),
        "final_loss": last["loss"],
        "validation_loss": last["validation_loss"],
        "skipped_steps": sum(1 for record in state.curve if record.get("skipped")),
    }


def _best(state: TrainState, checkpoints: Checkpoints, engine: Engine, num_steps: int, label: str) -> dict[str, Any]:
    """The best validation, whose weights are then those of the model."""
    if state.step < num_steps:
        say(f"{label}: stopped at step {state.step} of {num_steps}, as validation was best at step {state.best_step}")
    if state.best_step == state.step or not checkpoints.restore_best(engine, state.best_step):
        return {"best_step": state.best_step, "weights_of_step": state.step}
    best = next(record for record in state.curve if record["step"] == state.best_step)
    return {
        "best_step": state.best_step,
        "weights_of_step": state.best_step,
        "validation_loss": best["validation_loss"],
    }


def validation_rows(validation: Objective, config: TrainingConfig, seed: int) -> list[int]:
    """The rows on which the validation loss is taken: always the same ones, drawn once."""
    wanted = max(1, config.validation_tokens // config.context_length)
    order = KeyedPermutation(validation.num_rows, derive(seed, "validation"))
    return [order(place) for place in range(min(wanted, validation.num_rows))]


def save_curve(state: TrainState, folder: Path) -> None:
    """Write curve.json: one record per step."""
    with output_errors(folder):
        (folder / "curve.json").write_text(json.dumps(state.curve) + "\n", encoding="utf-8")
