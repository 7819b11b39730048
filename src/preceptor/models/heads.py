"""Heads: small layers on top of any family's states that say something other than the next token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from preceptor.models.language_model import LanguageModel
from preceptor.nn.inputs import Inputs

HeadKind = Literal["classifier", "tagger", "span", "regression"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What a head says, and of what."""

    kind: HeadKind = "classifier"
    """classifier: classes of a document; tagger: a class for each token; span: where an answer begins and ends;
    regression: numbers for a document."""
    labels: tuple[str, ...] = ()
    """What each output is called; for a span "start" and "end"."""
    multi_label: bool = False
    """Whether a document may have several classes, or none."""
    dense: bool = False
    """Whether a layer with a tanh stands before the outputs, as in BERT's pooler."""
    dropout: float = 0.0
    """Probability of dropping an element of what the head reads, in training."""

    def __post_init__(self) -> None:
        """Refuse heads that say nothing."""
        if self.kind == "span" and self.labels != ("start", "end"):
            raise ValueError(f'labels of a span must be "start" and "end", got {self.labels}')
        if not self.labels:
            raise ValueError("labels must name at least one output")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ from each other, got {self.labels}")
        if self.multi_label and self.kind != "classifier":
            raise ValueError(f"multi_label is for a classifier, not for a {self.kind}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")


def span_head() -> HeadConfig:
    """A head that says where an answer begins and ends."""
    return HeadConfig(kind="span", labels=("start", "end"))


class Head(nn.Module):
    """Scores of states, one for each label."""

    def __init__(self, config: HeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.dense = nn.Linear(hidden_size, hidden_size) if config.dense else None
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden_size, len(config.labels))

    def forward(self, hidden: Tensor) -> Tensor:
        """The scores, of shape ... C, of states of shape ... D."""
        hidden = self.dropout(hidden)
        if self.dense is not None:
            hidden = self.dropout(torch.tanh(self.dense(hidden)))
        return self.output(hidden)  # type: ignore[no-any-return]


def attach_head(
    model: LanguageModel, name: str, config: HeadConfig, generator: torch.Generator | None = None
) -> LanguageModel:
    """The model with a head of that name, whose weights are drawn from the generator; a head of that name is replaced.

    Raises:
        ValueError: the name cannot be the name of a module.
    """
    if not name.isidentifier():
        raise ValueError(f"a head's name must be a word without marks, got {name!r}")
    weight = model.input_embedding.weight
    head = Head(config, weight.shape[1]).to(dtype=weight.dtype)
    deviation = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() < 2:
                parameter.zero_()
            else:
                parameter.normal_(0.0, deviation, generator=generator or torch.Generator().manual_seed(0))
    model.heads[name] = head.to(weight.device).train(model.training)
    return model


def head_scores(model: LanguageModel, name: str, inputs: Inputs) -> Tensor:
    """The scores of a head at every token, of shape B T C."""
    return model.heads[name](model.hidden(inputs))  # type: ignore[no-any-return]


SpeakingPlace = Literal["first", "last"]


def speaking_place(model: LanguageModel) -> SpeakingPlace:
    """Whether the first or the last token of a document has seen all of it, and so speaks for it.

    Source: Devlin et al. 2019 (first); Radford et al. 2018 and Yang et al. 2019 (last).
    """
    return "first" if model.config.family in ("encoder", "encoder_decoder") else "last"


def label_numbers(config: HeadConfig, labels: Sequence[str]) -> list[int]:
    """The numbers of labels.

    Raises:
        ValueError: a label is not one of the head's; names it.
    """
    numbers = {label: number for number, label in enumerate(config.labels)}
    if unknown := [label for label in labels if label not in numbers]:
        raise ValueError(f"{unknown[0]!r} is not one of the labels {', '.join(config.labels)}")
    return [numbers[label] for label in labels]
