"""Parity: whether a model that leaves says what the trained one says, and reads what it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from preceptor.adapters.attach import virtual_ids
from preceptor.core.errors import OutputError
from preceptor.models.decoder import Decoder
from preceptor.models.foreign import ForeignModel
from preceptor.models.language_model import LanguageModel
from preceptor.nn.inputs import Inputs
from preceptor.serve.generate import generate_many
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.chat import encode_chat, encode_prompt
from preceptor.tokenizer.tokenizer import Tokenizer

NUM_PROMPTS = 16
"""How many texts both models read."""
_LONGEST = 64
_GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=16)
BUILT_IN = (
    "What is a language model?",
    "The quick brown fox jumps over the lazy dog.",
    "def add(first, second):\n    return first + second\n",
    "In the year 1969, 3 people flew 384,400 km.",
)
"""What is read where a run has no questions and no documents of its own to ask."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a model may be from the trained one."""

    max_logit_difference: float
    kl_per_token: float
    """In nats."""
    same_tokens: float
    """The least share of places at which both find the same token the likeliest."""


BOUNDS = {
    "float32": Bound(1e-3, 1e-6, 0.99),
    "16-bit": Bound(0.5, 5e-3, 0.9),
    "8-bit": Bound(1.0, 2e-2, 0.85),
    "4-bit": Bound(8.0, 0.3, 0.6),
}
"""By format of the weights. Fewer bits are worse, and how much so depends on the model: the bounds tell a model with
rounded weights from a wrong one, and the figures themselves say how good it is."""


