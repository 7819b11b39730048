"""What a model is trained to do; a setting, which needs no torch."""

from dataclasses import dataclass
from typing import Literal

from preceptor.core.errors import ConfigError

FAMILIES = {
    "causal": ("decoder", "foreign"),
    "prefix": ("decoder", "encoder_decoder"),
    "masked": ("encoder",),
    "permuted": ("two_stream",),
    "spans": ("encoder_decoder", "decoder"),
}
"""For each objective the families that it trains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What is predicted from what."""

    kind: Literal["causal", "prefix", "masked", "permuted", "spans"] = "causal"
    """causal: each token from those before it (decoders); prefix: the rest of a text from its beginning, which is read
    both ways (decoders, encoder-decoders); masked: hidden tokens from all others (encoders); permuted: spans in a drawn
    order (two-stream models); spans: hidden spans, one after another (encoder-decoders, decoders)."""
    share: float = 0.15
    """masked and spans: the share of the tokens that is hidden."""
    unit: Literal["token", "word", "span"] = "token"
    """masked: what is hidden together: single tokens, whole words, or spans of tokens."""
    mean_span_tokens: float = 3.0
    """spans: the mean length of a hidden span."""
    memory_tokens: int = 0
    """permuted: how many tokens of a text that stand before a row are read first and remembered, as XLNet's memory."""
    dynamic: bool = True
    """masked and spans: whether other tokens are hidden each time a text comes; else always the same."""
    label_smoothing: float = 0.0
    """The share of the probability that is spread over all tokens. Source: Szegedy et al. 2016."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax's sum, which keeps logits small. Source: Chowdhery et al. 2022."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 0 < self.share < 1:
            raise ValueError(f"share must be above 0 and below 1, got {self.share}")
        if self.memory_tokens < 0:
            raise ValueError(f"memory_tokens must not be negative, got {self.memory_tokens}")
        if self.memory_tokens and self.kind != "permuted":
            raise ValueError(f"memory_tokens is for the objective 'permuted', not for {self.kind!r}")
        if self.mean_span_tokens < 1:
            raise ValueError(f"mean_span_tokens must be at least 1, got {self.mean_span_tokens}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.z_loss < 0:
            raise ValueError(f"z_loss must not be negative, got {self.z_loss}")


def require_fit(config: ObjectiveConfig, family: str) -> None:
    """Refuse an objective that does not train models of the family.

    Raises:
        ConfigError: names the objectives that do.
    """
    if family not in FAMILIES[config.kind]:
        able = [kind for kind, families in FAMILIES.items() if family in families]
        raise ConfigError(
            f"the objective {config.kind!r} does not train a model of the family {family!r}",
            path="pretraining.objective.kind",
            expected=" or ".join(map(repr, able)),
            remedy=f"set pretraining.objective.kind = {able[0]!r}, or choose another model.family",
        )
