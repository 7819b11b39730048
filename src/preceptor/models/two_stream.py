"""The two-stream family: XLNet, which predicts the tokens of a text in any order.

Every token has a content state, which knows the token, and where it is to be predicted also a query state, which knows
only where the token stands. Both are queries to the same keys and values, so a layer reads them as one longer row.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from preceptor.models.family import ModelFamily
from preceptor.models.language_model import LanguageModel, shared_output_weight
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs
from preceptor.nn.layers import FeedForward, which_run
from preceptor.nn.losses import IGNORED, cross_entropy_sum, token_losses
from preceptor.nn.masks import additive
from preceptor.nn.relative import Relations, RelativeAttention, distance_vectors

_REREAD = 2
"""Memory that generation reads lags behind by the token last said and the place of the one to come."""


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream, which is then normalised."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(
            config.hidden_size, config.num_attention_heads, config.head_dim, dropout=config.dropout
        )
        self.attention_layernorm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act, gated=False, bias=True)
        self.mlp_layernorm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, read_BSD: Tensor, relations: Relations) -> Tensor:
        """The residual stream of the queries after this block, of shape B T D."""
        middle_BTD = self.attention_layernorm(x_BTD + self.dropout(self.self_attn(x_BTD, read_BSD, relations)))
        return self.mlp_layernorm(middle_BTD + self.dropout(self.mlp(middle_BTD)))  # type: ignore[no-any-return]


class _States(NamedTuple):
    """What one pass leaves."""

    content_BTD: Tensor
    query_BMD: Tensor | None
    layers_LBTD: list[Tensor]
    """What each layer read of the tokens' content, before any memory; nothing where it is not to be remembered."""