@dataclass(frozen=True)
class Prompts:
    """What both models read: rows of ids, of which the first ones are questions in the chat template."""

    questions: tuple[str, ...]
    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, questions: Sequence[str], texts: Sequence[str], context: int, *, talks: bool = True
    ) -> "Prompts":
        """The prompts, cut to the context, with the built-in ones where there are none; ``talks``: some are asked."""
        asked = tuple(questions or BUILT_IN[:1] * talks)[:NUM_PROMPTS]
        told = tuple(texts or BUILT_IN)[: NUM_PROMPTS - len(asked)]
        prompts = cls(asked, told, ())
        rows = tuple(tuple(row[: min(_LONGEST, context - 1)]) for row in prompts.encoded(tokenizer))
        return replace(prompts, rows=rows)

    def encoded(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The ids that a tokenizer makes of them."""
        asked = [encode_prompt(tokenizer, question) for question in self.questions]
        return asked + [[tokenizer.end_of_text_id, *tokenizer.encode(text)] for text in self.texts]


@dataclass(frozen=True)
class Reading:
    """What a model says to the prompts."""

    logits: tuple[Tensor, ...]
    """Of each row T V, in float32."""
    heads: Mapping[str, tuple[Tensor, ...]]
    """Of each head and each row T C."""
    answers: tuple[tuple[int, ...], ...]
    """What follows each row greedily; none where the model does not generate."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near a model is to the trained one."""

    what: str
    format: str
    max_logit_difference: float
    kl_per_token: float
    same_tokens: float
    same_answers: float | None
    """The share of greedy answers that are the same to the last token; None where the model does not generate."""
    tokens: int
    """At how many places they were compared."""
    bound: Bound

    @property
    def holds(self) -> bool:
        """Whether it is near enough; a figure that is no number is not."""
        return (
            self.max_logit_difference <= self.bound.max_logit_difference
            and self.kl_per_token <= self.bound.kl_per_token
            and self.same_tokens >= self.bound.same_tokens
        )

    def facts(self) -> dict[str, Any]:
        """The agreement as JSON."""
        return asdict(self)


@torch.no_grad()
def read(model: LanguageModel, prompts: Prompts, tokenizer: Tokenizer) -> Reading:
    """What a model says to the prompts; of one that has no output layer, its last states stand for the logits."""
    model.eval()
    has_output = getattr(model.config, "lm_head", True)
    logits, heads = [], {name: [] for name in model.heads}  # type: ignore[var-annotated]
    rows = [(*virtual_ids(model), *row) for row in prompts.rows]
    for row in rows:
        inputs = inputs_of(model, row)
        states_1TD = model.hidden(inputs)
        logits.append((model.score(states_1TD) if has_output else states_1TD)[0].float())
        for name, scores in heads.items():
            scores.append(model.heads[name](states_1TD)[0].float())
    answers: Sequence[Sequence[int]] = ()
    if isinstance(model, Decoder | ForeignModel):
        answers = generate_many(model, rows, _GREEDY, tokenizer.end_of_text_id)
    return Reading(
        tuple(logits), {name: tuple(rows) for name, rows in heads.items()}, tuple(tuple(each) for each in answers)
    )


def inputs_of(model: LanguageModel, row: Sequence[int]) -> Inputs:
    """A row of ids as what a model of any family reads."""
    tokens_1T = torch.tensor([list(row)])
    return Inputs(tokens_1T, source=Inputs(tokens_1T) if model.config.family == "encoder_decoder" else None)


def compare(reference: Reading, other: Reading, what: str, format: str) -> Agreement:
    """How near another model is to the trained one.

    Raises:
        OutputError: they differ by more than the bound of the format, or in shape.
    """
    pairs = list(zip(reference.logits, other.logits, strict=True))
    if reference.heads.keys() != other.heads.keys() or any(one.shape != two.shape for one, two in pairs):
        raise _blocked(f"{what} has another vocabulary or other heads than the trained one")
    with_heads = pairs + [
        pair for name in reference.heads for pair in zip(reference.heads[name], other.heads[name], strict=True)
    ]
    same = [float(one == two) for one, two in zip(reference.answers, other.answers, strict=True)]
    num_tokens = sum(len(one) for one, _ in pairs)
    found = Agreement(
        what=what,
        format=format,
        max_logit_difference=max(_largest(one, two) for one, two in with_heads),
        kl_per_token=sum(_kl_sum(one, two) for one, two in pairs) / num_tokens,
        same_tokens=sum(int((one.argmax(-1) == two.argmax(-1)).sum()) for one, two in pairs) / num_tokens,
        same_answers=sum(same) / len(same) if same else None,
        tokens=num_tokens,
        bound=BOUNDS[format],
    )
    if not found.holds:
        bound = found.bound
        raise _blocked(
            f"{what} says something else than the trained one: logits differ by up to "
            f"{found.max_logit_difference:.3g} (allowed {bound.max_logit_difference:g}), by {found.kl_per_token:.3g} "
            f"nats for a token (allowed {bound.kl_per_token:g}), and the likeliest token is the same at "
            f"{100 * found.same_tokens:.1f} % of places (at least {100 * bound.same_tokens:g} %)"
        )
    return found


def _largest(one: Tensor, two: Tensor) -> float:
    # Where both are minus infinity they agree.
    return float(torch.where(one == two, torch.zeros_like(one), (one - two).abs()).max())


def _kl_sum(reference_TV: Tensor, other_TV: Tensor) -> float:
    """Kullback-Leibler divergence of the other distribution from the reference, in nats, summed over places."""
    reference_TV, other_TV = reference_TV.double().log_softmax(-1), other_TV.double().log_softmax(-1)
    terms_TV = reference_TV.exp() * (reference_TV - other_TV)
    return float(torch.where(reference_TV == other_TV, torch.zeros_like(terms_TV), terms_TV).sum())


def require_same_ids(prompts: Prompts, ours: Tokenizer, theirs: Tokenizer) -> None:
    """Refuse a tokenizer or a chat template that reads something else than what the model was trained with.

    Raises:
        OutputError: names the first text that is written otherwise.
    """
    texts = (*prompts.questions, *prompts.texts)
    for text, one, two in zip(texts, prompts.encoded(ours), prompts.encoded(theirs), strict=True):
        if one != two:
            raise _blocked(f"the exported tokenizer or chat template gives other ids for {text[:40]!r}")
    for question in prompts.questions[:1]:
        talk = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And then?"},
        ]
        both = (encode_chat(each, talk, add_generation_prompt=True) for each in (ours, theirs))
        if len({tuple(ids) for ids in both}) > 1:
            raise _blocked("the exported chat template gives other ids for a conversation")
    if ours.end_of_text_id != theirs.end_of_text_id:
        raise _blocked(f"the exported tokenizer ends a text with {theirs.end_of_text!r}, not with {ours.end_of_text!r}")


def _blocked(why: str) -> OutputError:
    return OutputError(
        f"the export is blocked: {why}",
        remedy="nothing was written; try more bits, and report it where the bits are 32",
    )
