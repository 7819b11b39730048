"""A model by the words a person has for it: a named size, a recipe, a folder, a run."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Store
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.interchange import CONFIG_FILE, from_config_json, load_model
from preceptor.models.language_model import LanguageModel
from preceptor.models.sizes import named, names
from preceptor.recipes.folder import newest_model
from preceptor.recipes.run import RUN_FILE, Run, load_run, shipped_recipes, stored_run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.tokenizer import Tokenizer


def find_config(what: str, vocab_size: int = 0) -> Any:
    """The configuration of a model: of a named size, a recipe, a folder with config.json, or a run.

    A recipe leaves the vocabulary to its tokenizer, so it has the size that the recipe asks of that; ``vocab_size``
    stands in for any.

    Raises:
        ConfigError: there is nothing of that name; says the nearest.
        ArtifactError: a folder holds no model that is known.
    """
    config = _config(what)
    vocab_size = vocab_size or config.vocab_size
    return config if config.vocab_size == vocab_size else replace(config, vocab_size=vocab_size)


def _config(what: str) -> Any:
    path, shipped = Path(what), shipped_recipes()
    if what.lower() in names():
        size = named(what)
        return from_config_json({"model_type": size.model_type, **size.config}, path)[1]
    if what in shipped or path.suffix == ".toml":
        return _of_run(load_run(what))
    if path.is_dir():
        return _of_folder(path)
    known = [*names(), *shipped]
    nearest = difflib.get_close_matches(what.lower(), known, n=3)
    raise ConfigError(
        f"there is no model, recipe or folder {what!r}"
        + (f"; did you mean {' or '.join(nearest)}?" if nearest else f"; named sizes are {', '.join(names())}"),
        remedy="name a size, a recipe, a .toml file, a folder with config.json or the folder of a run",
        nearest=nearest[0] if nearest else "",
    )


def _of_run(run: Run) -> Any:
    model = run.model
    return model if model.vocab_size else replace(model, vocab_size=run.tokenizer.vocab_size)


def _of_folder(folder: Path) -> Any:
    if not (folder / CONFIG_FILE).is_file():
        if not (folder / "artifacts").is_dir() and (folder / RUN_FILE).is_file():
            return _of_run(stored_run(folder))
        folder = newest_model(Store(folder / "artifacts"))[0].path
    path = folder / CONFIG_FILE
    try:
        table: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError("it is not a table")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="fetch or train the model again") from error
    return from_config_json(table, path)[1]


def find_model(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model of a folder, or the newest of a run's, and its tokenizer.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder", remedy="name a folder with a model, or the folder of a run")
    if not (folder / CONFIG_FILE).is_file():
        folder = newest_model(Store(folder / "artifacts"))[0].path
    return load_model(folder), import_tokenizer(folder, TokenizerConfig().split_pattern)