class Backbone(nn.Module):
    """From tokens to the last states of both streams."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.unknown_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, inputs: Inputs, places_BM: Tensor | None, memory_LBSD: Tensor | None, *, remember: bool = False
    ) -> _States:
        """The last states; the query stream runs at the given places only, or not at all."""
        content_BTD = self.embed_tokens(inputs.tokens_BT)
        num_tokens = content_BTD.shape[1]
        x_BQD = content_BTD
        if places_BM is not None:
            x_BQD = torch.cat((content_BTD, self.unknown_token.expand(*places_BM.shape, -1)), dim=1)
        x_BQD = self.dropout(x_BQD)
        num_remembered = 0 if memory_LBSD is None else memory_LBSD.shape[2]
        relations = self._relations(inputs, places_BM, num_remembered, x_BQD.dtype)
        layers_LBTD = []
        runs = which_run(len(self.layers), self.config.layer_drop, self.training)
        for number, layer in enumerate(self.layers):
            content_BTD = x_BQD[:, :num_tokens]
            if remember:
                layers_LBTD.append(content_BTD)
            read_BSD = content_BTD if memory_LBSD is None else torch.cat((memory_LBSD[number], content_BTD), dim=1)
            if runs[number]:
                x_BQD = layer(x_BQD, read_BSD, relations)
        x_BQD = self.dropout(x_BQD)
        query_BMD = None if places_BM is None else x_BQD[:, num_tokens:]
        return _States(x_BQD[:, :num_tokens], query_BMD, layers_LBTD)

    def _relations(
        self, inputs: Inputs, places_BM: Tensor | None, num_remembered: int, dtype: torch.dtype
    ) -> Relations:
        """How content states, and behind them query states, stand to memory and tokens.

        Distances are counted along the row. Documents are runs of it, so inside a document they are those of the
        positions; between documents none is ever used.
        """
        num_tokens, device = inputs.tokens_BT.shape[1], inputs.tokens_BT.device
        places_BQ = torch.arange(num_tokens, device=device).unsqueeze(0)
        if places_BM is not None:
            places_BQ = torch.cat((places_BQ.expand(len(places_BM), -1), places_BM), dim=1)
        places_S = torch.arange(-num_remembered, num_tokens, device=device)
        distances_R = torch.arange(1 - num_tokens, num_remembered + num_tokens, device=device)
        which_BQS = places_BQ.unsqueeze(2) - places_S + (num_tokens - 1)
        if self.config.clamp_len:
            distances_R = distances_R.clamp(-self.config.clamp_len, self.config.clamp_len)
        distances_RD = self.dropout(distance_vectors(distances_R, self.config.hidden_size, dtype))
        mask, blind = _mask(inputs, places_BM, num_remembered, dtype, causal=self.config.attn_type == "uni")
        return Relations(distances_RD, which_BQS, mask, blind, _differs(inputs, places_BM, num_remembered))


def _at(x_BT: Tensor, places_BM: Tensor | None) -> Tensor:
    """What belongs to the content states and, behind them, to the query states."""
    return x_BT if places_BM is None else torch.cat((x_BT, x_BT.gather(1, places_BM)), dim=1)


def _mask(
    inputs: Inputs, places_BM: Tensor | None, num_remembered: int, dtype: torch.dtype, *, causal: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The mask of shape B 1 Q S over memory and tokens, None where all see all; and the queries that see nothing.

    A content state sees the tokens up to its own place in the order, a query state only those before it: of its own
    document, and where the model is causal only those that do not stand behind it. Memory is seen by all, or where it
    is known of which document it is, by that one.
    """
    order_BT = inputs.order_BT
    if order_BT is None and inputs.segments_BT is None and inputs.before is None and not causal:
        return None, None
    num_tokens, device = inputs.tokens_BT.shape[1], inputs.tokens_BT.device
    places_BT = torch.arange(num_tokens, device=device).expand_as(inputs.tokens_BT)
    places_BQ1 = _at(places_BT, places_BM).unsqueeze(2)
    visible_BQT = torch.ones_like(places_BQ1, dtype=torch.bool).expand(-1, -1, num_tokens)
    if order_BT is not None:
        # Orders are whole numbers, so to come before place n is to come up to n - 1.
        is_query_Q = torch.arange(places_BQ1.shape[1], device=device) >= num_tokens
        up_to_BQ = _at(order_BT, places_BM) - is_query_Q.to(order_BT.dtype)
        visible_BQT = up_to_BQ.unsqueeze(2) >= order_BT.unsqueeze(1)
    if causal:
        visible_BQT = visible_BQT & (places_BQ1 >= places_BT.unsqueeze(1))
    if inputs.segments_BT is not None:
        segments_BQ = _at(inputs.segments_BT, places_BM)
        visible_BQT = visible_BQT & (segments_BQ.unsqueeze(2) == inputs.segments_BT.unsqueeze(1))
    if num_remembered:
        memory_BQS = torch.ones_like(visible_BQT[..., :1]).expand(-1, -1, num_remembered)
        if inputs.before is not None and inputs.before.segments_BT is not None and inputs.segments_BT is not None:
            memory_BQS = segments_BQ.unsqueeze(2) == inputs.before.segments_BT.unsqueeze(1)
        visible_BQT = torch.cat((memory_BQS, visible_BQT), dim=2)
    if places_BM is None:
        return additive(visible_BQT, dtype), None
    # The first token of an order is predicted from nothing; its softmax is kept a number, and its result is dropped.
    blind_BQ = ~visible_BQT.any(dim=2)
    return additive(visible_BQT | blind_BQ.unsqueeze(2), dtype), blind_BQ


def _differs(inputs: Inputs, places_BM: Tensor | None, num_remembered: int) -> Tensor | None:
    """Whether each query is of another text than each key, of shape B Q S; what is remembered counts as text 0."""
    if inputs.token_types_BT is None:
        return None
    types_BT = inputs.token_types_BT
    types_BS = torch.cat((types_BT.new_zeros(len(types_BT), num_remembered), types_BT), dim=1)
    return _at(types_BT, places_BM).unsqueeze(2) != types_BS.unsqueeze(1)


