"""How a target is looked for; a setting, which needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamConfig:
    """How many targets are followed at once, and how long ones are weighed against short ones."""

    beam_size: int = 1
    """How many of the likeliest beginnings are followed; 1 takes the likeliest token each time."""
    length_penalty: float = 1.0
    """The power of its length that a target's log-probability is divided by; larger values favour long targets."""
    max_new_tokens: int = 160
    """Longest target in tokens."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, got {self.beam_size}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
