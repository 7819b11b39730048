"""What a model learns from a larger one; a setting, which needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig:
    """A teacher whose probabilities are learned beside the answers (task = "instruct")."""

    teacher: str = ""
    """A folder with a model or that of a run, with the same tokenizer as the base; empty learns from answers alone."""
    weight: float = 0.5
    """The share of the loss that comes from the teacher; the rest is the plain loss on the answers."""
    temperature: float = 1.0
    """What the scores of both are divided by: above 1, the teacher's less likely tokens count for more."""
    top_k: int = 32
    """How many of the teacher's likeliest tokens are kept for each place; the others count as one."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must be above 0 and at most 1, got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
