"""Which layers get a low-rank change; a setting, which needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRankConfig:
    """Which layers get a low-rank change, and how large it may be."""

    rank: int = 16
    """Inner size of the two matrices."""
    alpha: float = 32.0
    """The change is scaled by alpha / rank."""
    dropout: float = 0.0
    """Probability of dropping an input of the adapter in training."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers to adapt."""

    def __post_init__(self) -> None:
        """Refuse values that give no adapter."""
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not self.target_modules:
            raise ValueError("target_modules must name at least one layer")
