"""How rotary frequencies are slowed for contexts longer than those of training; a setting, which needs no torch."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """How rotary frequencies are slowed down, so that a model reads further than it was trained to."""

    rope_type: Literal["default", "linear", "llama3"] = "default"
    """default: as they are; linear: all by the factor (Chen et al. 2023); llama3: only the slow ones, with a smooth
    passage (Llama 3 report, section 3.2)."""
    factor: float = 1.0
    """By how much."""
    low_freq_factor: float = 1.0
    """llama3: frequencies that turn less often than this in the original context are slowed by the whole factor."""
    high_freq_factor: float = 4.0
    """llama3: those that turn more often than this stay."""
    original_max_position_embeddings: int = 8192
    """llama3: the context the model was first trained with."""

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor}) must be above low_freq_factor ({self.low_freq_factor})"
            )

    def apply(self, frequencies: "Tensor") -> "Tensor":
        """The slowed frequencies, in radians a position."""
        if self.rope_type == "default":
            return frequencies
        if self.rope_type == "linear":
            return frequencies / self.factor
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return kept * frequencies + (1 - kept) * frequencies / self.factor
