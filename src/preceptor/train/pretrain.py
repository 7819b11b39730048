"""Pre-training: from starting weights and a stream of tokens to a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from preceptor.core.artifact import Draft
from preceptor.core.errors import ConfigError
from preceptor.core.progress import say
from preceptor.core.seeds import derive
from preceptor.data.mixture import Blending
from preceptor.data.sources import Reader
from preceptor.models.config import ModelConfig
from preceptor.models.growth import with_output_layer
from preceptor.models.interchange import architecture_of, load_model
from preceptor.models.language_model import LanguageModel
from preceptor.models.word_vectors import start_from
from preceptor.objectives.batch import Batches
from preceptor.objectives.choice import objective_for
from preceptor.objectives.noise import InputNoise
from preceptor.objectives.spans import SpanObjective
from preceptor.parallel.mesh import ALONE, Mesh
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import Order, pretraining_order
from preceptor.train.optim import freeze
from preceptor.train.run import PretrainingConfig, TrainingConfig, require_context
from preceptor.train.session import TrainingResult, checkpoints_of, no_cost, save_curve, train_model
from preceptor.train.state import StopRequest
from preceptor.train.validation_sets import pretraining_sets

_READER = Reader(detect_licences=False)


def pretrain(
    *,
    model_config: ModelConfig,
    config: PretrainingConfig,
    train: TokenStream,
    validation: TokenStream,
    tokenizer: Tokenizer,
    draft: Draft | None,
    checkpoints: Path,
    run_key: str,
    seed: int,
    metrics: Path,
    stop: StopRequest,
    read_cost: Callable[[], Mapping[str, Any]] = no_cost,
    blending: Blending,
    base: Path | None = None,
    reader: Reader = _READER,
    mesh: Mesh = ALONE,
) -> TrainingResult:
    """The result of training a model, whose files are then in ``draft``; goes on from the newest checkpoint.

    It starts from random weights, or from those of the model in the folder ``base``, which then is of
    ``model_config``. ``reader`` reads the validation sets. Of a mesh only the first process needs a draft.

    Raises:
        ConfigError: the context is longer than the model's, the streams have too little text, a file of word vectors
            is missing, or training is to stop by what is not measured.
        DataError: no word vector can be used, or a validation set cannot be read.
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
        sets=pretraining_sets(config, train, validation, tokenizer, seed, model_config, reader),
        mesh=mesh,
    )
    result.trained.save_model(draft.path if draft else None, tokenizer.end_of_text_id)
    if draft is not None:
        tokenizer.save(draft.path)
        save_curve(result.state, draft.path)
    return replace(result, facts=result.facts | started | _counts(result.trained.model, order))


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
