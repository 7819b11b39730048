"""The order of a pre-training run's rows, and how much of each source it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from preceptor.core.errors import ConfigError
from preceptor.core.seeds import derive
from preceptor.core.units import Duration
from preceptor.data.mixture import Blending, Ingredient, Mixture, shares
from preceptor.models.config import ModelConfig
from preceptor.objectives.batch import Batches, Blend, Objective
from preceptor.objectives.causal import CausalObjective
from preceptor.objectives.choice import StreamObjective, objective_for
from preceptor.objectives.masked import MaskedObjective
from preceptor.objectives.permutation import PermutationObjective
from preceptor.objectives.warmup import RowLengths, StepSizes
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.run import PretrainingConfig, TrainingConfig
from preceptor.train.warmup_config import require_cuttable


@dataclass(frozen=True, slots=True)
class Order:
    """The rows of a run in the order in which they are trained on."""

    objective: StreamObjective
    batches: Batches
    num_steps: int
    sources: dict[str, dict[str, float]]
    """For each source by name: documents, tokens, its share of the rows drawn, and how often it is seen in epochs."""


def pretraining_order(
    stream: TokenStream,
    config: PretrainingConfig,
    tokenizer: Tokenizer,
    seed: int,
    blending: Blending,
    model_config: ModelConfig,
) -> Order:
    """The order that a run of these settings follows: a function of them alone.

    Raises:
        DataError: the sources cannot give so many rows under their caps.
        ConfigError: the objective does not fit the model, the tokenizer, the blend or rows that are cut.
    """
    require_cuttable(config.objective.kind, config.context_warmup)
    seed = derive(seed, "pretraining")
    objective = objective_for(
        config.objective,
        stream,
        config.context_length,
        tokenizer,
        seed,
        model_config,
        by_source=blending.is_by_source,
    )
    batches = make_batches(objective, config, seed)
    num_steps = count_steps(config, batches, objective.plan.fill)
    if not blending.is_by_source:
        sizes = {name: tokens / max(1, stream.num_tokens) for name, (_, tokens) in _counts(stream).items()}
        epochs = dict.fromkeys(sizes, batches.epochs(num_steps))
        return Order(objective, batches, num_steps, _contributions(stream, sizes, epochs))
    if Duration.parse(config.duration).is_budget and any(cap for _, cap in blending.sources.values()):
        raise ConfigError(
            f"a source has max_epochs, which nobody can keep to in a run of {config.duration}",
            path="pretraining.duration",
            remedy="give steps, tokens or epochs, or leave out max_epochs",
        )
    assert isinstance(objective, CausalObjective | MaskedObjective | PermutationObjective)
    ranges = objective.source_ranges()
    ingredients = [
        Ingredient(name, count, *blending.sources.get(name, (1.0, 0.0)))
        for name, (_, count) in zip(stream.collections, ranges, strict=True)
    ]
    num_rows = batches.sizes.first(num_steps)
    parts = shares(blending.config, ingredients, num_rows)
    blend = Blend(Mixture(parts, derive(batches.seed, "mixture")), ranges)
    epochs_of = {
        each.name: part * num_rows / each.num_samples if each.num_samples else 0.0
        for each, part in zip(ingredients, parts, strict=True)
    }
    contributions = _contributions(stream, dict(zip(stream.collections, parts, strict=True)), epochs_of)
    return Order(objective, replace(batches, blend=blend), num_steps, contributions)


def _contributions(
    stream: TokenStream, parts: Mapping[str, float], epochs: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    return {
        name: {
            "documents": documents,
            "tokens": tokens,
            "share": round(parts[name], 6),
            "epochs": round(epochs[name], 4),
        }
        for name, (documents, tokens) in _counts(stream).items()
    }


def _counts(stream: TokenStream) -> dict[str, tuple[int, int]]:
    """Documents and tokens of each source by name."""
    num_sources = len(stream.collections)
    documents = np.bincount(stream.sources, minlength=num_sources)
    # In floating point, in which NumPy adds weights, counts are exact up to 2**53.
    tokens = np.bincount(stream.sources, weights=np.diff(stream.offsets), minlength=num_sources)
    return {name: (int(documents[source]), int(tokens[source])) for source, name in enumerate(stream.collections)}


def make_batches(objective: Objective, config: TrainingConfig, seed: int) -> Batches:
    """The batches of a training stage."""
    batches = Batches(
        objective,
        seed,
        rows_per_step=config.batch_tokens // config.context_length,
        rows_per_microbatch=min(config.micro_batch_tokens or config.batch_tokens, config.batch_tokens)
        // config.context_length,
    )
    if not isinstance(config, PretrainingConfig):
        return batches
    first, shorter = config.batch_warmup, config.context_warmup
    start = max(1, first.start_tokens // config.context_length)
    growth = StepSizes(batches.rows_per_step, start, first.steps, first.kind)
    lengths = RowLengths(config.context_length, shorter.start_length, shorter.steps)
    return replace(
        batches,
        growth=None if growth.is_constant else growth,
        row_lengths=lengths if shorter.steps else None,
        scales_rate=first.scale_learning_rate,
    )


def count_steps(config: TrainingConfig, batches: Batches, fill: float) -> int:
    """How many steps the configured duration takes; of a budget, which no count of steps tells, one epoch is taken."""
    duration, sizes = Duration.parse(config.duration), batches.sizes
    if duration.is_budget:
        duration = Duration("epochs", 1)
    epoch_rows = batches.objective.num_rows
    if sizes.is_constant or duration.kind == "steps":
        return duration.num_steps(
            step_tokens=config.batch_tokens * fill, step_rows=batches.rows_per_step, epoch_rows=epoch_rows
        )
    rows = duration.num_steps(step_tokens=config.context_length * fill, step_rows=1, epoch_rows=epoch_rows)
    return sizes.steps_for(rows)
