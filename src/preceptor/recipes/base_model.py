"""The model that a run starts from, where it names one: found, fetched when it is on the Hub, and known by content."""

from pathlib import Path

from preceptor.core.errors import ConfigError
from preceptor.models.base_config import HUB, BaseConfig
from preceptor.recipes.folder import model_folder

_WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja"]
"""Configuration, weights and tokenizer; never a pickle, and never code."""


def locate(config: BaseConfig) -> Path:
    """Where the model lies on this machine; one of the Hub is fetched, or found where it was fetched before.

    Raises:
        ConfigError: there is nothing of that name, or the Hub cannot be reached.
    """
    if config.model.startswith(HUB):
        return _fetched(config.model.removeprefix(HUB), config.revision)
    path = Path(config.model).expanduser()
    if not path.exists():
        raise ConfigError(
            f"base.model is {config.model!r}, where there is nothing",
            path="base.model",
            remedy=f"correct the path, which is looked for from {Path.cwd()}, or write {HUB}OWNER/NAME for a model of "
            "the Hugging Face Hub",
        )
    return path


def _fetched(name: str, revision: str) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=_WANTED, ignore_patterns=["*/*"]
        )
    except Exception as error:  # errors of the library, of requests, of the disk and more
        raise ConfigError(
            f"the model {name!r} cannot be fetched from the Hugging Face Hub: {error}",
            path="base.model",
            remedy="check its name, the revision and the network; a model that asks for consent needs `hf auth login`",
        ) from error
    return Path(folder)


def files(path: Path) -> list[Path]:
    """The files that make up the model at a path, in order."""
    if path.is_file():
        return [path]
    folder = model_folder(path)
    return sorted(file for pattern in _WANTED for file in folder.glob(pattern))
