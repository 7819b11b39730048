"""The shape of a decoder; a setting, which needs no torch."""

from dataclasses import dataclass, field
from typing import Literal

from preceptor.models.schemes import Scheme
from preceptor.nn.rope_scaling import RopeScaling

_NOT_NEGATIVE = (
    *("vocab_size", "attention_scale", "attention_softcap", "logit_softcap", "sliding_window"),
    *("full_attention_every", "rope_theta_local", "width_base", "head_dim_base"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """The shape of a decoder, in the words of transformers' config files."""

    family: Literal["decoder"] = "decoder"
    """The model family; a decoder reads left to right and predicts the next token."""
    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size."""
    hidden_size: int = 256
    """Width of the residual stream."""
    intermediate_size: int = 704
    """Width inside the feed-forward layer."""
    num_hidden_layers: int = 6
    """Number of blocks."""
    num_attention_heads: int = 4
    """Number of query heads."""
    num_key_value_heads: int = 2
    """Number of key/value heads; fewer than query heads is grouped-query attention."""
    head_dim: int = 64
    """Size of one head."""
    max_position_embeddings: int = 512
    """Longest context in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    """How the rotary frequencies are slowed for long contexts."""
    rotary_fraction: float = 1.0
    """The share of a head's dimensions that is turned."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Which normalisation is used."""
    norm_placement: Literal["before", "after", "both"] = "before"
    """Whether a layer's input, its output (before it is added) or both are normalised."""
    norm_offset: bool = False
    """Whether the gain of an RMS norm is one more than its weight."""
    parallel_residual: bool = False
    """Whether attention and feed-forward read the same input, and are added together."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How a token knows where it stands."""
    gated: bool = True
    """Whether the feed-forward layer has a gate (SwiGLU)."""
    hidden_act: Literal["silu", "relu", "relu2", "gelu", "gelu_new", "gelu_pytorch_tanh"] = "silu"
    """Activation of the feed-forward layer."""
    qk_norm: Literal["none", "head", "width"] = "head"
    """Whether queries and keys are normalised: each head by itself, or all heads of a token together."""
    attention_bias: Literal["none", "qkv", "all"] = "none"
    """Which linear layers of attention have biases."""
    mlp_bias: bool = False
    """Whether the linear layers of the feed-forward layer have biases."""
    attention_scale: float = 0.0
    """What attention scores are multiplied by; 0 is one over the root of head_dim."""
    attention_softcap: float = 0.0
    """Attention scores are kept within plus and minus this, softly; 0 leaves them alone."""
    logit_softcap: float = 0.0
    """The same for the logits."""
    sliding_window: int = 0
    """How many places back a token sees, itself included; 0 is all."""
    full_attention_every: int = 0
    """Every so many layers one sees all, window or not; 0: the window is for all layers."""
    rope_theta_local: float = 0.0
    """The rotary base of layers with a window; 0: the same as everywhere."""
    scale_embedding: bool = False
    """Whether the embedding is multiplied by the root of hidden_size."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""
    norm_eps: float = 1e-6
    """Small number that keeps the normalisation finite."""
    dropout: float = 0.0
    """Probability of dropping an element of the embedding, attention weights and each layer's output in training."""
    layer_drop: float = 0.0
    """Probability of leaving out a whole layer in a training pass, never all of them; in evaluation all run."""
    initialisation: Scheme = "gpt2"
    """How the starting weights are drawn; small, xavier and depth take their spread from the shape."""
    initializer_range: float = 0.02
    """Standard deviation of the starting weights."""
    zero_init_outputs: bool = True
    """Whether each layer's output projection starts at zero, so that every block starts as the identity."""
    width_base: int = 0
    """The hidden_size for which learning rate and starting weights were chosen (muP); 0: this one's own."""
    head_dim_base: int = 0
    """Under muP, where heads grow with the width: the head_dim that belongs to width_base; 0: they do not."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads ({self.num_key_value_heads}) must divide "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.positions == "rotary" and (self.rotary_dim < 2 or self.rotary_dim % 2):
            raise ValueError(
                f"head_dim * rotary_fraction must be even for rotary positions, got {self.head_dim} * "
                f"{self.rotary_fraction}"
            )
        if self.parallel_residual and self.norm_placement != "before":
            raise ValueError('parallel_residual needs norm_placement = "before"')
        if self.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings must be at least 2, got {self.max_position_embeddings}")
        self._require_probabilities()

    def _require_probabilities(self) -> None:
        for name in ("dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of a head are turned."""
        return int(self.head_dim * self.rotary_fraction)

    def window_of(self, layer: int) -> int:
        """The window of a layer; 0 where it sees all."""
        every = self.full_attention_every
        return 0 if every and (layer + 1) % every == 0 else self.sliding_window
