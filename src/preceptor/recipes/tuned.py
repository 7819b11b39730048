"""A base model as its fine-tuning left it: with an adapter, or with all its weights trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preceptor.adapters.attach import load_adapter
from preceptor.adapters.quantised import quantise
from preceptor.core.config import decode
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.data.example_types import Task
from preceptor.models.decoder import Decoder
from preceptor.models.encoder_decoder import EncoderDecoder
from preceptor.models.foreign import ForeignModel
from preceptor.models.interchange import load_model
from preceptor.models.language_model import LanguageModel
from preceptor.recipes.folder import MODEL_CONFIG_FILE
from preceptor.serve.chat import Writer
from preceptor.train.finetune import TASK_FILE


@dataclass(frozen=True, slots=True)
class LearnedTask:
    """The task that a fine-tuned model has learned, and how."""

    task: Task
    labels: tuple[str, ...]
    multi_label: bool
    context_length: int
    quantise: Literal["none", "nf4"]
    """In which numbers the base was that an adapter was trained on, and belongs to."""


def load_tuned(base: Path, tuned: Path | None = None) -> LanguageModel:
    """The model in the folder ``base`` with what the folder ``tuned`` holds of its fine-tuning, in evaluation mode.

    A base that was kept in 4 bits while its adapter was trained is so here too.

    Raises:
        ArtifactError: a folder holds nothing that can be read, or the adapter is for another model.
    """
    if tuned is not None and (tuned / MODEL_CONFIG_FILE).is_file():
        return load_model(tuned)
    model = load_base(base, tuned)
    return model if tuned is None else load_adapter(model, tuned).eval()


def load_base(base: Path, tuned: Path | None = None) -> LanguageModel:
    """The model in the folder ``base`` in the numbers in which it was while what is in ``tuned`` was trained.

    Raises:
        ArtifactError: a folder holds nothing that can be read.
    """
    model = load_model(base)
    is_kept_in_4_bits = tuned is not None and (tuned / TASK_FILE).is_file() and task_of(tuned).quantise != "none"
    return quantise(model).eval() if is_kept_in_4_bits else model


def load_writer(base: Path, tuned: Path | None = None) -> Writer:
    """The same where it is a model that writes.

    Raises:
        ArtifactError: it is not, or as ``load_tuned``.
    """
    model = load_tuned(base, tuned)
    if not isinstance(model, Decoder | EncoderDecoder | ForeignModel):
        raise ArtifactError(
            f"the model is of the family {model.config.family!r}, which does not write",
            remedy="see what it says of held-out examples in report.html, or fine-tune a decoder or an encoder-decoder",
        )
    return model


def task_of(tuned: Path) -> LearnedTask:
    """The task that the model in the folder ``tuned`` has learned.

    Raises:
        ArtifactError: the folder does not say.
    """
    path = tuned / TASK_FILE
    try:
        return decode(LearnedTask, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise ArtifactError(
            f"{path} does not say what the model has learned: {error}",
            remedy="fine-tune it again: `preceptor finetune RECIPE --out DIR`",
        ) from error
