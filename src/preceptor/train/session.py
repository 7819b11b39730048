"""One session of training: a built model, from its newest checkpoint to its end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.adapters.low_rank_targets import adapter_rate_scales
from preceptor.core.errors import ConfigError, Interrupted, output_errors
from preceptor.core.progress import say
from preceptor.core.seeds import derive
from preceptor.models.initialisation import growth_of, learning_rate_scales
from preceptor.models.language_model import LanguageModel
from preceptor.objectives.batch import Batches, Objective
from preceptor.parallel.engine import Engine
from preceptor.parallel.mesh import ALONE, Mesh
from preceptor.train.activations import saving_activations
from preceptor.train.averaging import WeightAverage
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.consolidated import Trained, outlined
from preceptor.train.disk_room import checkpoint_bytes, require_room
from preceptor.train.events import EventLog
from preceptor.train.length import agreed, joules_of, length_of
from preceptor.train.loop import fit
from preceptor.train.optim import Optimizer
from preceptor.train.placement import prepared, rows_that_fit, too_few_rows
from preceptor.train.run import FinetuningConfig, TrainingConfig
from preceptor.train.state import StopRequest, TrainState, Validation
from preceptor.train.validation_config import MEASURE, require_measures
from preceptor.train.validation_sets import ValidationSet, drawn_rows
from preceptor.train.watch import step_flops_of, watch

_STAGES = {"pretrain": "pretraining", "finetune": "finetuning"}
_NO_SETS: Mapping[str, ValidationSet] = {}


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training stage leaves beside its files."""

    state: TrainState
    facts: dict[str, Any]
    resumed_cost: Mapping[str, Any]
    """The cost of earlier sessions of this run, as their last checkpoint recorded it."""
    trained: Trained
    """The model, to be saved by all processes together."""


def no_cost() -> dict[str, Any]:
    """The cost of a run that nobody measures."""
    return {}


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
    sets: Mapping[str, ValidationSet] = _NO_SETS,
    mesh: Mesh = ALONE,
) -> TrainingResult:
    """The result of training a built model to its end, from its newest checkpoint where there is one.

    At every validation the loss is also taken on each of ``sets``, under its name.

    Raises:
        PreceptorError: training is to stop by what is not measured, or its checkpoints have no room on the disk.
    """
    _require(config, label, sets, batches, mesh, room=(checkpoints.folder, checkpoint_bytes(model, config)))
    # These are of the whole model, of which only a part may be here in a moment.
    scales, flops = width_scales(model, config), step_flops_of(model, batches)
    outline = model if mesh.is_alone else outlined(model)
    engine = prepared(model, config, num_steps, mesh)
    optimizer = Optimizer(engine.parameters, config.optimizer, scales, config.memory, checkpoints.folder)
    average = WeightAverage(config.averaging, engine.parameters)
    state = checkpoints.resume(engine, optimizer, average)
    resumed_cost = state.cost
    if state.step:
        say(f"{label}: going on from step {state.step} of {num_steps}")
    saved = _Saved(engine, optimizer, average, checkpoints, read_cost)
    check = _Check(engine, validation, validation_rows(validation, config, batches.seed), sets)
    joules = agreed(lambda: joules_of(read_cost()) + joules_of(resumed_cost), mesh, state)
    length = length_of(config, num_steps, joules)
    with (
        saving_activations(engine.model, config.memory, checkpoints.folder),
        checkpoints.written(),
        watch(label, config, engine, batches, state, length, metrics, read_cost, flops) as hooks,
    ):
        if not config.micro_batch_tokens and not state.rows_per_microbatch:
            state.rows_per_microbatch = rows_that_fit(engine, batches)
        state = fit(
            *(config, engine, optimizer, batches, state),
            length=length,
            validate=lambda: check(state.rows_per_microbatch or batches.rows_per_microbatch),
            save=saved.save,
            keep_best=saved.keep_best,
            go_back=saved.go_back,
            average=average,
            hooks=hooks,
            tell=EventLog(metrics.with_name(f"{metrics.stem}-events.jsonl"), label, writes=mesh.is_first),
            stop=stop if mesh.is_alone else AgreedStop(stop, engine),
        )
    facts = _facts(state, batches)
    if config.early_stopping.patience:
        facts |= _best(state, checkpoints, engine, num_steps, label)
    return TrainingResult(state=state, facts=facts, resumed_cost=resumed_cost, trained=Trained(outline, engine))


