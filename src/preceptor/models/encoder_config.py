"""The shape of an encoder; a setting, which needs no torch."""

from dataclasses import dataclass
from typing import Literal

from preceptor.models.schemes import Scheme

_NOT_NEGATIVE = (
    *("vocab_size", "type_vocab_size", "position_offset", "sliding_window", "full_attention_every"),
    *("width_base", "head_dim_base"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The shape of an encoder, in the words of transformers' config files."""

    family: Literal["encoder"] = "encoder"
    """The model family; an encoder reads both ways and says what stands at a place."""
    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size."""
    hidden_size: int = 256
    """Width of the residual stream."""
    intermediate_size: int = 704
    """Width inside the feed-forward layer."""
    num_hidden_layers: int = 6
    """Number of blocks."""
    num_attention_heads: int = 4
    """Number of heads."""
    max_position_embeddings: int = 512
    """Longest text in tokens."""
    positions: Literal["learned", "rotary"] = "rotary"
    """How a token knows where it stands."""
    position_offset: int = 0
    """Rows of the table of positions that no token uses; RoBERTa has two."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_theta_local: float = 0.0
    """The same for layers with a window; 0: as everywhere."""
    type_vocab_size: int = 0
    """How many kinds of text (first, second of a pair) are told apart; 0: none."""
    norm_placement: Literal["before", "after"] = "before"
    """Whether what a layer reads is normalised, or the sum that it leaves."""
    norm_bias: bool = False
    """Whether normalisations have biases."""
    norm_eps: float = 1e-5
    """Small number that keeps the normalisation finite."""
    gated: bool = True
    """Whether the feed-forward layer has a gate."""
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu", "relu2"] = "gelu"
    """Activation of the feed-forward layer and of the head."""
    attention_bias: bool = False
    """Whether the linear layers of attention have biases."""
    mlp_bias: bool = False
    """Whether those of the feed-forward layer have."""
    sliding_window: int = 0
    """How many places to either side a token sees; 0 is all."""
    full_attention_every: int = 0
    """Every so many layers, from the first on, one sees all; 0: the window is for all layers."""
    lm_head: bool = True
    """Whether there is an output layer that says which token stands at a place."""
    lm_head_bias: bool = False
    """Whether the linear layer before the output weights has a bias."""
    pooler: bool = False
    """Whether there is a layer that speaks for the whole text from its first token."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""
    dropout: float = 0.0
    """Probability of dropping an element of the embedding, attention weights and each layer's output in training."""
    layer_drop: float = 0.0
    """Probability of leaving out a whole layer in a training pass, never all of them; in evaluation all run."""
    initialisation: Scheme = "normal"
    """How the starting weights are drawn; small, xavier and depth take their spread from the shape."""
    initializer_range: float = 0.02
    """Standard deviation of the starting weights."""
    zero_init_outputs: bool = False
    """Whether each layer's output projection starts at zero, so that a block adds nothing at first."""
    width_base: int = 0
    """The hidden_size for which learning rate and starting weights were chosen (muP); 0: this one's own."""
    head_dim_base: int = 0
    """Under muP, where heads grow with the width: the head_dim that belongs to width_base; 0: they do not."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"hidden_size / num_attention_heads must be even for rotary positions: {self.head_dim}")
        if self.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings must be at least 2, got {self.max_position_embeddings}")
        for name in ("dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.hidden_size // self.num_attention_heads

    def window_of(self, layer: int) -> int:
        """The window of a layer; 0 where it sees all."""
        return 0 if self.full_attention_every and layer % self.full_attention_every == 0 else self.sliding_window
