"""How a model learns from preferences; a setting, which needs no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceConfig:
    """How the better of two answers is made likelier than the other (task = "prefer")."""

    kind: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid: DPO (Rafailov et al. 2023); ipo: the squared distance to a margin, which does not run away where the
    preferences do not contradict each other (Azar et al. 2023)."""
    beta: float = 0.1
    """How dear it is to depart from the base: the smaller, the further the model may go."""
    label_smoothing: float = 0.0
    """sigmoid: the share of pairs that are thought to be the wrong way round (conservative DPO, Mitchell 2023)."""
    length_normalised: bool = False
    """Whether an answer counts by the mean over its tokens in place of their sum, so that long ones weigh no more."""
    chosen_weight: float = 0.0
    """Weight of the plain loss on the preferred answer, a mean over its tokens, which keeps that answer itself likely
    (RPO; Pang et al. 2024)."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing}")
        if self.label_smoothing and self.kind != "sigmoid":
            raise ValueError(f'label_smoothing is for kind = "sigmoid", not for {self.kind!r}')
        if not self.chosen_weight >= 0:
            raise ValueError(f"chosen_weight must not be negative, got {self.chosen_weight}")
