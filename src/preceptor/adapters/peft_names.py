"""Our layers under the names that peft has for them, where several of ours may be one of transformers'."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preceptor.models.architecture import AS_IS, STACKED, TRANSPOSED, Layout
from preceptor.models.interchange import architecture_of
from preceptor.models.language_model import LanguageModel
from preceptor.nn.normal_float import NormalFloatLinear

_WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of transformers and those of ours that it holds, by full names."""

    theirs: str
    ours: tuple[str, ...]
    layout: Layout
    config: Any
    """The configuration of our model."""

    @property
    def is_transposed(self) -> bool:
        """Whether its weights are kept the other way round, as in GPT-2."""
        return self.layout is TRANSPOSED

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of their layer from rows of ours, one part for each."""
        joined = self.layout.join(parts, self.config)
        return joined.t() if self.is_transposed and joined.dim() == 2 else joined

    def split(self, rows: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        """Rows of our layers, of these numbers, from rows of theirs."""
        shapes = [(size, *rows.shape[1:]) for size in sizes]
        given = rows.t() if self.is_transposed and rows.dim() == 2 else rows
        return self.layout.split(given, shapes, self.config)


def places(model: LanguageModel) -> list[Place]:
    """Every layer that has weights; what has no layer in transformers keeps our name, and peft cannot load it."""
    held = [name for name, _ in model.named_parameters() if "lora_" not in name.rpartition(".")[2]]
    # What is kept in 4 bits is no parameter.
    held += [name + _WEIGHT for name, layer in model.named_modules() if isinstance(layer, NormalFloatLinear)]
    names = [name.replace(".base_layer.", ".") for name in held]
    # Names alone decide which rows count, so that no shape is asked for.
    shapes = {name: (0,) for name in names if not name.startswith("heads.")}
    found = []
    for row in architecture_of(model.config).pairs(shapes):
        ours = tuple(name.removesuffix(_WEIGHT) for name in row.ours)
        if not all(name.endswith(_WEIGHT) for name in row.ours):
            continue
        if row.theirs.endswith(_WEIGHT) and (len(ours) > 1 or row.layout in (AS_IS, STACKED, TRANSPOSED)):
            found.append(Place(row.theirs.removesuffix(_WEIGHT), ours, row.layout, model.config))
        else:
            found += [Place(name, (name,), AS_IS, model.config) for name in ours]
    return found


def place_of(name: str, by_name: dict[str, Place], model: LanguageModel) -> Place | None:
    """The place of a layer that peft names, whether the model was loaded there with its output layer or without."""
    prefix = architecture_of(model.config).prefix
    short = name.removeprefix(prefix) if prefix else name
    return by_name.get(name) or by_name.get(prefix + name) or by_name.get(short)


def blocks(parts: Sequence[tuple[Tensor, Tensor] | None], sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """One A for all parts, and of each part the rows of B, so that each finds its own columns and zeros elsewhere.

    A part without a change has rows of zeros; ``sizes`` are the numbers of rows.
    """
    present = [part for part in parts if part is not None]
    a_RI = torch.cat([a for a, _ in present])
    rows, start = [], 0
    for part, size in zip(parts, sizes, strict=True):
        row = a_RI.new_zeros(size, len(a_RI))
        if part is not None:
            row[:, start : start + len(part[0])] = part[1]
            start += len(part[0])
        rows.append(row)
    return a_RI, rows
