"""How much noise there is on what a model reads; a setting, which needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class InputNoiseConfig:
    """Noise on the inputs of training, drawn anew for every step. Both are shares of the tokens."""

    dropout: float = 0.0
    """Tokens replaced by the end of text, which says nothing. Source: Bowman et al. 2016, word dropout."""
    replacement: float = 0.0
    """Tokens replaced by any other. Source: Wang et al. 2018, SwitchOut."""

    def __post_init__(self) -> None:
        """Refuse shares outside their range."""
        for name in ("dropout", "replacement"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def is_on(self) -> bool:
        """Whether there is any noise."""
        return self.dropout > 0 or self.replacement > 0
