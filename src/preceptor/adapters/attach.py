"""Adapters of every kind by one set of calls: attach, save, load, merge."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from preceptor.adapters import low_rank_files, low_rank_targets, merging, prefix, prompt
from preceptor.adapters.adapter import freeze, train_heads
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.quantised import dequantised
from preceptor.core.errors import ArtifactError, ConfigError, output_errors
from preceptor.models.interchange import save_heads, with_heads
from preceptor.models.language_model import LanguageModel

CONFIG_FILE = low_rank_files.CONFIG_FILE


def adapt(
    model: LanguageModel,
    config: AdapterConfig,
    generator: torch.Generator | None = None,
    *,
    start_ids: Sequence[int] | None = None,
) -> LanguageModel:
    """The model with an adapter, in place: of the base nothing trains unless the kind is full, of heads everything.

    ``start_ids`` are the tokens that a prompt starts from.

    Raises:
        ConfigError: the adapter does not fit the model.
    """
    if config.kind == "full":
        return model
    freeze(model)
    if config.kind == "lora":
        low_rank_targets.attach(model, config, generator)
    elif config.kind == "prefix":
        prefix.attach(model, config, generator)
    else:
        prompt.attach(model, config, generator, start_ids=start_ids)
    train_heads(model)
    return model


def save_adapter(model: LanguageModel, config: AdapterConfig, folder: Path, base: str) -> None:
    """Write the adapter in peft's layout, and the model's heads beside it; ``base`` is the id of the model below.

    Raises:
        ConfigError: the kind is full, which is no adapter.
        OutputError: the folder cannot be written.
    """
    if config.kind == "full":
        raise ConfigError("kind full leaves no adapter to save", remedy="save the whole model instead")
    with output_errors(folder):
        save_heads(model, folder)
    if config.kind == "lora":
        low_rank_files.save_adapter(model, config, folder, base)
    elif config.kind == "prefix":
        prefix.save(model, folder, base)
    else:
        prompt.save(model, folder, base)


def load_adapter(model: LanguageModel, folder: Path, base: str = "") -> LanguageModel:
    """The model with the adapter and the heads of a folder, in place, in evaluation mode.

    ``base`` is the id of the model, where it is known.

    Raises:
        ArtifactError: a file is missing or torn, or the adapter is of a kind that is not known, or of another model.
        MismatchError: the adapter is of another base.
    """
    kind = peft_type(folder)
    if kind == "LORA":
        low_rank_files.load_adapter(model, folder, base)
    elif kind == prefix.PEFT_TYPE:
        prefix.load(model, folder, base)
    elif kind == prompt.PEFT_TYPE:
        prompt.load(model, folder, base)
    else:
        raise ArtifactError(
            f"{folder}: peft_type is {kind!r}, which is not known here",
            remedy=f"use an adapter of one of: LORA, {prefix.PEFT_TYPE}, {prompt.PEFT_TYPE}",
        )
    return with_heads(model, folder).eval()


def peft_type(folder: Path) -> str:
    """Which kind of adapter a folder holds, in peft's words.

    Raises:
        ArtifactError: it holds none that can be read.
    """
    try:
        return str(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["peft_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder} does not hold an adapter that can be read: {error}",
            remedy=f"name a folder with {CONFIG_FILE}, as `preceptor finetune` writes it",
        ) from error


def merge(model: LanguageModel) -> LanguageModel:
    """The model with its adapter folded into its weights, in place.

    Raises:
        ConfigError: the adapter is a prefix or a prompt, which no weights can stand for; or it changes the embedding
            and not the output layer that shares its weights.
    """
    if model.num_prefix_tokens or prompt.virtual_ids(model):
        raise ConfigError(
            f"a {'prefix' if model.num_prefix_tokens else 'prompt'} stands in front of every text, and no weights of "
            "the model can stand for it",
            remedy="export the adapter beside its base model, or train one of kind lora, which can be merged",
        )
    merging.merge(model)
    # What no adapter changes is whole then too, so that nothing of the model is in 4 bits.
    dequantised(model)
    return model


def virtual_ids(model: LanguageModel) -> list[int]:
    """The ids that must stand in front of every document: those of a prompt's vectors, else none."""
    return prompt.virtual_ids(model)
