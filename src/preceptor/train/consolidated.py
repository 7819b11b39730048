"""A trained model as a folder on disk, whoever held its weights while it was trained.

With several processes the first one writes, and asks for the weights one at a time, so that it never holds more of them
than one file has.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import save_adapter
from preceptor.models.foreign import ForeignModel
from preceptor.models.interchange import MAX_SHARD_BYTES, save_model
from preceptor.models.language_model import LanguageModel
from preceptor.parallel.engine import Engine
from preceptor.parallel.whole import whole_weights


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, as the processes that trained it hold it."""

    model: LanguageModel
    """The whole of it; where there are several processes, an outline, whose weights have shapes and no values."""
    engine: Engine

    def save_model(
        self, folder: Path | None, end_of_text_id: int | None = None, *, max_file_bytes: int = MAX_SHARD_BYTES
    ) -> None:
        """Write the whole model into an existing folder, which the first process names; all processes must ask for it.

        A model that transformers runs is brought to the first process whole.

        Raises:
            ConfigError: weights are kept in 4 bits, which these files have no place for.
            OutputError: the folder cannot be written.
        """
        if self.engine.mesh.is_alone:
            save_model(self.model, _named(folder), end_of_text_id, max_shard_bytes=max_file_bytes)
            return
        with whole_weights(self.engine) as weights:
            if weights is not None:
                # Heads have files of their own; they are small.
                is_foreign = isinstance(self.model, ForeignModel)
                model = _filled(self.model, weights, lambda name: is_foreign or name.startswith("heads."))
                state = None if is_foreign else _State(model, weights)
                save_model(model, _named(folder), end_of_text_id, max_shard_bytes=max_file_bytes, state=state)

    def save_adapter(self, config: AdapterConfig, folder: Path | None, base: str) -> None:
        """Write the adapter and the heads into an existing folder, which the first process names.

        All processes must ask for it. Magnitudes of rows are saved beside those of the base, which is brought whole
        for them.

        Raises:
            ConfigError: the kind is full, which is no adapter.
            OutputError: the folder cannot be written.
        """
        if self.engine.mesh.is_alone:
            save_adapter(self.model, config, _named(folder), base)
            return
        with whole_weights(self.engine) as weights:
            if weights is not None:
                trained = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
                model = _filled(self.model, weights, lambda name: config.magnitude or name in trained)
                save_adapter(model, config, _named(folder), base)


def _named(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("the process that writes needs a folder")
    return folder


def outlined(model: LanguageModel) -> LanguageModel:
    """A copy of a model whose weights have names and shapes and no memory; what is no weight is shared."""
    held: dict[int, object] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        held[id(weight)] = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
    return copy.deepcopy(model, held)


def _filled(outline: LanguageModel, weights: Mapping[str, Tensor], is_wanted: Callable[[str], bool]) -> LanguageModel:
    """The outline, in place, where weights have values that are wanted; what shares a weight shares its values."""
    wanted = {name: weight for name, weight in outline.named_parameters() if is_wanted(name)}
    values = {id(weight): nn.Parameter(weights[name], weight.requires_grad) for name, weight in wanted.items()}
    for module in outline.modules():
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(weight) in values:
                setattr(module, name, values[id(weight)])
    return outline


class _State(Mapping[str, Tensor]):
    """The tensors of an outline, whose weights are brought when they are looked up."""

    def __init__(self, outline: LanguageModel, weights: Mapping[str, Tensor]) -> None:
        self.weights, self.own = weights, outline.state_dict()
        first = {id(weight): name for name, weight in outline.named_parameters()}
        self.names = {name: first[id(weight)] for name, weight in outline.named_parameters(remove_duplicate=False)}

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self.own)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.own)

    def __getitem__(self, name: str) -> Tensor:
        """One tensor: a weight that is brought, or what is the same for all processes."""
        return self.weights[self.names[name]] if name in self.names else self.own[name]
