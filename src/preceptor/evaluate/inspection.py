"""What happens inside a model while it reads a text: who attends to whom, and how large everything is."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.language_model import LanguageModel
from preceptor.nn.attention import Attention, recorded_attention
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.nn.relative import RelativeAttention
from preceptor.tokenizer.tokenizer import Tokenizer

MASKED_EVERY = 7
"""Of how many tokens one is hidden from an encoder: about the 15 % of Devlin et al. 2019, section 3.1."""
OUT_OF_LINE = 1000.0
"""How far from the middle of all blocks a norm may be, as a factor, before it is said to vanish or to explode.

Norms that shrink or grow do so by a factor a layer (Pascanu et al. 2013, section 2.1), and blocks that share a
learning rate should have gradients of about one size (Glorot and Bengio 2010, section 4.2). Three powers of ten are a
convention: far beyond what healthy blocks differ by, and soon reached where each layer has a factor of its own.
"""


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """What one attention looked at."""

    name: str
    """The module, such as ``model.layers.0.self_attn``."""
    layer: int
    weights_NTS: NDArray[np.float32]
    """For each head and query the share of each key; a row sums to one."""
    queries: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerNorms:
    """How large one part of a model is, on a text."""

    name: str
    activation: float
    """Of what it leaves: the norm of a token's state, averaged over the tokens."""
    gradient: float
    """Of the mean loss by all of its weights together."""
    weight: float
    """Of all of its weights together."""


@dataclass(frozen=True, slots=True)
class Norms:
    """The sizes of the embedding and of all blocks, in their order."""

    loss: float
    """Nats for each supervised token."""
    asked: str
    """What was to be predicted."""
    layers: tuple[LayerNorms, ...]

    def findings(self) -> list[str]:
        """A sentence for every part whose size is out of line; one that says that there is none, if so."""
        found = []
        for kind in ("activation", "gradient", "weight"):
            values = [float(getattr(layer, kind)) for layer in self.layers]
            usual = [value for value in values if 0 < value < math.inf]
            middle = statistics.median(usual) if usual else 1.0
            for layer, value in zip(self.layers, values, strict=True):
                if said := _finding(kind, layer.name, value, middle):
                    found.append(said)
        return found or [
            f"no part vanishes or explodes: all norms are finite, none is 0, and none is more than "
            f"{OUT_OF_LINE:,.0f} times larger or smaller than the median of its kind"
        ]


def _finding(kind: str, name: str, value: float, middle: float) -> str:
    if not math.isfinite(value):
        return f"{name}: the {kind} explodes: its norm is {value}, which is no finite number"
    if value == 0:
        return f"{name}: the {kind} vanishes: it is exactly 0"
    if value > OUT_OF_LINE * middle:
        return f"{name}: the {kind} explodes: its norm is {value:.3g}, {value / middle:,.0f} times the median"
    if value * OUT_OF_LINE < middle:
        return f"{name}: the {kind} vanishes: its norm is {value:.3g}, the median is {middle / value:,.0f} times larger"
    return ""


@dataclass(frozen=True, slots=True)
class _Text:
    """A text as a family reads it in training."""

    inputs: Inputs
    labels_BT: Tensor
    tokens: tuple[str, ...]
    source: tuple[str, ...]
    asked: str


def attention_maps(model: LanguageModel, tokenizer: Tokenizer, text: str, target: str = "") -> list[AttentionMap]:
    """The weights of every attention, in the order in which a pass uses them.

    ``target`` is what the decoder of an encoder-decoder says; the text itself when left out. The content states of a
    two-stream model see the whole text.

    Raises:
        ConfigError: the text is empty, or longer than the model can read.
    """
    read = _read(model, tokenizer, text, target, to_predict=False)
    modules = {
        name: module for name, module in model.named_modules() if isinstance(module, Attention | RelativeAttention)
    }
    used: list[str] = []
    with ExitStack() as hooks, torch.no_grad(), _evaluating(model), recorded_attention() as recorded:
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(lambda *_, name=name: used.append(name))
            hooks.callback(handle.remove)
        model.hidden(read.inputs)
    maps = []
    for name, weights_BNTS in zip(used, recorded, strict=True):
        weights_NTS = weights_BNTS[0].float().cpu().numpy()
        from_source, to_source = _sides(name)
        queries, keys = (read.source if side else read.tokens for side in (from_source, to_source))
        # A trained prefix stands in front of what is read.
        prefix = tuple(f"[prefix {place + 1}]" for place in range(weights_NTS.shape[2] - len(keys)))
        maps.append(AttentionMap(name, _layer_of(name), weights_NTS, queries, (*prefix, *keys)))
    return maps


def _sides(name: str) -> tuple[bool, bool]:
    """Whether queries and keys are those of the source of an encoder-decoder."""
    in_encoder = name.startswith("encoder.")
    return in_encoder, in_encoder or name.endswith("encoder_attn")


def _layer_of(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdecimal()), 0)


