"""How the first steps of a run differ in size from those that follow; settings without torch."""

from dataclasses import dataclass
from typing import Literal

from preceptor.core.errors import ConfigError

CUTTABLE = ("causal", "masked")
"""Objectives whose rows can be cut into pieces that are rows of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchWarmupConfig:
    """Smaller steps at the beginning, when the gradient of a few rows already points the right way.

    Source: Smith et al. 2018, Don't Decay the Learning Rate, Increase the Batch Size; McCandlish et al. 2018, An
    Empirical Model of Large-Batch Training, for why small batches are enough early on.
    """

    start_tokens: int = 1024
    """Tokens in the first step, in whole rows; from batch_tokens on nothing changes."""
    steps: int = 0
    """After how many steps a step has batch_tokens; 0 is no warm-up."""
    kind: Literal["linear", "doubling"] = "linear"
    """linear: the same number of rows more each time; doubling: twice as many each time, at equal distances."""
    scale_learning_rate: bool = False
    """Whether the learning rate of a smaller step is lower, by the square root of its share of batch_tokens.
    Source: Malladi et al. 2022, On the SDEs and Scaling Rules for Adaptive Gradient Algorithms."""

    def __post_init__(self) -> None:
        """Refuse steps of nothing."""
        _require(self, start_tokens=1, steps=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextWarmupConfig:
    """Shorter rows at the beginning: every row cut into pieces that do not see each other.

    Nothing is lost or seen twice: the same tokens are predicted, at the same positions, from less of what stands before
    them. Source: Li et al. 2022, The Stability-Efficiency Dilemma (sequence length warm-up).
    """

    start_length: int = 64
    """Tokens in a row of the first step: context_length, halved as often as the halves are whole and not shorter."""
    steps: int = 0
    """After how many steps a row has context_length, by doublings at equal distances; 0 is no warm-up."""

    def __post_init__(self) -> None:
        """Refuse rows of nothing."""
        _require(self, start_length=1, steps=0)


def _require(config: object, **least: int) -> None:
    for name, limit in least.items():
        if getattr(config, name) < limit:
            raise ValueError(f"{name} must be at least {limit}, got {getattr(config, name)}")


def require_cuttable(objective: str, config: ContextWarmupConfig) -> None:
    """Refuse shorter rows where a row is more than its tokens one after another.

    Raises:
        ConfigError: names the objectives that allow them.
    """
    if config.steps and objective not in CUTTABLE:
        raise ConfigError(
            f"context_warmup cuts rows, which would tear apart what the objective {objective!r} reads together",
            path="pretraining.context_warmup.steps",
            expected=f"0, or an objective that is {' or '.join(CUTTABLE)}",
            remedy="set pretraining.context_warmup.steps = 0; pretraining.batch_warmup is for every objective",
        )
