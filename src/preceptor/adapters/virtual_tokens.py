"""The files of prefixes and prompts, in peft's layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.adapters.adapter import require_base
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.core.errors import ArtifactError, ConfigError, output_errors
from preceptor.models.language_model import LanguageModel

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_TENSOR = "prompt_embeddings"
_TASKS = {"encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM"}


def check_room(model: LanguageModel, config: AdapterConfig) -> int:
    """The number of virtual tokens of an adapter.

    Raises:
        ConfigError: they leave no position for a document.
    """
    num_tokens, longest = config.num_virtual_tokens, getattr(model.config, "max_position_embeddings", 0)
    if longest and num_tokens >= longest:
        raise ConfigError(
            f"finetuning.adapter.num_virtual_tokens: {num_tokens} leave none of the {longest} positions of the model "
            "for a document",
            path="finetuning.adapter.num_virtual_tokens",
            expected=f"fewer than {longest}",
            remedy="choose fewer virtual tokens",
        )
    return num_tokens


def write_virtual_tokens(
    model: LanguageModel, rows_PX: Tensor, table: Mapping[str, Any], folder: Path, base: str
) -> None:
    """Write adapter_config.json and adapter_model.safetensors: a row for each virtual token of an adapter.

    ``base`` is the id of the model below.

    Raises:
        OutputError: the folder cannot be written.
    """
    whole = {
        "task_type": _TASKS.get(model.config.family, "CAUSAL_LM"),
        "num_virtual_tokens": len(rows_PX),
        "inference_mode": True,
        "base_model_name_or_path": Path(base).name if Path(base).is_absolute() else base,
        **table,
    }
    with output_errors(folder):
        tensor = rows_PX.detach().float().cpu().contiguous()
        save_file({_TENSOR: tensor}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_virtual_tokens(folder: Path, peft_type: str, base: str = "") -> tuple[dict[str, Any], Tensor]:
    """The settings of an adapter and a row for each virtual token; ``base`` is the model's id where it is known.

    Raises:
        ArtifactError: a file is missing or torn, or the adapter is of another kind.
        MismatchError: the adapter is of another base.
    """
    try:
        table = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        rows_PX = load_file(folder / WEIGHTS_FILE)[_TENSOR]
        if table["peft_type"] != peft_type:
            raise ValueError(f"peft_type is {table['peft_type']!r}, not {peft_type!r}")
        if rows_PX.dim() != 2 or len(rows_PX) < 1:
            raise ValueError(f"{_TENSOR} is of shape {tuple(rows_PX.shape)}, not a row for each virtual token")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} does not hold an adapter of kind {peft_type} that can be read: {error}",
            remedy=f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as `preceptor finetune` writes it",
        ) from error
    require_base(table, base, folder)
    return table, rows_PX
