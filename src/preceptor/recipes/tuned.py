"""A base model as its fine-tuning left it: with an adapter, or with all its weights trained."""

import json
from pathlib import Path
from typing import Any

from preceptor.adapters.attach import load_adapter
from preceptor.core.errors import ArtifactError
from preceptor.models.interchange import load_model
from preceptor.models.language_model import LanguageModel
from preceptor.recipes.folder import MODEL_CONFIG_FILE

TASK_FILE = "task.json"


def load_tuned(base: Path, tuned: Path | None = None) -> LanguageModel:
    """The model in the folder ``base`` with what the folder ``tuned`` holds of its fine-tuning, in evaluation mode.

    Raises:
        ArtifactError: a folder holds nothing that can be read, or the adapter is for another model.
    """
    if tuned is not None and (tuned / MODEL_CONFIG_FILE).is_file():
        return load_model(tuned)
    model = load_model(base)
    return model if tuned is None else load_adapter(model, tuned).eval()


def task_of(tuned: Path) -> dict[str, Any]:
    """The task that a fine-tuned model has learned: its name, its labels, and whether a text may have several.

    Raises:
        ArtifactError: the folder does not say.
    """
    path = tuned / TASK_FILE
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"task": table["task"], "labels": tuple(table["labels"]), "multi_label": bool(table["multi_label"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} does not say what the model has learned: {error}",
            remedy="fine-tune it again: `preceptor finetune RECIPE --out DIR`",
        ) from error
