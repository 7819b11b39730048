"""What every family's model has in common: inputs go in, states come out, and an output layer scores tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.core.errors import ConfigError
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED, cross_entropy_sum, losses_one_by_one, token_losses
from preceptor.nn.vocabulary import VocabularyShare

_NOT_HIDDEN = (
    *("embed_tokens.weight", "embed_positions.weight", "embed_token_types.weight", "shared.weight"),
    *("prompt_PD", "embedding_PW"),
    *("relative_bias.weight", "_bias", "lm_head.weight", "lm_head.decoder.weight", "output.weight"),
)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a weight turns states into states: neither a table of embeddings or biases, nor an output layer."""
    return parameter.dim() == 2 and not name.endswith(_NOT_HIDDEN)


def shared_output_weight(embedding: nn.Embedding) -> Tensor:
    """The weights of an output layer that are those of the embedding, with its change where it is adapted."""
    weight: Tensor = getattr(embedding, "output_weight_VD", embedding.weight)
    return weight


class LanguageModel(nn.Module):
    """A model of any family. A family says how states are made, and what stands between them and the scores."""

    config: Any
    logit_softcap: float = 0.0
    """Logits are kept within plus and minus this, softly; 0 leaves them alone."""
    num_prefix_tokens: int = 0
    """How many trained keys and values the layers find in front of every document."""
    vocabulary: VocabularyShare | None = None
    """Of which tokens embedding and output layer are held here, where they are dealt over processes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        """What says something other than the next token, by name."""

    def hidden(self, inputs: Inputs) -> Tensor:
        """The last states, of shape B T D, one for each of ``inputs.tokens_BT``."""
        raise NotImplementedError

    def to_output(self, hidden: Tensor) -> Tensor:
        """States made ready for the output weights, of shape ... D."""
        return hidden

    @property
    def output_weight_VD(self) -> Tensor:
        """The weights that turn a state into scores of the vocabulary."""
        raise NotImplementedError

    @property
    def output_bias_V(self) -> Tensor | None:
        """What is added to the scores."""
        return None

    @property
    def input_embedding(self) -> nn.Embedding:
        """The embedding of the vocabulary."""
        raise NotImplementedError

    @property
    def num_scores(self) -> int:
        """How many scores a state has: V, wherever they are made."""
        return self.output_weight_VD.shape[0] if self.vocabulary is None else self.vocabulary.size

    @property
    def longest_document(self) -> int:
        """How many tokens a document can have: a prefix takes positions too."""
        return int(self.config.max_position_embeddings) - self.num_prefix_tokens

    def places(self, inputs: Inputs) -> Tensor:
        """The positions of the tokens, of shape B T, behind those of a prefix.

        Raises:
            ConfigError: with the prefix in front of it a document is longer than the model can read.
        """
        places_BT = inputs.places(self.num_prefix_tokens)
        # Only where a row could hold such a document is it looked for: looking waits for the device.
        could_be = self.num_prefix_tokens and places_BT.shape[1] > self.longest_document
        if could_be and int(places_BT.max()) >= self.config.max_position_embeddings:
            raise ConfigError(
                f"with a prefix of {self.num_prefix_tokens} in front of it a document can have "
                f"{self.longest_document} tokens, and there is one of more",
                path="finetuning.context_length",
                remedy=f"lower context_length to {self.longest_document}, or choose a shorter prefix",
            )
        return places_BT

    def score(self, hidden: Tensor) -> Tensor:
        """The logits of states, of shape ... V."""
        hidden, share = self.to_output(hidden), self.vocabulary
        if share is not None:
            hidden = share.enter(hidden)
        logits = F.linear(hidden, self.output_weight_VD, self.output_bias_V)
        if share is not None:
            logits = share.gathered(logits)
        return self.logit_softcap * torch.tanh(logits / self.logit_softcap) if self.logit_softcap else logits

    def forward(self, inputs: Inputs) -> Tensor:
        """The logits of shape B T V. Training uses ``loss_sum``, which never holds them all."""
        return self.score(self.hidden(inputs))

    @torch.no_grad()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        """The logits of shape B T V for rows of one document each, without gradients."""
        return self(Inputs(tokens_BT))  # type: ignore[no-any-return]

    def loss_sum(
        self, inputs: Inputs, labels_BT: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> tuple[Tensor, Tensor, int]:
        """Summed loss in nats, number of right predictions, number of supervised tokens.

        ``labels_BT`` is what is to be said at each place, or ``IGNORED``.
        """
        supervised_BT = labels_BT != IGNORED
        hidden_1MD = self.to_output(self.hidden(inputs)[supervised_BT]).unsqueeze(0)
        return cross_entropy_sum(
            hidden_1MD,
            self.output_weight_VD,
            labels_BT[supervised_BT].unsqueeze(0),
            bias_V=self.output_bias_V,
            softcap=self.logit_softcap or None,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            vocabulary=self.vocabulary,
        )

    def supervised_losses(self, inputs: Inputs, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each supervised token in nats, with its gradient, and whether it was the likeliest, both M.

        They come in reading order. For losses that are no plain sum over tokens; a sum is cheaper by ``loss_sum``.
        """
        supervised_BT = labels_BT != IGNORED
        return losses_one_by_one(
            self.to_output(self.hidden(inputs)[supervised_BT]),
            self.output_weight_VD,
            labels_BT[supervised_BT],
            bias_V=self.output_bias_V,
            softcap=self.logit_softcap or None,
            vocabulary=self.vocabulary,
        )

    @torch.no_grad()
    def most_likely(self, inputs: Inputs, labels_BT: Tensor) -> Tensor:
        """The likeliest token at each supervised place, in reading order, of shape M."""
        return self.score(self.hidden(inputs)[labels_BT != IGNORED]).argmax(dim=-1)

    @torch.no_grad()
    def losses_and_hits(self, inputs: Inputs, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of every token in nats (0 where none is supervised) and whether it was the likeliest, both B T."""
        hidden_BTD = self.to_output(self.hidden(inputs))
        return token_losses(
            hidden_BTD,
            self.output_weight_VD,
            labels_BT,
            bias_V=self.output_bias_V,
            softcap=self.logit_softcap or None,
            vocabulary=self.vocabulary,
        )
