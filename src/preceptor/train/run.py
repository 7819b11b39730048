"""What describes a training run: how long, with which optimizer and schedule, and how often to look and to save."""

from dataclasses import dataclass, field
from typing import Literal

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.core.errors import ConfigError
from preceptor.core.units import Duration
from preceptor.data.example_types import Task
from preceptor.data.spdx import require_licence
from preceptor.models.config import ModelConfig
from preceptor.models.word_vectors_config import WordVectorsConfig
from preceptor.objectives.distil_config import DistilConfig
from preceptor.objectives.noise_config import InputNoiseConfig
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.preference_config import PreferenceConfig
from preceptor.train.guard_config import GuardConfig
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim_config import AveragingConfig, EarlyStoppingConfig, OptimizerConfig, ScheduleConfig
from preceptor.train.precision_config import PrecisionConfig
from preceptor.train.tracking_config import TrackingConfig
from preceptor.train.validation_config import ValidationSetConfig, require_distinct
from preceptor.train.warmup_config import BatchWarmupConfig, ContextWarmupConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """What every training stage has in common."""

    context_length: int = 256
    """Tokens in a row."""
    batch_tokens: int = 4096
    """Tokens in a step; a whole number of rows."""
    micro_batch_tokens: int = 4096
    """Tokens in one forward pass; less memory, same update. 0 takes the most that fit into the memory that is free."""
    duration: str = "200 steps"
    """How long to train: a number of steps, tokens, epochs, seconds or joules."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU where there is one."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """In which numbers."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the layers are compiled; auto does so in runs that are long enough to win back the time it takes."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How gradients become updates."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate rises and falls."""
    max_grad_norm: float | None = 1.0
    """Gradients of a larger norm are scaled down to it; none switches clipping off."""
    max_grad_value: float | None = None
    """Elements of gradients are brought within plus and minus this before the norm is taken; none leaves them alone."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Which steps are kept from the weights."""
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """An average of the weights on the way."""
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    """When to stop before the end."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """What is kept in memory while the model trains, and where."""
    validation_every_steps: int = 25
    """How often the validation loss is taken; it is always taken at the end."""
    validation_tokens: int = 16384
    """How many validation tokens that loss is taken on; the evaluation stage takes all."""
    validation_sets: tuple[ValidationSetConfig, ...] = ()
    """Held-out texts whose loss is taken at every validation too; it stands beside that of the validation split."""
    checkpoint_every_steps: int = 50
    """How often the whole state is saved, so that a killed run goes on from there."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_checkpoint_every_steps: int = 0
    """The checkpoints of steps that this divides stay for good; 0 keeps none of them."""
    checkpoints_in_background: bool = True
    """Whether checkpoints are written while training goes on, which takes memory for a copy of the whole state."""
    grace_seconds: float = 30.0
    """How long a run that is asked to stop may take to save; after that it stops at once."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Who is told of every step, beside the metrics file and the screen."""

    def __post_init__(self) -> None:
        """Refuse batches that are not whole rows, and counts below one."""
        self.memory.require(self.optimizer)
        if self.compile == "on" and self.memory.moves_activations:
            raise ValueError('compiled layers see to their activations themselves: set compile = "auto" or "off"')
        for name in (
            "context_length",
            "validation_every_steps",
            "validation_tokens",
            "checkpoint_every_steps",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._require_whole_rows()
        require_distinct(self.validation_sets)
        try:
            Duration.parse(self.duration)
        except ConfigError as error:
            raise ValueError(f"duration: {error.message}") from error
        if self.keep_checkpoint_every_steps < 0:
            raise ValueError(
                f"keep_checkpoint_every_steps must not be negative, got {self.keep_checkpoint_every_steps}"
            )
        if not self.grace_seconds > 0:
            raise ValueError(f"grace_seconds must be above 0, got {self.grace_seconds}")
        for name in ("max_grad_norm", "max_grad_value"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def _require_whole_rows(self) -> None:
        sizes = {"batch_tokens": self.batch_tokens}
        if self.micro_batch_tokens:
            sizes["micro_batch_tokens"] = self.micro_batch_tokens
        for name, size in sizes.items():
            if size < self.context_length or size % self.context_length:
                raise ValueError(f"{name} must be a multiple of context_length ({self.context_length}), got {size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingConfig(TrainingConfig):
    """How a model is trained from its starting weights."""

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is predicted from what."""
    noise: InputNoiseConfig = field(default_factory=InputNoiseConfig)
    """Noise on what the model reads while it trains."""
    word_vectors: WordVectorsConfig = field(default_factory=WordVectorsConfig)
    """Word vectors from which the embedding starts."""
    batch_warmup: BatchWarmupConfig = field(default_factory=BatchWarmupConfig)
    """Smaller steps at the beginning."""
    context_warmup: ContextWarmupConfig = field(default_factory=ContextWarmupConfig)
    """Shorter rows at the beginning; for causal and masked objectives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningConfig(TrainingConfig):
    """How a base model learns a task."""

    examples: str = "python-docs"
    """Where the examples are: "python-docs", a file (JSON, JSONL, CSV, TSV, Parquet), or "" for no fine-tuning."""
    task: Literal["auto"] | Task = "auto"
    """What is learned; auto takes what the columns of the examples are for."""
    columns: dict[str, str] = field(default_factory=dict)
    """What the columns of the file are called where it is not what they are usually called: text = "review"."""
    licence: str = "unknown"
    """Under which licence the examples may be used, as an SPDX expression; told in the report and the model card."""
    consent: Literal["granted", "by-licence", "unknown"] = "unknown"
    """On what consent they are used."""
    held_out: str = ""
    """A file of examples that are only evaluated on; left out, a share of the examples is kept for it."""
    held_out_fraction: float = 0.1
    """The share of examples, by group, that is kept for the evaluation."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What is trained."""
    quantise: Literal["none", "nf4"] = "none"
    """In which numbers the frozen weights of the base are kept: as they come, or as 4-bit NormalFloat (QLoRA)."""
    class_weights: Literal["none", "balanced"] = "none"
    """What the loss of each class is multiplied by while it trains; balanced lets rare classes count as much as common
    ones; for task = "classify"."""
    label_smoothing: float = 0.0
    """The share of the target that is spread evenly over all classes while it trains; for task = "classify"."""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """How the better of two answers is learned; for task = "prefer"."""
    distil: DistilConfig = field(default_factory=DistilConfig)
    """A larger model whose probabilities are learned beside the answers."""
    duration: str = "2 epochs"
    """How long to train: a number of steps, tokens, epochs, seconds or joules."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(kind="adamw", learning_rate=2e-3, weight_decay=0.0)
    )
    """How gradients become updates."""

    def __post_init__(self) -> None:
        """Refuse a split that leaves one side empty."""
        # A dataclass with slots is made anew, so that super() without arguments would name the wrong class.
        TrainingConfig.__post_init__(self)
        require_licence(self.licence)
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must be between 0 and 1, got {self.held_out_fraction}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.quantise != "none" and self.adapter.kind == "full":
            raise ValueError(
                'weights in 4 bits cannot train: leave quantise = "none" with adapter.kind = "full", or choose lora, '
                "prefix or prompt"
            )
        if self.distil.teacher and self.adapter.kind == "prompt":
            raise ValueError(
                "a teacher cannot read the prompt that is trained in front of its documents: leave out distil.teacher, "
                "or choose lora, prefix or full"
            )
        if self.quantise != "none" and self.adapter.start == "pissa":
            raise ValueError('pissa changes the weights of the base, which 4 bits cannot hold: choose start = "random"')


def require_context(model_config: ModelConfig, context_length: int) -> None:
    """Refuse rows that are longer than a model has positions for.

    Raises:
        ConfigError: says both lengths.
    """
    # A model with relative positions only, such as XLNet, has no longest context.
    longest = getattr(model_config, "max_position_embeddings", None)
    if longest is not None and context_length > longest:
        raise ConfigError(
            f"context_length is {context_length}, but the model has positions for {longest} tokens only",
            path="model.max_position_embeddings",
            remedy="raise model.max_position_embeddings or lower context_length",
        )
