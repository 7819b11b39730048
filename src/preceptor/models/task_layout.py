"""A model with a head, in the layout of transformers' classes for tasks, where they have the same parts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.models.heads import HeadConfig
from preceptor.models.interchange import CONFIG_FILE, WEIGHTS_FILE, architecture_of, to_config_json, to_their_tensors
from preceptor.models.language_model import LanguageModel

_NOT_OF_TASKS = ("cls.", "lm_head.")
_SEQUENCE = {
    "bert": {"dense": "bert.pooler.dense", "output": "classifier"},
    "roberta": {"dense": "classifier.dense", "output": "classifier.out_proj"},
}
"""By model type: our layers of a head that speaks for a text -> transformers'."""
_TASKS = {
    "classifier": ("ForSequenceClassification", "sequence-classification"),
    "regression": ("ForSequenceClassification", "sequence-classification"),
    "tagger": ("ForTokenClassification", "token-classification"),
    "span": ("ForQuestionAnswering", "question-answering"),
}


@dataclass(frozen=True)
class TaskLayout:
    """Which class of transformers a model with its head is."""

    head: str
    """The name of the head."""
    class_name: str
    folder: str
    """What a folder for it is called."""
    names: Mapping[str, str]
    """Our layers of the head -> transformers'."""


def task_layout(model: LanguageModel) -> TaskLayout | None:
    """The class of transformers that has the parts of a model with its one head; None where none has them."""
    base = {"bert": "Bert", "roberta": "Roberta"}.get(architecture_of(model.config).model_type)
    if base is None or len(model.heads) != 1:
        return None
    ((name, head),) = model.heads.items()
    config = head.config
    assert isinstance(config, HeadConfig)
    suffix, folder = _TASKS[config.kind]
    speaks_for_text = config.kind in ("classifier", "regression")
    if config.dense != speaks_for_text:
        return None
    if speaks_for_text:
        return TaskLayout(name, base + suffix, folder, _SEQUENCE[base.lower()])
    return TaskLayout(name, base + suffix, folder, {"output": "qa_outputs" if config.kind == "span" else "classifier"})


def _task_tensors(model: LanguageModel, layout: TaskLayout) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("heads.")}
    theirs = to_their_tensors(architecture_of(model.config), model.config, state)
    found = {name: tensor for name, tensor in theirs.items() if not name.startswith(_NOT_OF_TASKS)}
    for layer, their_layer in layout.names.items():
        for part, tensor in getattr(model.heads[layout.head], layer).state_dict().items():
            found[f"{their_layer}.{part}"] = tensor.detach()
    return found


def _task_config(model: LanguageModel, layout: TaskLayout) -> dict[str, Any]:
    head = model.heads[layout.head].config
    assert isinstance(head, HeadConfig)
    table = to_config_json(model.config) | {"architectures": [layout.class_name], "classifier_dropout": head.dropout}
    labels = {"id2label": dict(enumerate(head.labels)), "label2id": {name: n for n, name in enumerate(head.labels)}}
    if head.kind in ("classifier", "regression"):
        several = "multi_label_classification" if head.multi_label else "single_label_classification"
        table["problem_type"] = "regression" if head.kind == "regression" else several
    return table if head.kind == "span" else table | labels


def save_task_model(model: LanguageModel, layout: TaskLayout, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and the weights of the model with its head, without its output layer; read back and compared.

    Raises:
        ArtifactError: what is read back is not what was written.
        OutputError: it cannot be written.
    """
    table = _task_config(model, layout) | {"dtype": str(dtype).removeprefix("torch.")}
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in _task_tensors(model, layout).items()}
    with output_errors(folder):
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    again = load_file(folder / WEIGHTS_FILE)
    if again.keys() != tensors.keys() or not all(torch.equal(again[name], tensors[name]) for name in tensors):
        raise ArtifactError(f"{folder / WEIGHTS_FILE} is not what was written", remedy="check the disk, and try again")
