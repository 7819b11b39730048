"""How the next token is chosen; a setting, which needs no torch."""

from dataclasses import dataclass

from preceptor.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is chosen from the model's distribution."""

    temperature: float = 0.7
    """0 takes the likeliest token; larger values flatten the distribution."""
    top_k: int = 40
    """Only this many of the likeliest tokens are drawn from; 0 for all."""
    top_p: float = 0.95
    """Only the likeliest tokens that together have this probability are drawn from."""
    max_new_tokens: int = 160
    """Longest answer in tokens."""
    seed: int = 0
    """The seed of the draws: same prompt, model and seed, same answer."""
    beams: int = 1
    """How many of the likeliest beginnings are followed at once, in place of drawing; for encoder-decoders."""
    length_penalty: float = 1.0
    """With beams, the power of its length that an answer's log-probability is divided by; larger favours long ones."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, got {self.beams}")


def require_beams(config: SamplingConfig, family: str) -> None:
    """Refuse several beams for a model that does not write targets for sources.

    Raises:
        ConfigError: says what to leave out.
    """
    if config.beams > 1 and family != "encoder_decoder":
        raise ConfigError(
            f"a model of the family {family!r} follows one beginning of an answer, not {config.beams}",
            path="generation.beams",
            expected="a model of the family encoder_decoder",
            remedy="leave generation.beams out, or choose an encoder-decoder",
        )
