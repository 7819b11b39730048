"""How gradients become updates, how the rate falls, what is averaged, when to stop; settings without torch."""

from dataclasses import dataclass
from typing import Literal

OptimizerKind = Literal["muon", "adamw", "adam", "adafactor", "lion", "rmsprop", "sgd"]
_DECAYS = {"muon": 0.1, "adamw": 0.1, "lion": 0.1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterGroup:
    """Weights that are trained in another way than the others, by their names."""

    pattern: str
    """Which weights: a name with * and ?, such as "model.layers.0.*" or "*embed_tokens*"; the first pattern that fits
    a weight counts."""
    learning_rate_scale: float = 1.0
    """What their learning rate is multiplied by."""
    weight_decay: float | None = None
    """Their weight decay; none takes that of the others."""
    frozen: bool = False
    """Whether they stay as they are."""
    from_step: int = 0
    """The step from which on they are trained, for layers that are unfrozen one after another."""

    def __post_init__(self) -> None:
        """Refuse groups that name nothing or contradict themselves."""
        if not self.pattern:
            raise ValueError("pattern must name weights")
        if not self.learning_rate_scale > 0:
            raise ValueError(f"learning_rate_scale must be above 0, got {self.learning_rate_scale}; or set frozen")
        if self.weight_decay is not None and self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.from_step < 0:
            raise ValueError(f"from_step must not be negative, got {self.from_step}")
        if self.frozen and self.from_step:
            raise ValueError("frozen weights are never trained, so from_step must be left out")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How gradients become updates."""

    kind: OptimizerKind = "muon"
    """muon orthogonalises the updates of matrices and leaves the rest to AdamW; the others treat all weights alike.
    adafactor keeps a row and a column in place of a matrix of state; lion keeps one average; sgd one or none."""
    learning_rate: float = 0.02
    """Peak learning rate of Muon's matrices, or of everything under another kind."""
    adamw_learning_rate: float = 0.008
    """Under muon: peak learning rate of what AdamW trains (embedding, output layer, norms, biases)."""
    momentum: float = 0.95
    """Momentum of muon, sgd and rmsprop; 0 is none."""
    nesterov: bool = True
    """muon and sgd: whether to look ahead along the momentum."""
    beta1: float = 0.9
    """Decay of the first moment: adamw, adam, lion."""
    beta2: float = 0.95
    """Decay of the second moment: adamw, adam, lion."""
    smoothing: float = 0.99
    """rmsprop: decay of the average of squares."""
    eps: float = 1e-8
    """The small number in the denominator: adamw, adam, rmsprop."""
    weight_decay: float | None = None
    """Decoupled decay of matrices; norms and biases are never decayed. None takes 0.1 for muon, adamw and lion, and 0
    for the others."""
    l1: float = 0.0
    """Weight of the sum of the absolute values of matrices in the loss; its gradient is added after clipping."""
    l2: float = 0.0
    """Weight of half the sum of the squares of matrices in the loss; its gradient is added after clipping."""
    layer_decay: float = 1.0
    """What the learning rate of each layer is of that of the layer above it; the embedding counts as the lowest."""
    groups: tuple[ParameterGroup, ...] = ()
    """Weights that are trained in another way."""

    @property
    def decay(self) -> float:
        """The decoupled decay of matrices."""
        return _DECAYS.get(self.kind, 0.0) if self.weight_decay is None else self.weight_decay

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("learning_rate", "adamw_learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("momentum", "beta1", "beta2", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        for name in ("decay", "l1", "l2"):
            if getattr(self, name) < 0:
                key = "weight_decay" if name == "decay" else name
                raise ValueError(f"{key} must not be negative, got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """The learning rate as a share of its peak: a linear rise, and then what the kind says."""

    kind: Literal["linear", "cosine", "constant", "warmup-stable-decay", "step", "exponential", "inverse-sqrt"] = (
        "linear"
    )
    """linear and cosine fall from the end of the warm-up; warmup-stable-decay stays at the peak first; step falls at
    once every so many steps; exponential by the same factor at each step; inverse-sqrt with the root of the step."""
    warmup_steps: int = 10
    """Steps of linear rise."""
    decay_fraction: float = 0.4
    """Under warmup-stable-decay: the share of all steps in which the rate falls."""
    final_fraction: float = 0.0
    """What is left of the peak at the end; exponential needs some."""
    cycles: int = 1
    """linear and cosine: how many times the rate falls, each time from the peak."""
    drop: float = 0.1
    """step: what is left of the rate after each fall."""
    drop_every_steps: int = 100
    """step: how many steps lie between two falls."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        for name in ("decay_fraction", "final_fraction", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("cycles", "drop_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kind == "exponential" and not self.final_fraction:
            raise ValueError("final_fraction must be above 0 for exponential, which never reaches 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingConfig:
    """An average of the weights on the way, which takes their place in validation and at the end."""

    kind: Literal["none", "ema", "swa"] = "none"
    """ema: later weights count more; swa: all weights of the last part of training count alike."""
    decay: float = 0.999
    """ema: what is left of the average at each step; less in the first steps, so that the start is soon forgotten."""
    start_fraction: float = 0.75
    """swa: the share of all steps after which the average begins."""
    every_steps: int = 1
    """swa: how many steps lie between two weights that count."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("decay", "start_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, got {self.every_steps}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStoppingConfig:
    """When to stop before the end; the weights of the best validation are then restored."""

    patience: int = 0
    """After how many validations in a row without a better one training stops; 0 never stops."""
    metric: str = "loss"
    """By what a validation is better: loss, accuracy, or validation_loss/NAME of a source or a validation set."""
    min_delta: float = 0.0
    """By how much a validation must be better to count."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("patience", "min_delta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.metric not in ("loss", "accuracy") and not self.metric.startswith("validation_loss/"):
            raise ValueError(f'metric must be "loss", "accuracy" or "validation_loss/NAME", got {self.metric!r}')
