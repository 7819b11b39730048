"""The shape of an encoder-decoder; a setting, which needs no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

HiddenAct = Literal["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "relu2"]
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDecoderConfig:
    """The shape of an encoder-decoder, in the words of transformers' config files."""

    family: Literal["encoder_decoder"] = "encoder_decoder"
    """The model family; an encoder reads a source both ways, a decoder says a target with an eye on it."""
    vocab_size: int = 0
    """Rows of the embedding, which both stacks share; 0 takes the tokenizer's size."""
    hidden_size: int = 256
    """Width of the residual stream."""
    intermediate_size: int = 704
    """Width inside the feed-forward layer."""
    num_hidden_layers: int = 4
    """Number of blocks of the encoder."""
    num_decoder_layers: int = 0
    """Number of blocks of the decoder; 0: as many as the encoder's."""
    num_attention_heads: int = 4
    """Number of heads."""
    head_dim: int = 64
    """Size of one head."""
    max_position_embeddings: int = 512
    """Longest source and longest target in tokens."""
    positions: Literal["relative", "learned", "sinusoidal"] = "relative"
    """How a token knows where it stands."""
    position_offset: int = 0
    """Rows of the learned table of positions that no token uses; BART has two."""
    relative_attention_num_buckets: int = 32
    """How many ranges of distances are told apart."""
    relative_attention_max_distance: int = 128
    """The distance from which on all are alike."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Which normalisation is used."""
    norm_placement: Literal["before", "after"] = "before"
    """Whether what a layer reads is normalised, and the end of a stack; or the sum that each layer leaves."""
    norm_eps: float = 1e-6
    """Small number that keeps the normalisation finite."""
    normalize_embedding: bool = False
    """Whether the embedding is normalised."""
    scale_embedding: bool = False
    """Whether the embedding is multiplied by the root of hidden_size."""
    gated: bool = True
    """Whether the feed-forward layer has a gate."""
    hidden_act: HiddenAct = "gelu_new"
    """Activation of the feed-forward layer."""
    bias: bool = False
    """Whether the linear layers have biases."""
    attention_scale: float = 1.0
    """What attention scores are multiplied by; 0 is one over the root of head_dim."""
    tie_word_embeddings: bool = False
    """Whether the output layer shares the embedding's weights."""
    scale_decoder_outputs: bool = False
    """Whether the last states are divided by the root of hidden_size before they are scored."""
    final_logits_bias: bool = False
    """Whether there is a bias of the scores, which is not trained."""
    decoder_start_token_id: int = 0
    """The token that the decoder reads first."""
    pad_token_id: int = 0
    """The token that fills rows, for programs that read the saved model."""
    dropout: float = 0.0
    """Probability of dropping an element of the embedding and of each layer's output in training."""
    attention_dropout: float = 0.0
    """The same for attention weights."""
    activation_dropout: float = 0.0
    """The same inside the feed-forward layer."""
    layer_drop: float = 0.0
    """Probability of leaving out a whole layer in a training pass, never all of them; in evaluation all run."""
    initializer: Literal["mesh", "normal", "xavier"] = "mesh"
    """How weights start. mesh: normal, scaled by what each layer reads (T5); normal: all alike (BART); xavier: uniform,
    scaled by what each layer reads and writes (Glorot and Bengio 2010)."""
    initializer_factor: float = 1.0
    """mesh: what all standard deviations are multiplied by."""
    initializer_range: float = 0.02
    """normal: the standard deviation."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("vocab_size", "num_decoder_layers", "position_offset", "attention_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings must be at least 2, got {self.max_position_embeddings}")
        if self.hidden_act not in get_args(HiddenAct):
            raise ValueError(f"hidden_act is {self.hidden_act!r}; known are {', '.join(get_args(HiddenAct))}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 2 or distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_num_buckets ({buckets}) must be even, at least 4, and its half less than "
                f"relative_attention_max_distance ({distance})"
            )

    @property
    def decoder_layers(self) -> int:
        """How many blocks the decoder has."""
        return self.num_decoder_layers or self.num_hidden_layers
