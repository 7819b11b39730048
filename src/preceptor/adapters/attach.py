"""Adapters of every kind by one set of calls: attach, save, load, merge."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from preceptor.adapters import low_rank
from preceptor.adapters.adapter import freeze, train_heads
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.language_model import LanguageModel

CONFIG_FILE = low_rank.CONFIG_FILE


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
        low_rank.attach(model, config, generator)
    else:
        raise ConfigError(
            f"finetuning.adapter.kind: {config.kind} is not known here",
            path="finetuning.adapter.kind",
            remedy="choose lora or full",
        )
    train_heads(model)
    return model


def save_adapter(model: LanguageModel, config: AdapterConfig, folder: Path, base: str) -> None:
    """Write the adapter in peft's layout, and the model's heads beside it; ``base`` is the id of the model below.

    Raises:
        ConfigError: the kind is full, which is no adapter.
        OutputError: the folder cannot be written.
    """
    if config.kind != "lora":
        raise ConfigError(f"kind {config.kind} leaves no adapter to save", remedy="save the whole model instead")
    low_rank.save_adapter(model, config, folder, base)


def load_adapter(model: LanguageModel, folder: Path) -> LanguageModel:
    """The model with the adapter and the heads of a folder, in place, in evaluation mode.

    Raises:
        ArtifactError: a file is missing or torn, or the adapter is of a kind that is not known, or of another model.
    """
    kind = peft_type(folder)
    if kind == "LORA":
        low_rank.load_adapter(model, folder)
    else:
        raise ArtifactError(
            f"{folder}: peft_type is {kind!r}, which is not known here", remedy="use an adapter of one of: LORA"
        )
    return model.eval()


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
        ConfigError: the adapter is a prefix or a prompt, which no weights can stand for.
    """
    low_rank.merge(model)
    return model


def virtual_ids(model: LanguageModel) -> list[int]:
    """The ids that must stand in front of every document: those of a prompt's vectors, else none."""
    return []
