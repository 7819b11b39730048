"""Prefix tuning: every layer finds trained keys and values in front of every document; saved in peft's layout.

Where peft has it, an encoder-decoder has them in the self-attention of its decoder.

Source: Li and Liang 2021.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.adapters.adapter import freeze
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.virtual_tokens import check_room, read_virtual_tokens, write_virtual_tokens
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.language_model import LanguageModel
from preceptor.nn.attention import Attention

PEFT_TYPE = "PREFIX_TUNING"


class KeyValuePrefix(nn.Module):
    """The prefix of one layer, trained as it is. It starts at random, as in peft."""

    def __init__(self, attention: Attention, num_tokens: int, generator: torch.Generator | None) -> None:
        super().__init__()
        dtype, device = _place(attention)
        shape = (2, num_tokens, attention.shape.num_key_value_heads, attention.shape.head_dim)
        drawn = torch.empty(shape).normal_(generator=generator)
        self.keys_PKH, self.values_PKH = (nn.Parameter(each.to(dtype=dtype, device=device)) for each in drawn)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The keys and the values, both of shape P K H."""
        return self.keys_PKH, self.values_PKH


class PrefixNetwork(nn.Module):
    """What the prefixes of all layers are made of while they train: a row for each place, and a layer with a tanh."""

    def __init__(
        self, attention: Attention, num_tokens: int, hidden_size: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        dtype, device = _place(attention)
        width = attention.shape.num_key_value_heads * attention.shape.head_dim
        drawn = torch.empty(num_tokens, width).normal_(generator=generator)
        self.embedding_PW = nn.Parameter(drawn.to(dtype=dtype, device=device))
        self.inner = _linear(width, hidden_size, generator).to(dtype=dtype, device=device)

    def forward(self) -> Tensor:
        """What each layer makes its prefix of, of shape P x hidden_size."""
        return torch.tanh(self.inner(self.embedding_PW))


class MadePrefix(nn.Module):
    """The prefix of one layer, made of what all layers share; so that every layer can be run by itself, or anew."""

    def __init__(self, attention: Attention, network: PrefixNetwork, generator: torch.Generator | None) -> None:
        super().__init__()
        shape, (dtype, device) = attention.shape, _place(attention)
        # In a tuple it is no part of this module: the model owns it, and each of its weights has one name.
        self._network = (network,)
        self.heads = (2, shape.num_key_value_heads, shape.head_dim)
        width = 2 * shape.num_key_value_heads * shape.head_dim
        self.output = _linear(network.inner.out_features, width, generator).to(dtype=dtype, device=device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The keys and the values, both of shape P K H."""
        keys_PKH, values_PKH = self.output(self._network[0]()).unflatten(1, self.heads).unbind(1)
        return keys_PKH, values_PKH


def _place(attention: Attention) -> tuple[torch.dtype, torch.device]:
    """The type and the device of a prefix: at least single precision, whatever the layer is kept in."""
    weight = attention.o_proj.weight
    return torch.promote_types(weight.dtype, torch.float32), weight.device


def _linear(num_inputs: int, num_outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer that starts as PyTorch's do, drawn from the generator."""
    layer = nn.Linear(num_inputs, num_outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(num_inputs**-0.5), num_inputs**-0.5, generator=generator)
    return layer


def _attentions(model: nn.Module) -> list[Attention]:
    """The layers that have a prefix, in order: where there are two stacks, those of the decoder.

    Raises:
        ConfigError: the attention of the model has no place for a prefix.
    """
    stack = model.decoder if getattr(getattr(model, "config", None), "family", "") == "encoder_decoder" else model
    found = [module for name, module in stack.named_modules() if name.endswith("self_attn")]  # type: ignore[union-attr]
    attentions = [module for module in found if isinstance(module, Attention)]
    if not attentions or len(attentions) < len(found):
        raise ConfigError(
            "finetuning.adapter.kind: the attention of this model has no place for a prefix",
            path="finetuning.adapter.kind",
            expected="a decoder, an encoder or an encoder-decoder",
            remedy="choose lora, prompt or full",
        )
    return attentions


def attach(model: LanguageModel, config: AdapterConfig, generator: torch.Generator | None = None) -> LanguageModel:
    """The model with a prefix in every layer, in place; what else of the model trains is left as it is.

    Raises:
        ConfigError: the attention of the model has no place for a prefix, or it leaves no position for a document.
    """
    attentions = _attentions(model)
    num_tokens = check_room(model, config)
    if config.hidden_size:
        network = PrefixNetwork(attentions[0], num_tokens, config.hidden_size, generator)
        model.prefix_network = network
    for attention in attentions:
        attention.prefix = (
            MadePrefix(attention, network, generator)
            if config.hidden_size
            else KeyValuePrefix(attention, num_tokens, generator)
        )
    model.num_prefix_tokens = num_tokens
    return model


@torch.no_grad()
def keys_and_values(model: LanguageModel) -> list[tuple[Tensor, Tensor]]:
    """The keys and the values of each layer, both of shape P K H."""
    prefixes = [attention.prefix for attention in _attentions(model)]
    return [prefix() for prefix in prefixes if prefix is not None]


def save(model: LanguageModel, folder: Path, base: str) -> None:
    """Write the prefix in peft's layout; a network that made it is left out. ``base`` is the id of the model below.

    peft takes an encoder-decoder's rows for a pair for the decoder's own attention and a pair for its attention to the
    source, layer by layer, and drops the latter; so they are zeros here.

    Raises:
        OutputError: the folder cannot be written.
    """
    shape = _attentions(model)[0].shape
    pairs = [
        pair for keys_PKH, values_PKH in keys_and_values(model) for pair in (keys_PKH.flatten(1), values_PKH.flatten(1))
    ]
    if model.config.family == "encoder_decoder":
        nothing = torch.zeros_like(pairs[0])
        pairs = [part for place in range(0, len(pairs), 2) for part in (*pairs[place : place + 2], nothing, nothing)]
    write_virtual_tokens(
        model,
        torch.cat(pairs, dim=1),
        {
            "peft_type": PEFT_TYPE,
            "num_layers": len(pairs) // 2,
            "num_attention_heads": shape.num_key_value_heads,
            "token_dim": shape.num_key_value_heads * shape.head_dim,
            "num_transformer_submodules": 2 if model.config.family == "encoder_decoder" else 1,
            "prefix_projection": False,
            "encoder_hidden_size": shape.num_key_value_heads * shape.head_dim,
        },
        folder,
        base,
    )


def load(model: LanguageModel, folder: Path, base: str = "") -> LanguageModel:
    """The model with the prefix of a folder, in place; ``base`` is the model's id where it is known.

    Raises:
        ArtifactError: a file is missing or torn, or the prefix is of another model.
        MismatchError: its id says so.
    """
    table, rows_PX = read_virtual_tokens(folder, PEFT_TYPE, base)
    attentions = _attentions(model)
    shape = attentions[0].shape
    width = shape.num_key_value_heads * shape.head_dim
    num_pairs = rows_PX.shape[1] // (2 * width)
    chosen = _pairs_of_layers(table, len(attentions), num_pairs)
    heads = table.get("num_attention_heads", shape.num_key_value_heads)
    if rows_PX.shape[1] % (2 * width) or heads != shape.num_key_value_heads or max(chosen) >= num_pairs:
        raise ArtifactError(
            f"{folder}: a prefix of {rows_PX.shape[1]} numbers a place does not fit a model of {len(attentions)} "
            f"layers with {shape.num_key_value_heads} heads of {shape.head_dim}",
            remedy=f"attach it to the model it was trained on: {table.get('base_model_name_or_path')}",
        )
    freeze(model)
    attach(model, AdapterConfig(kind="prefix", num_virtual_tokens=len(rows_PX)))
    pairs_XPKH = rows_PX.view(len(rows_PX), 2 * num_pairs, shape.num_key_value_heads, shape.head_dim).unbind(1)
    with torch.no_grad():
        for attention, pair in zip(attentions, chosen, strict=True):
            assert isinstance(attention.prefix, KeyValuePrefix)
            attention.prefix.keys_PKH.copy_(pairs_XPKH[2 * pair])
            attention.prefix.values_PKH.copy_(pairs_XPKH[2 * pair + 1])
    return model


def _pairs_of_layers(table: Mapping[str, Any], num_layers: int, num_pairs: int) -> list[int]:
    """Which pair of keys and values each layer has.

    With two stacks, peft lays the pairs out twice, one after the other, and gives each layer the next two, of which the
    second is dropped; where there are as many pairs as layers, some are then shared and some are not used.
    """
    if table.get("num_transformer_submodules") == 2 and num_pairs:
        return [2 * layer % num_pairs for layer in range(num_layers)]
    return list(range(num_layers)) if num_pairs == num_layers else [num_pairs] * num_layers
