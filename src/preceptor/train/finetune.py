"""Fine-tuning: a base model learns a task from examples, with an adapter beside frozen weights or as a whole."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from preceptor.adapters.adapter import trainable
from preceptor.adapters.attach import adapt, virtual_ids
from preceptor.adapters.quantised import quantise, weight_bytes
from preceptor.core.artifact import Draft
from preceptor.core.errors import ConfigError, DataError, output_errors
from preceptor.core.seeds import derive
from preceptor.data.example_types import ExampleSet, PreferenceExample, Task
from preceptor.models.heads import HeadConfig, attach_head
from preceptor.models.interchange import load_model
from preceptor.models.language_model import LanguageModel
from preceptor.objectives.batch import Objective
from preceptor.objectives.classify import ClassifyObjective
from preceptor.objectives.distil import distil_objective
from preceptor.objectives.instruct import InstructObjective
from preceptor.objectives.pairs import PairObjective
from preceptor.objectives.preference import preference_objective
from preceptor.objectives.task import HEAD, Prepared, TaskObjective, head_of, prepare
from preceptor.objectives.task_config import require_task
from preceptor.parallel.mesh import ALONE, Mesh
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import count_steps, make_batches
from preceptor.train.consolidated import Trained
from preceptor.train.optim import freeze
from preceptor.train.pretrain import resolve_model
from preceptor.train.run import FinetuningConfig
from preceptor.train.session import TrainingResult, checkpoints_of, no_cost, save_curve, train_model
from preceptor.train.state import StopRequest
from preceptor.train.validation_sets import finetuning_sets

TASK_FILE = "task.json"
_PRODUCTS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8": torch.bfloat16,
}
"""In which numbers a reference is read: those of the training."""


@dataclass(frozen=True, slots=True)
class ProbabilityTeacher:
    """A model whose probabilities are learned, loaded when they are first wanted."""

    load: Callable[[], LanguageModel]
    tokenizer: Tokenizer
    key: str
    """What tells it from other models."""


@dataclass(frozen=True, slots=True)
class Learner:
    """A base model made ready to learn a task."""

    model: LanguageModel
    task: Task
    head: HeadConfig | None
    tokenizer: Tokenizer
    config: FinetuningConfig
    base: Path

    def learn(self, examples: ExampleSet) -> Prepared:
        """Examples as the model learns from them: as it reads them, with the loss that the settings ask for.

        Raises:
            DataError: as ``read``.
        """
        prepared = self.read(examples)
        if not isinstance(prepared.objective, ClassifyObjective):
            return prepared
        assert self.head is not None
        weights, smoothing = self.config.class_weights, self.config.label_smoothing
        return replace(prepared, objective=prepared.objective.learned_by(weights, smoothing, len(self.head.labels)))

    def read(self, examples: ExampleSet) -> Prepared:
        """Examples as the model reads them.

        Raises:
            DataError: they are of another task, or leave nothing to predict.
        """
        if examples.task != self.task:
            raise DataError(
                f"examples of the task {examples.task!r} cannot measure a model that learns {self.task!r}",
                remedy="name examples of the same shape as those that are trained on",
            )
        prefix_ids, context_length = virtual_ids(self.model), self.config.context_length
        if self.task == "prefer":
            pairs = [each for each in examples.examples if isinstance(each, PreferenceExample)]
            # The base as it was is a model of its own only while it is asked, once.
            reference, preference = _base_model(self.base, self.config), self.config.preference
            objective = preference_objective(
                pairs,
                self.tokenizer,
                context_length,
                preference,
                reference,
                prefix_ids=prefix_ids,
                dtype=_PRODUCTS[self.config.precision.kind],
            )
            return Prepared(objective, range(objective.num_examples + objective.num_too_long))
        return prepare(examples, self.head, self.tokenizer, self.model.config, context_length, prefix_ids)


def make_learner(
    base: Path, config: FinetuningConfig, examples: ExampleSet, tokenizer: Tokenizer, seed: int
) -> Learner:
    """The base model of a folder with the head and the adapter that a task and the settings ask for.

    Raises:
        ConfigError: the task or the adapter is not for models of this family, or a target names no layer.
    """
    model = _base_model(base, config).train()
    resolve_model(model.config, config, tokenizer)
    require_task(examples.task, model.config.family)
    _require_classes(config, examples.task)
    head = head_of(examples, getattr(model.config, "dropout", 0.0))
    if head is not None:
        attach_head(model, HEAD, head, torch.Generator().manual_seed(derive(seed, "head")))
    generator = torch.Generator().manual_seed(derive(seed, "adapter"))
    adapt(model, config.adapter, generator, start_ids=_start_ids(config, examples, tokenizer))
    freeze(model, config.optimizer)
    if model.num_prefix_tokens and config.context_length > model.longest_document:
        raise ConfigError(
            f"finetuning.context_length is {config.context_length}, and with a prefix of {model.num_prefix_tokens} the "
            f"model has positions for {model.longest_document} tokens",
            path="finetuning.context_length",
            remedy=f"set finetuning.context_length to {model.longest_document} or less, or num_virtual_tokens lower",
        )
    return Learner(model, examples.task, head, tokenizer, config, base)


def _require_classes(config: FinetuningConfig, task: Task) -> None:
    """Refuse settings of the loss of classes where no class is learned."""
    for name, is_set in (
        ("class_weights", config.class_weights != "none"),
        ("label_smoothing", config.label_smoothing),
    ):
        if is_set and task != "classify":
            raise ConfigError(
                f"finetuning.{name} is for the task 'classify', and the examples are for the task {task!r}",
                path=f"finetuning.{name}",
                remedy=f"leave finetuning.{name} out",
            )


def _base_model(base: Path, config: FinetuningConfig) -> LanguageModel:
    """The base in the numbers in which it is kept while something beside it trains."""
    model = load_model(base)
    return model if config.quantise == "none" else quantise(model)


def _start_ids(config: FinetuningConfig, examples: ExampleSet, tokenizer: Tokenizer) -> list[int] | None:
    """The tokens that a prompt starts from."""
    adapter = config.adapter
    if adapter.kind != "prompt" or adapter.prompt_start == "random":
        return None
    return tokenizer.encode(adapter.prompt_text if adapter.prompt_start == "text" else " ".join(examples.labels))


def finetune(
    *,
    base: Path,
    base_id: str,
    config: FinetuningConfig,
    train: ExampleSet,
    held_out: ExampleSet,
    tokenizer: Tokenizer,
    draft: Draft | None,
    checkpoints: Path,
    run_key: str,
    seed: int,
    metrics: Path,
    stop: StopRequest,
    read_cost: Callable[[], Mapping[str, Any]] = no_cost,
    teacher: ProbabilityTeacher | None = None,
    mesh: Mesh = ALONE,
) -> TrainingResult:
    """The result of learning a task, whose files are then in ``draft``; goes on from the newest checkpoint.

    Of a mesh only the first process needs a draft.

    Raises:
        DataError: no example, or none of a validation set, leaves anything to learn from.
        ConfigError: the task or a target is not for this model, or training is to stop by what is not measured.
        Interrupted: a stop was requested; a checkpoint was saved first.
    """
    keep_freed_memory()
    learner = make_learner(base, config, train, tokenizer, seed)
    prepared, check = learner.learn(train), learner.read(held_out)
    objective: Objective = prepared.objective
    if teacher is not None:
        # What the teacher thinks is written once, and read by all.
        with mesh.team.first_goes_ahead("teacher", stop.check):
            objective = _taught(prepared.objective, teacher, config, tokenizer, checkpoints / "teacher")
    batches = make_batches(objective, config, derive(seed, "finetuning"))
    result = train_model(
        config=config,
        model=learner.model,
        batches=batches,
        validation=check.objective,
        num_steps=count_steps(config, batches, prepared.objective.plan.fill),
        checkpoints=checkpoints_of(config, checkpoints, run_key),
        metrics=metrics,
        stop=stop,
        read_cost=read_cost,
        label="finetune",
        sets=finetuning_sets(config, train.task, learner.read, seed),
        mesh=mesh,
    )
    _save(result.trained, tokenizer, config, draft.path if draft else None, base_id)
    if draft is not None:
        _save_task(train, config, draft.path)
        save_curve(result.state, draft.path)
    return replace(result, facts=result.facts | _facts(result.trained.model, train, prepared, check))


def _taught(
    objective: TaskObjective, teacher: ProbabilityTeacher, config: FinetuningConfig, tokenizer: Tokenizer, folder: Path
) -> Objective:
    """The objective, which also learns the probabilities of a teacher; they are kept in a folder."""
    if not isinstance(objective, InstructObjective | PairObjective):
        raise ConfigError(
            "a teacher's probabilities are learned where the model writes, and this task has labels",
            path="finetuning.distil.teacher",
            remedy="leave finetuning.distil.teacher out, or choose a task whose answers are text",
        )
    return distil_objective(
        objective,
        tokenizer,
        teacher.load,
        teacher.tokenizer,
        config.distil,
        folder,
        teacher_key=teacher.key,
        context_length=config.context_length,
    )


def _save(trained: Trained, tokenizer: Tokenizer, config: FinetuningConfig, folder: Path | None, base_id: str) -> None:
    """Write the adapter, or the whole model where all of it was trained."""
    if config.adapter.kind != "full":
        trained.save_adapter(config.adapter, folder, base_id)
        return
    trained.save_model(folder, tokenizer.end_of_text_id)
    if folder is not None:
        tokenizer.save(folder)


def _save_task(examples: ExampleSet, config: FinetuningConfig, folder: Path) -> None:
    table: dict[str, Any] = {"task": examples.task, "labels": list(examples.labels)}
    table |= {"multi_label": examples.multi_label, "context_length": config.context_length, "quantise": config.quantise}
    with output_errors(folder):
        (folder / TASK_FILE).write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _facts(model: LanguageModel, train: ExampleSet, prepared: Prepared, check: Prepared) -> dict[str, Any]:
    """What is to be known of the examples and of what was trained."""
    num_trainable, num_all = trainable(model)
    objective = prepared.objective
    facts = {
        "task": train.task,
        "num_trainable_parameters": num_trainable,
        "num_parameters": num_all,
        "base_bytes": weight_bytes(model) - sum(each.nbytes for each in model.parameters() if each.requires_grad),
        "num_examples": len(set(prepared.owners)) - objective.num_too_long,
        "num_examples_too_long": objective.num_too_long,
        "num_examples_cut": prepared.num_cut,
        "num_examples_rejected": len(train.rejected),
        "num_held_out_examples": len(set(check.owners)) - check.objective.num_too_long,
        "labels": list(train.labels),
    }
    if isinstance(objective, ClassifyObjective) and objective.class_weights is not None:
        facts["class_weights"] = [round(weight, 4) for weight in objective.class_weights.tolist()]
    if hasattr(objective, "num_supervised_tokens"):
        facts["num_supervised_tokens"] = objective.num_supervised_tokens
    return facts
