"""A model by the words a person has for it: a named size, a recipe, a folder, a GGUF file, a run."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.gguf import read_gguf
from preceptor.models.interchange import CONFIG_FILE, from_config_json, gguf_model, load_model
from preceptor.models.language_model import LanguageModel
from preceptor.models.sizes import named, names
from preceptor.recipes.base_model import locate
from preceptor.recipes.folder import model_folder
from preceptor.recipes.run import RUN_FILE, Run, load_run, shipped_recipes, stored_run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.tokenizer import Tokenizer


def find_config(what: str, vocab_size: int = 0) -> Any:
    """The configuration of a model: of a named size, a recipe, a folder with config.json, a GGUF file, or a run.

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
    if path.is_dir() or _is_gguf(path):
        return config_at(path)
    known = [*names(), *shipped]
    nearest = difflib.get_close_matches(what.lower(), known, n=3)
    raise ConfigError(
        f"there is no model, recipe or folder {what!r}"
        + (f"; did you mean {' or '.join(nearest)}?" if nearest else f"; named sizes are {', '.join(names())}"),
        remedy="name a size, a recipe, a .toml file, a folder with config.json, a .gguf file or the folder of a run",
        nearest=nearest[0] if nearest else "",
    )


def _is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and path.is_file()


def config_at(path: Path) -> Any:
    """The configuration of the model of a folder, of a GGUF file, or of a run's folder; of nothing but what lies there.

    Raises:
        ArtifactError: there is none, or it is not known.
    """
    if _is_gguf(path):
        return from_config_json(read_gguf(path).config, path)[1]
    _require_model(path)
    return _of_folder(path)


def _require_model(path: Path) -> None:
    """Refuse a path that is no folder."""
    if not path.is_dir():
        raise ArtifactError(
            f"{path} is no folder and no GGUF file",
            remedy="name a folder with a model, a .gguf file, or the folder of a run",
        )


def _of_run(run: Run) -> Any:
    if run.base.model:
        return config_at(locate(run.base))
    model = run.model
    return model if model.vocab_size else replace(model, vocab_size=run.tokenizer.vocab_size)


def _of_folder(folder: Path) -> Any:
    has_trained = (folder / CONFIG_FILE).is_file() or (folder / "artifacts").is_dir()
    if not has_trained and (folder / RUN_FILE).is_file():
        return _of_run(stored_run(folder))
    path = model_folder(folder) / CONFIG_FILE
    try:
        table: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict):
            raise ValueError("it is not a table")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="fetch or train the model again") from error
    return from_config_json(table, path)[1]


def find_model(path: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model of a folder or of a GGUF file, or the newest of a run's folder, and its tokenizer.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    if _is_gguf(path):
        file = read_gguf(path)
        return gguf_model(file), file.tokenizer()
    _require_model(path)
    folder = model_folder(path)
    model = load_model(folder)
    chats = model.config.family != "encoder"
    return model, import_tokenizer(folder, TokenizerConfig().split_pattern, chats=chats)
