"""What of a model is trained when it is adapted; a setting, which needs no torch."""

from dataclasses import dataclass
from typing import Literal

AdapterKind = Literal["lora", "full", "prefix", "prompt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPattern:
    """Layers that are changed by another rank than the others, by their names."""

    pattern: str
    """Which layers: a full name with * and ?, such as "*.layers.0.*" or "*.q_proj"; the first pattern that fits
    counts."""
    rank: int = 0
    """Inner size of their two matrices; 0 takes that of the others."""
    alpha: float = 0.0
    """Their alpha; 0 takes that of the others."""

    def __post_init__(self) -> None:
        """Refuse a pattern that changes nothing."""
        if not self.pattern:
            raise ValueError("pattern must name layers")
        if self.rank < 0 or self.alpha < 0:
            raise ValueError(f"rank and alpha must not be negative, got {self.rank} and {self.alpha}")
        if not self.rank and not self.alpha:
            raise ValueError("a pattern must set rank or alpha")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """What is trained: small matrices beside frozen layers, vectors in front of a text, or the whole model."""

    kind: AdapterKind = "lora"
    """lora: the change of layers as products of two thin matrices; prefix: keys and values that every layer finds in
    front of a text; prompt: vectors in front of a text, in place of tokens; full: all weights."""
    rank: int = 16
    """lora: inner size of the two matrices."""
    alpha: float = 32.0
    """lora: the change is scaled by alpha / rank."""
    rank_stabilised: bool = False
    """lora: whether the change is scaled by alpha over the root of the rank instead. Source: Kalajdzievski 2023."""
    dropout: float = 0.0
    """lora: probability of dropping an input of the adapter in training."""
    target_modules: tuple[str, ...] = ()
    """lora: names of the linear layers and embeddings to adapt, or full names with * and ?; left out, every linear
    layer but heads and the output layer."""
    layers: tuple[LayerPattern, ...] = ()
    """lora: layers of another rank or alpha."""
    start: Literal["random", "pissa"] = "random"
    """lora: whether the change starts at nothing, or as the largest singular values of the layer, which are then taken
    out of it. Source: Meng et al. 2024, PiSSA."""
    magnitude: bool = False
    """lora: whether the length of each row of weights is trained by itself. Source: Liu et al. 2024, DoRA."""
    rate_ratio: float = 1.0
    """lora: how many times higher the learning rate of the second matrix is. Source: Hayou et al. 2024, LoRA+."""
    num_virtual_tokens: int = 20
    """prefix and prompt: how many places stand in front of a text."""
    hidden_size: int = 0
    """prefix: width of the network that makes the prefix while it trains; 0 trains the prefix itself."""
    prompt_start: Literal["random", "text", "label"] = "random"
    """prompt: whether the vectors start at random, as the embeddings of ``prompt_text``, or as those of the labels."""
    prompt_text: str = ""
    """prompt: the text to start from."""

    def __post_init__(self) -> None:
        """Refuse values that give no adapter."""
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not self.rate_ratio > 0:
            raise ValueError(f"rate_ratio must be above 0, got {self.rate_ratio}")
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens must be at least 1, got {self.num_virtual_tokens}")
        if self.hidden_size < 0:
            raise ValueError(f"hidden_size must not be negative, got {self.hidden_size}")
        if self.start == "pissa" and self.magnitude:
            raise ValueError('start = "pissa" and magnitude change the same weights; choose one')
        if (self.prompt_start == "text") != bool(self.prompt_text):
            raise ValueError('prompt_text is what prompt_start = "text" starts from; set both or neither')
