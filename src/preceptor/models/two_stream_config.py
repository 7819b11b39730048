"""The shape of a two-stream model; a setting, which needs no torch."""

from dataclasses import dataclass
from typing import Literal

_AT_LEAST_ONE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStreamConfig:
    """The shape of a two-stream model, in the words of transformers' config files."""

    family: Literal["two_stream"] = "two_stream"
    """The model family; it learns to predict the tokens of a text in any order, so that each sees both sides."""
    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size."""
    hidden_size: int = 256
    """Width of the residual stream; the heads share it evenly."""
    intermediate_size: int = 1024
    """Width inside the feed-forward layer."""
    num_hidden_layers: int = 6
    """Number of blocks."""
    num_attention_heads: int = 4
    """Number of heads."""
    hidden_act: Literal["silu", "relu", "gelu", "gelu_new"] = "gelu"
    """Activation of the feed-forward layer."""
    attn_type: Literal["bi", "uni"] = "bi"
    """Whether a token sees both sides (XLNet) or only what stands before it (Transformer-XL)."""
    mem_len: int = 0
    """How many tokens of what was read before a memory keeps; 0 is all."""
    reuse_len: int = 0
    """How many of a segment's first tokens are added to the memory; 0 is all."""
    clamp_len: int = 0
    """Distances beyond this count as this; 0 leaves them alone."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""
    norm_eps: float = 1e-12
    """Small number that keeps the normalisation finite."""
    dropout: float = 0.0
    """Probability of dropping an element of embeddings, attention weights, each layer's output and the last states."""
    layer_drop: float = 0.0
    """Probability of leaving out a whole layer in a training pass, never all of them; in evaluation all run."""
    initializer_range: float = 0.02
    """Standard deviation of the starting weights."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("vocab_size", "mem_len", "reuse_len", "clamp_len"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})"
            )
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even for sines and cosines of distances, got {self.hidden_size}")
        for name in ("dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.hidden_size // self.num_attention_heads
