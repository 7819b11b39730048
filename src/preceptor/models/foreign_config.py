"""The configuration of a model that transformers runs for us; a setting, which needs neither torch nor transformers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignConfig:
    """A decoder of an architecture that is not one of ours. It is read from a base, not written into a recipe."""

    family: Literal["foreign"] = "foreign"
    """A decoder that the library transformers runs."""
    model_type: str = ""
    """What transformers calls the architecture."""
    vocab_size: int = 0
    """How many tokens there are."""
    hidden_size: int = 0
    """Width of the states."""
    num_hidden_layers: int = 0
    """How many blocks there are."""
    max_position_embeddings: int = 2048
    """The longest text, as its config.json says; 2048 where it says nothing."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""
    table: str = "{}"
    """The whole of its config.json."""
    layer_drop: float = 0.0
    """Not for these models."""

    def __post_init__(self) -> None:
        """Refuse what such models cannot do."""
        if self.layer_drop:
            raise ValueError("layer_drop is not for a model that transformers runs")
