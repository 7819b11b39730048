"""What a model family is to the rest of the system."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A configuration, how to build it, and how its weights may be split over processes.

    ``sharding`` maps parameter-name patterns to ``"column"``, ``"row"`` or ``"vocabulary"``; a family declares it and
    the layer that knows the mesh applies it from outside.
    """

    name: str
    config: type[Any]
    build: Callable[[Any], nn.Module]
    sharding: Mapping[str, str]