def norms(model: LanguageModel, tokenizer: Tokenizer, text: str, target: str = "") -> Norms:
    """The norms of activations, gradients and weights of the embedding and of all blocks, from one text.

    The loss is that of pre-training: a decoder predicts each next token, an encoder every seventh, which is hidden, a
    two-stream model each token from those before it, an encoder-decoder the target from the text. Gradients that the
    model holds are left as they are.

    Raises:
        ConfigError: the text is empty, or longer than the model can read.
        ArtifactError: the model has no output layer, or the tokenizer of an encoder no token that hides others.
    """
    if getattr(model.config, "lm_head", True) is False:
        raise ArtifactError(
            "the model has no output layer for tokens, so that a text gives it no loss",
            remedy="name a model with the head of its pre-training",
        )
    read = _read(model, tokenizer, text, target, to_predict=True)
    parts = _parts(model)
    activations: dict[str, float] = {}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as hooks, _evaluating(model):
        for name, part in parts.items():

            def note(_: nn.Module, __: Any, left: Tensor, name: str = name) -> None:
                activations.setdefault(name, float(left.detach().float().norm(dim=-1).mean()))

            hooks.callback(part.register_forward_hook(note).remove)
        loss_sum, _, num_supervised = model.loss_sum(read.inputs, read.labels_BT)
        loss = loss_sum / num_supervised
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = {id(parameter): gradient for parameter, gradient in zip(parameters, found, strict=True)}
    layers = tuple(
        LayerNorms(
            name,
            activations.get(name, 0.0),
            _norm([gradients.get(id(parameter)) for parameter in part.parameters()]),
            _norm([parameter.detach() for parameter in part.parameters()]),
        )
        for name, part in parts.items()
    )
    return Norms(float(loss.detach()), read.asked, layers)


def _norm(tensors: Sequence[Tensor | None]) -> float:
    squares = [float(tensor.double().square().sum()) for tensor in tensors if tensor is not None]
    return math.sqrt(sum(squares)) if squares else 0.0


def _parts(model: LanguageModel) -> dict[str, nn.Module]:
    """The embedding and every block, by name."""
    embedding = model.input_embedding
    return {
        name: module
        for name, module in model.named_modules()
        if module is embedding or isinstance(getattr(module, "self_attn", None), Attention | RelativeAttention)
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which nothing is dropped at random."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _read(model: LanguageModel, tokenizer: Tokenizer, text: str, target: str, *, to_predict: bool) -> _Text:
    if not text.strip():
        raise ConfigError("the text is empty", remedy="give a few words to look at")
    read = _READERS[model.config.family](model, tokenizer, text, target, to_predict)
    longest = int(getattr(model.config, "max_position_embeddings", 0))
    for tokens in filter(None, (read.tokens, read.source)):
        if longest and len(tokens) > longest:
            raise ConfigError(
                f"the text has {len(tokens):,} tokens; the model reads {longest:,} at most", remedy="give a shorter one"
            )
    return read


def _batch(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    table = model.input_embedding.weight
    if max(ids) >= len(table):
        raise ArtifactError(
            f"the tokenizer gives id {max(ids)}, and the model knows {len(table)} tokens",
            remedy="name a folder whose tokenizer is the model's own",
        )
    return torch.tensor([list(ids)], device=table.device)


def _decoder_text(model: LanguageModel, tokenizer: Tokenizer, text: str, _: str, to_predict: bool) -> _Text:
    first = tokenizer.set_id("bos_token", tokenizer.end_of_text_id)
    ids = [first, *tokenizer.encode(text)]
    tokens_BT = _batch(model, ids)
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    labels_BT[:, :-1] = tokens_BT[:, 1:]
    return _Text(Inputs(tokens_BT), labels_BT, token_labels(tokenizer, ids), (), "each next token")


def _encoder_text(model: LanguageModel, tokenizer: Tokenizer, text: str, _: str, to_predict: bool) -> _Text:
    end = tokenizer.end_of_text_id
    first, last = (tokenizer.set_id(name, end) for name in ("cls_token", "sep_token"))
    ids = [first, *tokenizer.encode(text), last]
    tokens_BT = _batch(model, ids)
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    if to_predict:
        hidden_T = torch.arange(1, len(ids) - 1, MASKED_EVERY, device=tokens_BT.device)
        labels_BT[:, hidden_T] = tokens_BT[:, hidden_T]
        tokens_BT[:, hidden_T] = tokenizer.mask_id
        ids = tokens_BT[0].tolist()
    asked = f"one token in {MASKED_EVERY}, which is hidden"
    return _Text(Inputs(tokens_BT), labels_BT, token_labels(tokenizer, ids), (), asked)


def _two_stream_text(model: LanguageModel, tokenizer: Tokenizer, text: str, _: str, to_predict: bool) -> _Text:
    end = tokenizer.end_of_text_id
    ids = [*tokenizer.encode(text), *(tokenizer.set_id(name, end) for name in ("sep_token", "cls_token"))]
    tokens_BT = _batch(model, ids)
    order_BT = torch.arange(len(ids), device=tokens_BT.device).unsqueeze(0) if to_predict else None
    inputs = Inputs(tokens_BT, order_BT=order_BT)
    return _Text(inputs, tokens_BT, token_labels(tokenizer, ids), (), "each token from those before it")


def _encoder_decoder_text(
    model: LanguageModel, tokenizer: Tokenizer, text: str, target: str, to_predict: bool
) -> _Text:
    end = tokenizer.end_of_text_id
    source, said = ([*tokenizer.encode(each), end] for each in (text, target or text))
    shifted = [model.config.decoder_start_token_id, *said[:-1]]
    inputs = Inputs(_batch(model, shifted), source=Inputs(_batch(model, source)))
    tokens, of_source = (token_labels(tokenizer, ids) for ids in (shifted, source))
    return _Text(inputs, _batch(model, said), tokens, of_source, "the target from the text")


_READERS = {
    "decoder": _decoder_text,
    "encoder": _encoder_text,
    "two_stream": _two_stream_text,
    "encoder_decoder": _encoder_decoder_text,
}


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens as they are written on an axis: spaces and ends of lines made visible, special tokens by their names."""
    special = {tokenizer.special_id(token): token for token in tokenizer.special_tokens}
    return tuple(special.get(token) or _visible(tokenizer, token) for token in ids)


def _visible(tokenizer: Tokenizer, token: int) -> str:
    text = tokenizer.token_bytes(token).decode("utf-8", "replace")
    text = text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
    return text if text.isprintable() and text else repr(text)[1:-1] or f"<{token}>"