def _require(
    config: TrainingConfig,
    label: str,
    sets: Mapping[str, ValidationSet],
    batches: Batches,
    mesh: Mesh,
    room: tuple[Path, int],
) -> None:
    """Refuse to stop by what is not measured, steps that have not a row for each process, and a disk without room.

    Raises:
        PreceptorError: says what is missing.
    """
    require_measures(_STAGES.get(label, label), config.early_stopping.metric, (), sets)
    rows, shares = batches.sizes.rows(0), mesh.sizes.data
    if rows < shares:
        raise too_few_rows(rows, shares)
    require_room(*room, mesh)


class AgreedStop:
    """A request to stop that all processes take in after the same step."""

    def __init__(self, stop: StopRequest, engine: Engine) -> None:
        self.engine = engine
        engine.wish = lambda: stop.signal or 0

    @property
    def signal(self) -> int | None:
        """The signal by which any of them was asked."""
        return self.engine.asked_to_stop or None

    @property
    def requested(self) -> bool:
        """Whether any of them was asked before the last step ended."""
        return self.signal is not None

    def check(self) -> None:
        """Stop here if one was asked to.

        Raises:
            Interrupted: with the signal.
        """
        if self.signal is not None:
            raise Interrupted(self.signal)


@dataclass(frozen=True, slots=True)
class _Check:
    """What is measured at each validation."""

    engine: Engine
    validation: Objective
    rows: Sequence[int]
    sets: Mapping[str, ValidationSet]

    def __call__(self, width: int) -> Validation:
        found = measured(self.engine, self.validation, self.rows, width)
        losses = {MEASURE + name: measured(self.engine, *each, width).loss for name, each in self.sets.items()}
        return found._replace(others=losses)


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a training saves, and what it goes back to."""

    engine: Engine
    optimizer: Optimizer
    average: WeightAverage
    checkpoints: Checkpoints
    read_cost: Callable[[], Mapping[str, Any]]

    def save(self, state: TrainState) -> None:
        state.cost = self.read_cost()
        self.checkpoints.save(self.engine, self.optimizer, state, self.average)

    def keep_best(self, state: TrainState) -> None:
        self.checkpoints.keep_best(self.engine, state.best_step)

    def go_back(self) -> TrainState | None:
        return self.checkpoints.go_back(self.engine, self.optimizer, self.average)


def measured(engine: Engine, validation: Objective, rows: Sequence[int], width: int) -> Validation:
    """What a model comes to on some rows, so many at a time."""
    dealt = engine.mesh.dealt([rows[start : start + width] for start in range(0, len(rows), width)])
    batches = ((validation.collate(chunk), counts) for chunk, counts in dealt)
    total, correct, tokens = engine.evaluate(validation, batches)
    return Validation(total / max(1, tokens), correct / max(1, tokens))


def width_scales(model: LanguageModel, config: TrainingConfig) -> dict[str, float]:
    """What the learning rate of each weight is multiplied by, for the width of the model and for its adapter.

    Raises:
        ConfigError: the optimizer's updates follow the size of gradients, for which these scales are not.
    """
    if config.optimizer.kind == "sgd" and growth_of(model.config) != 1:
        raise ConfigError(
            "model.width_base carries over learning rates of optimizers that do not follow the size of gradients",
            path="pretraining.optimizer.kind",
            remedy="choose another optimizer than sgd, or leave out model.width_base",
        )
    scales = learning_rate_scales(model, "muon" if config.optimizer.kind == "muon" else "adamw")
    if isinstance(config, FinetuningConfig):
        of_adapter = adapter_rate_scales(model, config.adapter)
        scales = {name: scale * of_adapter.get(name, 1.0) for name, scale in scales.items()}
    return scales


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
    return (
        {name: value for name, value in optional.items() if value}
        | {
            "num_steps": state.step,
            "num_tokens": state.tokens,
            "num_epochs": round(batches.epochs(state.step), 3),
            "final_loss": last["loss"],
            "validation_loss": last["validation_loss"],
            "skipped_steps": sum(1 for record in state.curve if record.get("skipped")),
        }
        | _losses_of_sets(last)
    )


def _losses_of_sets(record: Mapping[str, Any]) -> dict[str, Any]:
    """The losses on the named sets at a step, as a fact; nothing where there are none."""
    losses = {name.removeprefix(MEASURE): loss for name, loss in record.items() if name.startswith(MEASURE)}
    return {"validation_losses": losses} if losses else {}


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
    } | _losses_of_sets(best)


def validation_rows(validation: Objective, config: TrainingConfig, seed: int) -> list[int]:
    """The rows on which the validation loss is taken: always the same ones, drawn once."""
    wanted = config.validation_tokens // config.context_length
    return drawn_rows(validation.num_rows, wanted, derive(seed, "validation"))


def save_curve(state: TrainState, folder: Path) -> None:
    """Write curve.json: one record per step."""
    with output_errors(folder):
        (folder / "curve.json").write_text(json.dumps(state.curve) + "\n", encoding="utf-8")
