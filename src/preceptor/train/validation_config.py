"""What a recipe says of the texts whose loss is shown beside that of the validation split; settings without torch."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from preceptor.core.canonical import digest
from preceptor.core.errors import ConfigError
from preceptor.data.sources import SourceConfig

MEASURE = "validation_loss/"
"""What the name of a measure begins with that is the loss on a named set."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_UNFIT = re.compile(r"[^\w./: -]+")
"""What trackers refuse in the names of measures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSetConfig:
    """Texts that are never trained on, whose loss is taken at every validation."""

    name: str
    """What they are called: letters, digits, "_", "-" and "."; the measure is validation_loss/NAME."""
    path: str
    """Under pretraining a file, a folder or a pattern, in any format that sources of data have; under finetuning a
    file of examples."""
    max_tokens: int | None = None
    """On how many tokens at most the loss is taken; none takes validation_tokens."""

    def __post_init__(self) -> None:
        """Refuse names that are no part of a measure's name, and what names nothing."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f'name must be of letters, digits, "_", "-" and ".", as it is part of a measure\'s, got {self.name!r}'
            )
        if not self.path:
            raise ValueError(f"path must say where the texts of {self.name!r} are")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")

    @property
    def source(self) -> SourceConfig:
        """Where its texts are read."""
        return SourceConfig(name=self.name, path=self.path)


def require_distinct(sets: Sequence[ValidationSetConfig]) -> None:
    """Refuse two sets of one name.

    Raises:
        ValueError: names it.
    """
    names = [each.name for each in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"validation_sets must have names of their own, and there are two of {twice[0]!r}")


def source_names(labels: Sequence[str]) -> dict[str, str]:
    """For each source by its label the name of its validation set; none where there is only one source.

    What cannot be in the name of a measure is replaced; names that are then alike are told apart.
    """
    if len(labels) < 2:
        return {}
    names = {label: _UNFIT.sub("_", label).strip("/ ") or "_" for label in labels}
    alike = [name for name, count in Counter(names.values()).items() if count > 1]
    return {label: f"{name}-{digest(label)[:4]}" if name in alike else name for label, name in names.items()}


def require_measures(stage: str, metric: str, sets: Sequence[ValidationSetConfig], sources: Collection[str]) -> None:
    """Refuse sets that are called like a source, and early stopping by what is not measured.

    ``sources`` are the names of the sources that have a validation loss of their own.

    Raises:
        ConfigError: says which names there are.
    """
    for each in sets:
        if each.name in sources:
            raise ConfigError(
                f"{stage}.validation_sets has a set {each.name!r}, which is what a source of the data is called",
                path=f"{stage}.validation_sets",
                remedy="give the set another name: the loss on that source is measured by itself",
            )
    there = ["loss", "accuracy", *(f"{MEASURE}{name}" for name in (*sources, *(each.name for each in sets)))]
    if metric not in there:
        raise ConfigError(
            f"training cannot stop by {metric!r}, which is not measured",
            path=f"{stage}.early_stopping.metric",
            expected=f"one of {', '.join(there)}",
            remedy=f"choose one of {', '.join(there)}",
        )
