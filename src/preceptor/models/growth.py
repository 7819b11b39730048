"""New parts of a trained model: a block more, a larger vocabulary, an output layer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from preceptor.models.interchange import architecture_of
from preceptor.models.language_model import LanguageModel

_LAYER = re.compile(r"^((?:model\.)?layers\.)(\d+)(\..+)$")


@torch.no_grad()
def add_block(model: LanguageModel, place: int, start: Literal["identity", "copy"] = "identity") -> LanguageModel:
    """A model with one block more, the new one at ``place`` (0 is before all others); the given one stays as it is.

    An identity adds nothing to the residual stream until it is trained, which only blocks that normalise their input
    can do: the logits stay as they were. A copy repeats the block below; at 0, and above a first block that is unlike
    the others, as ModernBERT's, the one above.

    Source: Bachlechner et al. 2021 for blocks that start as the identity; Kim et al. 2023 for copies.

    Raises:
        ValueError: there is no such place for a block in this model, or its blocks cannot start as the identity.
    """
    config = model.config
    count = getattr(config, "num_hidden_layers", 0)
    if not any(_LAYER.match(name) for name in model.state_dict()):
        raise ValueError(f"blocks cannot be added to a model of the family {config.family}")
    if not 0 <= place <= count:
        raise ValueError(f"place must be between 0 and {count}, got {place}")
    if getattr(config, "sliding_window", 0) and getattr(config, "full_attention_every", 0):
        raise ValueError("the layers of this model alternate, and those above the new one would change their window")
    if start == "identity" and getattr(config, "norm_placement", "after") != "before":
        raise ValueError("only blocks that normalise their input can start as the identity; use copy")
    like = max(0, place - 1)
    if _first_is_unlike(model):
        if place == 0 or count == 1:
            raise ValueError("the first block of this model has no norm of its own, so none can stand before it")
        like = max(1, like)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not (found := _LAYER.match(name)):
            state[name] = tensor
            continue
        prefix, number, rest = found[1], int(found[2]), found[3]
        state[f"{prefix}{number + (number >= place)}{rest}"] = tensor
        if number == like:
            adds = start == "identity" and rest.startswith((".self_attn.o_proj.", ".mlp.down_proj."))
            state[f"{prefix}{place}{rest}"] = torch.zeros_like(tensor) if adds else tensor
    return _rebuilt(model, replace(config, num_hidden_layers=count + 1), state)


def _first_is_unlike(model: LanguageModel) -> bool:
    """Whether the first block has other tensors than the last."""
    found = [match for name in model.state_dict() if (match := _LAYER.match(name))]
    last = max(int(match[2]) for match in found)
    return {match[3] for match in found if match[2] == "0"} != {match[3] for match in found if int(match[2]) == last}


@torch.no_grad()
def grow_vocabulary(model: LanguageModel, pieces: Sequence[Sequence[int]], generator: torch.Generator) -> LanguageModel:
    """A model with a token more for each entry of ``pieces``; the given one stays as it is.

    A new token's rows start as the mean of the rows of the pieces by which it was written until now; where none are
    named, as the mean of all rows and noise of their covariance, so that it neither stands out nor equals another.

    Source: Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models.

    Raises:
        ValueError: a piece is no token of the model.
    """
    vocab_size = model.config.vocab_size
    if wrong := [piece for each in pieces for piece in each if not 0 <= piece < vocab_size]:
        raise ValueError(f"{wrong[0]} is no token of a vocabulary of {vocab_size}")
    config = replace(model.config, vocab_size=vocab_size + len(pieces))
    with torch.device("meta"):
        empty = architecture_of(config).family.module(config).state_dict()
    state = {}
    for name, tensor in model.state_dict().items():
        grown = name in empty and tensor.shape != empty[name].shape
        state[name] = torch.cat((tensor, _new_rows(tensor, pieces, generator))) if grown else tensor
    return _rebuilt(model, config, state)


def _new_rows(rows: Tensor, pieces: Sequence[Sequence[int]], generator: torch.Generator) -> Tensor:
    """A row for each entry of pieces."""
    mean, spread = rows.float().mean(0), rows.float() - rows.float().mean(0)
    new = []
    for each in pieces:
        if each:
            new.append(rows[list(each)].float().mean(0))
        elif rows.dim() == 1:
            new.append(mean)
        else:
            # A random mixture of the rows' own deviations has their covariance.
            draw = torch.randn(len(rows), generator=generator) / len(rows) ** 0.5
            new.append(mean + 1e-2 * (draw.to(spread.device) @ spread))
    return torch.stack(new).to(rows.dtype) if new else rows[:0]


@torch.no_grad()
def with_output_layer(model: LanguageModel, *, tied: bool, generator: torch.Generator) -> LanguageModel:
    """A model with an output layer for tokens of its own, or one that shares the embedding's weights.

    What the model has stays; a layer of its own starts as a copy of what gave the scores until now.
    """
    changes: dict[str, Any] = {"tie_word_embeddings": tied}
    if hasattr(model.config, "lm_head"):
        changes |= {"lm_head": True}
    config = replace(model.config, **changes)
    made = architecture_of(config).family.build(config, generator)
    state = made.state_dict()
    own = {name for name in state if name in ("lm_head.weight", "lm_head.decoder.weight")}
    before = model.state_dict()
    for name in state:
        if name in before:
            state[name] = before[name]
        elif name in own:
            state[name] = model.input_embedding.weight.detach().clone()
    return _rebuilt(model, config, state)


def _rebuilt(model: LanguageModel, config: Any, state: Mapping[str, Tensor]) -> LanguageModel:
    """A model of the configuration with these weights, and with the heads of the given one."""
    made = architecture_of(config).family.module(config)
    made.load_state_dict({name: tensor.clone() for name, tensor in state.items() if not name.startswith("heads.")})
    for name, head in model.heads.items():
        twin = type(head)(head.config, made.input_embedding.weight.shape[1])
        twin.load_state_dict(head.state_dict())
        made.heads[name] = twin
    return made.to(model.input_embedding.weight.device).train(model.training)