class TwoStream(LanguageModel):
    """A language model of content and query states. Heads for tasks read the content states."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError("vocab_size must be known before a two-stream model is built")
        self.config: TwoStreamConfig = config
        self.model = Backbone(config)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a state into scores of the vocabulary."""
        return shared_output_weight(self.model.embed_tokens) if self.lm_head is None else self.lm_head.weight

    @property
    def output_bias_V(self) -> Tensor:
        """What is added to the scores."""
        return self.output_bias

    @property
    def input_embedding(self) -> nn.Embedding:
        """The embedding of the vocabulary."""
        return self.model.embed_tokens

    def hidden(self, inputs: Inputs, memory_LBSD: Tensor | None = None) -> Tensor:
        """The last content states, of shape B T D."""
        return self.model(inputs, None, self._memory(inputs, memory_LBSD)).content_BTD  # type: ignore[no-any-return]

    def _memory(self, inputs: Inputs, memory_LBSD: Tensor | None) -> Tensor | None:
        """The memory that is given, or that of what stands before the rows."""
        if memory_LBSD is not None or inputs.before is None:
            return memory_LBSD
        with torch.no_grad():
            return torch.stack(self.model(inputs.before, None, None, remember=True).layers_LBTD)

    def two_streams(self, inputs: Inputs, places_BM: Tensor | None = None, memory_LBSD: Tensor | None = None) -> Tensor:
        """The last query states at the given places of each row, of shape B M D; at all places when left out.

        A query state knows the tokens that come before its own in ``inputs.order_BT``, and where its own stands. A
        memory that is given belongs to every document of its row, so with it a row is one document.

        Raises:
            ValueError: the inputs have no order.
        """
        if inputs.order_BT is None:
            raise ValueError("query states need an order in which the tokens are predicted: give inputs.order_BT")
        if places_BM is None:
            places_BM = torch.arange(inputs.tokens_BT.shape[1], device=inputs.tokens_BT.device)
            places_BM = places_BM.expand_as(inputs.tokens_BT)
        return self.model(inputs, places_BM, self._memory(inputs, memory_LBSD)).query_BMD  # type: ignore[no-any-return]

    def read(self, inputs: Inputs, memory_LBSD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The last content states, of shape B T D, and the memory with which the next segment of each row is read.

        No gradient flows through a memory. Source: Dai et al. 2019, Transformer-XL, section 3.2.
        """
        states = self.model(inputs, None, memory_LBSD, remember=True)
        return states.content_BTD, self._remembered(states, memory_LBSD)

    def _remembered(self, states: _States, memory_LBSD: Tensor | None) -> Tensor:
        new_LBSD = torch.stack(states.layers_LBTD).detach()
        if self.config.reuse_len:
            new_LBSD = new_LBSD[:, :, : self.config.reuse_len]
        if memory_LBSD is not None:
            new_LBSD = torch.cat((memory_LBSD, new_LBSD), dim=2)
        return new_LBSD[:, :, -self.config.mem_len :] if self.config.mem_len else new_LBSD

    def loss_sum(
        self, inputs: Inputs, labels_BT: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> tuple[Tensor, Tensor, int]:
        """Summed loss in nats, number of right predictions, number of supervised tokens.

        Where the inputs have an order, labels are predicted by query states, which run at supervised places only.
        Source: Yang et al. 2019, eq. 5, partial prediction.
        """
        if inputs.order_BT is None:
            return super().loss_sum(inputs, labels_BT, label_smoothing=label_smoothing, z_loss=z_loss)
        places_BM, labels_BM = _supervised_places(labels_BT)
        return cross_entropy_sum(
            self.two_streams(inputs, places_BM),
            self.output_weight_VD,
            labels_BM,
            bias_V=self.output_bias_V,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            vocabulary=self.vocabulary,
        )

    @torch.no_grad()
    def most_likely(self, inputs: Inputs, labels_BT: Tensor) -> Tensor:
        """The likeliest token at each supervised place, in reading order, of shape M; by query states in an order."""
        if inputs.order_BT is None:
            return super().most_likely(inputs, labels_BT)
        places_BM, labels_BM = _supervised_places(labels_BT)
        return self.score(self.two_streams(inputs, places_BM)[labels_BM != IGNORED]).argmax(dim=-1)

    @torch.no_grad()
    def losses_and_hits(self, inputs: Inputs, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of every token in nats (0 where none is supervised) and whether it was the likeliest, both B T."""
        if inputs.order_BT is None:
            return super().losses_and_hits(inputs, labels_BT)
        places_BM, labels_BM = _supervised_places(labels_BT)
        states_BMD = self.two_streams(inputs, places_BM)
        weight, bias = self.output_weight_VD, self.output_bias_V
        found = token_losses(states_BMD, weight, labels_BM, bias_V=bias, vocabulary=self.vocabulary)
        losses_BT, hits_BT = (x.new_zeros(labels_BT.shape).scatter(1, places_BM, x) for x in found)
        return losses_BT, hits_BT

    @torch.no_grad()
    def next_logits(self, tokens_BT: Tensor, memory_LBSD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The logits of shape B V of the token after each row, and a memory of all tokens but the last.

        To go on quickly, give the memory back with the last token and the one that was chosen after it. What is
        remembered was read before the later tokens were there, so the logits are close to, but not quite, those of
        reading everything anew. Rows are of one length.
        """
        next_BT = torch.cat((tokens_BT, tokens_BT.new_zeros(len(tokens_BT), 1)), dim=1)
        order_BT = torch.zeros_like(next_BT)
        order_BT[:, -1] = 1
        places_B1 = torch.full_like(tokens_BT[:, :1], tokens_BT.shape[1])
        states = self.model(Inputs(next_BT, order_BT=order_BT), places_B1, memory_LBSD, remember=True)
        return self.score(states.query_BMD[:, 0]), self._remembered(states, memory_LBSD)[:, :, :-_REREAD]


def _supervised_places(labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the supervised tokens of each row and their labels, both B M, M being the most that a row has.

    Rows with fewer are filled up with places that are not supervised.
    """
    supervised_BT = labels_BT != IGNORED
    most = max(1, int(supervised_BT.sum(dim=1).max()))
    places_BM = supervised_BT.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return places_BM, labels_BT.gather(1, places_BM)


@torch.no_grad()
def initialise(model: TwoStream, generator: torch.Generator) -> None:
    """Fill the weights in place: all normal, those of distances and texts too, but zero biases and unit gains.

    Source: Yang et al. 2019 and the code published with it.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("layernorm.weight"):
            parameter.fill_(1.0)
        elif name.endswith("layernorm.bias") or name.endswith("proj.bias") or name == "output_bias":
            parameter.zero_()
        else:
            parameter.normal_(0.0, model.config.initializer_range, generator=generator)


def build(config: TwoStreamConfig, generator: torch.Generator | None = None) -> TwoStream:
    """A two-stream model with starting weights drawn from the generator."""
    model = TwoStream(config)
    initialise(model, generator or torch.Generator().manual_seed(0))
    return model


FAMILY = ModelFamily(
    name="two_stream",
    config=TwoStreamConfig,
    module=TwoStream,
    build=build,
    sharding={
        "model.embed_tokens.weight": "vocabulary",
        "lm_head.weight": "vocabulary",
        "output_bias": "vocabulary",
        "model.layers.*.self_attn.[qkvr]_proj.weight": "column",
        "model.layers.*.self_attn.*_bias": "column",
        "model.layers.*.self_attn.text_embedding": "row",
        "model.layers.*.self_attn.o_proj.weight": "row",
        "model.layers.*.mlp.up_proj.*": "column",
        "model.layers.*.mlp.down_proj.weight": "row",
    },
)
