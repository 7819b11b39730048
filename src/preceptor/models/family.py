"""What a model family is to the rest of the system."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from preceptor.models.language_model import LanguageModel


def _no_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A configuration, how to build it, and how its weights may be split over processes.

    ``sharding`` maps parameter-name patterns to how the weight is cut: ``"column"`` along what a layer gives, its
    first dimension, ``"row"`` along what it reads, its second one, ``"vocabulary"`` along the tokens, its first one. A
    family declares it and the layer that knows the mesh applies it from outside.
    """

    name: str
    config: type[Any]
    module: Callable[[Any], LanguageModel]
    """The module of a configuration; its weights are whatever its layers start with."""
    build: Callable[..., LanguageModel]
    """The module of a configuration with starting weights drawn from a generator."""
    sharding: Mapping[str, str]
    defaults: Callable[[Mapping[str, Any]], dict[str, Any]] = _no_defaults
    """Fields that follow from others where a config.json leaves them out."""
