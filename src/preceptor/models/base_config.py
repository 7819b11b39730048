"""Which existing model training starts from; a setting, which needs no torch."""

from dataclasses import dataclass

from preceptor.data.spdx import require_licence

HUB = "hub:"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """A model that exists, with its tokenizer; both then take the place of what [model] and [tokenizer] describe."""

    model: str = ""
    """A folder with config.json and safetensors, a .gguf file, the folder of a run, or hub:OWNER/NAME, which is fetched
    from the Hugging Face Hub; empty starts from random weights."""
    revision: str = ""
    """Of a model of the Hub: the commit, tag or branch; empty takes the newest."""

    licence: str = "unknown"
    """Under which licence the model may be used, as an SPDX expression; told in the report and the model card."""

    def __post_init__(self) -> None:
        """Refuse a name without its owner, and a revision of what has none."""
        require_licence(self.licence)
        name = self.model.removeprefix(HUB)
        if self.model.startswith(HUB) and (name.count("/") != 1 or not all(name.split("/"))):
            raise ValueError(f"model must be like hub:OWNER/NAME, got {self.model!r}")
        if self.revision and not self.model.startswith(HUB):
            raise ValueError(f"revision is of a model of the Hub, and model is {self.model!r}")
