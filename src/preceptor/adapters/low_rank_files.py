"""LoRA adapters in files, in the layout that peft reads and writes."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preceptor.adapters.adapter import freeze, require_base
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.low_rank import LowRankEmbedding, LowRankLayer, LowRankShape, largest_part
from preceptor.adapters.low_rank_targets import adaptable, attach_shapes, low_rank_layers
from preceptor.adapters.peft_names import Place, blocks, place_of, places
from preceptor.adapters.quantised import dense_weight
from preceptor.core.errors import ArtifactError, output_errors
from preceptor.models.language_model import LanguageModel

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
_TASKS = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}
_KEYS = re.compile(
    r"^base_model\.model\.(?P<layer>.+?)\.(?:lora_(?P<matrix>[AB])\.weight|lora_embedding_(?P<embedding>[AB])"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?|(?P<base>base_layer)\.weight)$"
)


@dataclass(slots=True)
class _Change:
    """The change of one of transformers' layers, as peft has it."""

    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None
    base: Tensor | None = None
    """The whole table of an embedding, which peft saves beside its change."""
    alpha: float = 0.0
    is_embedding: bool = False


def save_adapter(model: LanguageModel, config: AdapterConfig, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors; ``base`` is the id of the model they belong to.

    What started as a part of the base is saved as an ordinary change of twice the rank, which is that of the base as it
    was. Several of our layers that are one in transformers become one change of the sum of their ranks.
    """
    layers = low_rank_layers(model)
    by_place = {place: _joined(place, layers, model) for place in places(model) if set(place.ours) & layers.keys()}
    sizes = Counter((len(change.a), change.alpha) for change in by_place.values() if change.a is not None)
    (rank, alpha), _ = sizes.most_common(1)[0]
    found = [(place.theirs, change) for place, change in by_place.items()]
    table = {
        "peft_type": "LORA",
        "task_type": _TASKS.get(model.config.family),
        "base_model_name_or_path": Path(base).name if Path(base).is_absolute() else base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.magnitude,
        "rank_pattern": {re.escape(name): len(c.a) for name, c in found if c.a is not None and len(c.a) != rank},
        "alpha_pattern": {re.escape(name): c.alpha for name, c in found if c.alpha != alpha},
        "target_modules": _targets(model, [place.theirs for place in by_place]),
        "ensure_weight_tying": any(isinstance(la, LowRankEmbedding) and la.ties_output for la in layers.values()),
        "bias": "none",
        "fan_in_fan_out": any(place.is_transposed for place in by_place),
        "inference_mode": True,
    }
    with output_errors(folder):
        save_file(_state(found), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _state(found: list[tuple[str, _Change]]) -> dict[str, Tensor]:
    """The tensors under peft's names."""
    state = {}
    for name, change in found:
        kind, end = ("lora_embedding_", "") if change.is_embedding else ("lora_", ".weight")
        for letter, tensor in (("A", change.a), ("B", change.b)):
            if tensor is not None:
                state[f"{_PREFIX}{name}.{kind}{letter}{end}"] = tensor.detach().contiguous()
        if change.magnitude is not None:
            state[f"{_PREFIX}{name}.lora_magnitude_vector"] = change.magnitude.detach().contiguous()
    return state


def _joined(place: Place, layers: Mapping[str, LowRankLayer], model: LanguageModel) -> _Change:
    """The change of one of transformers' layers, from those of ours that it holds."""
    parts = [layers.get(name) for name in place.ours]
    present = [part for part in parts if part is not None]
    first = present[0]
    if len(place.ours) == 1:
        a, b = _relative_to_base(first)
        return _Change(a, b, first.lora_magnitude, None, _alpha(first, len(a)), isinstance(first, LowRankEmbedding))
    sizes = [_module(model, name).out_features for name in place.ours]
    scaled = [None if part is None else _scaled(part, first.scaling) for part in parts]
    a, rows = blocks(scaled, sizes)
    magnitude = None
    if first.lora_magnitude is not None:
        bases = [_module(model, name) for name in place.ours]
        lengths = [
            dense_weight(base).float().norm(dim=1) if part is None else part.lora_magnitude
            for part, base in zip(parts, bases, strict=True)
        ]
        magnitude = place.join([length for length in lengths if length is not None])
    return _Change(a, place.join(rows), magnitude, None, _alpha(first, len(a)))


def _module(model: nn.Module, name: str) -> Any:
    """The base layer of a name, whether it is adapted or not."""
    module = model.get_submodule(name)
    return module.base_layer if isinstance(module, LowRankLayer) else module


def _relative_to_base(layer: LowRankLayer) -> tuple[Tensor, Tensor]:
    """A and B of the change of the base as it was, before anything was taken out of it."""
    a, b = (matrix.detach() for matrix in layer.matrices())
    if layer.start is None:
        return a, b
    return torch.cat((a, layer.start[0])), torch.cat((b, -layer.start[1]), dim=1)


def _scaled(layer: LowRankLayer, scaling: float) -> tuple[Tensor, Tensor]:
    """A and B of a layer for another scaling than its own."""
    a, b = _relative_to_base(layer)
    return a, b if layer.scaling == scaling else b * (layer.scaling / scaling)


def _alpha(layer: LowRankLayer, rank: int) -> float:
    """The alpha that gives a layer's scaling at a rank."""
    if rank == layer.shape.rank:
        return layer.shape.alpha
    return layer.scaling * (math.sqrt(rank) if layer.shape.rank_stabilised else rank)


def _targets(model: LanguageModel, adapted: list[str]) -> list[str]:
    """The last parts of the names where they say which layers are meant, else the whole names."""
    ours = {name for name, _ in adaptable(model)}
    others = {place.theirs for place in places(model)} - set(adapted)
    others |= {name for name in ours if name.startswith("heads.")}
    short = {name.rpartition(".")[2] for name in adapted}
    same_names = all(place.theirs in place.ours for place in places(model))
    is_clear = same_names and not any(name.rpartition(".")[2] in short for name in others)
    return sorted(short) if is_clear else sorted(adapted)


def load_adapter(model: LanguageModel, folder: Path, base: str = "") -> LanguageModel:
    """The model with the LoRA of a folder attached in place, in evaluation mode; ``base`` is the model's id if known.

    Raises:
        ArtifactError: a file is missing or torn, the adapter is not a LoRA, or a tensor does not fit the model.
        MismatchError: the adapter is of another base.
    """
    try:
        table = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS_FILE)
        changes = _changes(table, state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, re.error) as error:
        raise ArtifactError(
            f"{folder} does not hold a LoRA adapter that can be read: {error}",
            remedy=f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as `preceptor finetune` writes it",
        ) from error
    made_for = require_base(table, base, folder)
    parts: dict[str, _Change] = {}
    by_name = {place.theirs: place for place in places(model)} | {
        name: Place(name, (name,), place.layout, place.config)
        for place in places(model)
        for name in place.ours
        if len(place.ours) == 1
    }
    for name, change in changes.items():
        place = place_of(name, by_name, model)
        if place is None or change.a is None or change.b is None:
            raise _does_not_fit(folder, name, made_for)
        if table.get("init_lora_weights") == "pissa":
            change = _relative(change, place, model, bool(table.get("use_rslora")))
        parts |= _parts(place, change, model, table)
    if lacking := _lacking(by_name, changes, table):
        raise _does_not_fit(folder, lacking[0], made_for)
    freeze(model)
    _attach_parts(model, parts, table, lambda name: _does_not_fit(folder, name, made_for))
    return model.eval()


def _lacking(by_name: Mapping[str, Place], changes: Mapping[str, _Change], table: Mapping[str, Any]) -> list[str]:
    """The layers of a model that are not changed though the same ones of other blocks are: its base has fewer blocks.

    Files that say which layers or blocks they mean, one by one, may leave out others.
    """
    targets = table.get("target_modules")
    if not isinstance(targets, list) or table.get("layers_to_transform") or table.get("exclude_modules"):
        return []
    meant = {_NUMBER.sub(".*.", name) for name in changes if name not in targets}
    layers = sorted({place.theirs for place in by_name.values()} - changes.keys())
    return [name for name in layers if _NUMBER.sub(".*.", name) in meant]


@torch.no_grad()
def _relative(change: _Change, place: Place, model: nn.Module, stabilised: bool) -> _Change:
    """A change of what PiSSA left of a layer as a change of the whole layer, of twice the rank."""
    assert change.a is not None and change.b is not None
    rank = len(change.a)
    scaling = change.alpha / (math.sqrt(rank) if stabilised else rank)
    weight = place.join([dense_weight(_module(model, name)) for name in place.ours])
    if weight.shape != (len(change.b), change.a.shape[1]):
        return change
    a, b = largest_part(weight, rank, scaling)
    alpha = change.alpha * (math.sqrt(2) if stabilised else 2)
    return replace(change, a=torch.cat((change.a, a)), b=torch.cat((change.b, -b), dim=1), alpha=alpha)


def _does_not_fit(folder: Path, name: str, base: str) -> ArtifactError:
    return ArtifactError(
        f"{folder / WEIGHTS_FILE}: the change of {name} does not fit the base model",
        remedy=f"attach it to the model it was trained on: {base or 'its adapter_config.json does not say which'}",
    )


_NUMBER = re.compile(r"\.\d+\.")
_REFUSED = {
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "use_qalora": (None, False),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "init_lora_weights": (None, True, False, "gaussian", "pissa", "orthogonal", "eva"),
}
"""What peft can do and is not known here, with the values that ask for nothing of it."""


def _changes(table: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, _Change]:
    """The change of each layer that the files name.

    Raises:
        ValueError: the adapter is of another kind, or asks for what is not known here.
    """
    if table["peft_type"] != "LORA":
        raise ValueError(f"peft_type is {table['peft_type']!r}, not 'LORA'")
    for key, values in _REFUSED.items():
        if table.get(key) not in values:
            raise ValueError(f"{key} is {table[key]!r}, which is not known here")
    changes: dict[str, _Change] = {}
    for name, tensor in state.items():
        found = _KEYS.match(name)
        if found is None:
            raise ValueError(f"tensor {name} is no part of a LoRA; leave out modules_to_save")
        change = changes.setdefault(found["layer"], _Change(alpha=_alpha_of(table, found["layer"])))
        letter = found["matrix"] or found["embedding"]
        setattr(change, "magnitude" if found["magnitude"] else "base" if found["base"] else letter.lower(), tensor)
        change.is_embedding = change.is_embedding or bool(found["embedding"])
    if not changes:
        raise ValueError("it holds no change of any layer")
    return {name: change for name, change in changes.items() if change.a is not None or change.base is None}


def _alpha_of(table: Mapping[str, Any], name: str) -> float:
    """The alpha of a layer: that of the first pattern that fits the end of its name."""
    for pattern, alpha in (table.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(alpha)
    return float(table["lora_alpha"])


def _parts(place: Place, change: _Change, model: nn.Module, table: Mapping[str, Any]) -> dict[str, _Change]:
    """The changes of our layers, from that of one of transformers' that holds them."""
    if len(place.ours) == 1:
        return {place.ours[0]: change}
    assert change.a is not None and change.b is not None
    sizes = [_module(model, name).out_features for name in place.ours]
    if len(change.b) != sum(sizes):
        # Told by the shapes, as that of every other layer is.
        return {place.theirs: change}
    rows = place.split(change.b, sizes)
    lengths: list[Tensor | None] = [None] * len(rows)
    if change.magnitude is not None:
        lengths = list(place.split(change.magnitude, sizes))
    is_empty, stabilised = not bool(change.b.any()), bool(table.get("use_rslora"))
    parts = {}
    for name, b, magnitude in zip(place.ours, rows, lengths, strict=True):
        # What was joined from changes of their own has zeros where others have theirs.
        kept = b.any(dim=0)
        if is_empty or (magnitude is not None and not bool(kept.any())):
            kept = torch.ones_like(kept)
        if bool(kept.any()):
            share = int(kept.sum()) / len(kept)
            alpha = change.alpha * (math.sqrt(share) if stabilised else share)
            parts[name] = replace(change, a=change.a[kept], b=b[:, kept], magnitude=magnitude, alpha=alpha)
    return parts


def _attach_parts(model: LanguageModel, parts: Mapping[str, _Change], table: Mapping[str, Any], misfit: Any) -> None:
    """Attach the changes, with the values that were saved."""
    bases = dict(adaptable(model))
    dora, stabilised = bool(table.get("use_dora")), bool(table.get("use_rslora"))
    full_ranks = {name: len(change.a) for name, change in parts.items() if change.a is not None}
    shapes = {}
    for name, change in parts.items():
        a, b, layer = change.a, change.b, bases.get(name)
        if a is None or b is None or layer is None or change.is_embedding != isinstance(layer, nn.Embedding):
            raise misfit(name)
        inputs, outputs = (
            (layer.num_embeddings, layer.embedding_dim)
            if isinstance(layer, nn.Embedding)
            else (layer.in_features, layer.out_features)
        )
        fits = a.shape == (full_ranks[name], inputs) and b.shape == (outputs, full_ranks[name])
        lengths = change.magnitude is None or change.magnitude.shape == (outputs,)
        if not fits or not lengths or (change.magnitude is not None) != dora:
            raise misfit(name)
        shapes[name] = LowRankShape(
            rank=len(a), alpha=change.alpha, rank_stabilised=stabilised, dropout=0.0, magnitude=dora
        )
    attach_shapes(model, shapes, ties_output=bool(table.get("ensure_weight_tying")))
    layers = low_rank_layers(model)
    with torch.no_grad():
        for name, change in parts.items():
            layer = layers[name]
            if change.base is not None and change.base.shape == layer.base_layer.weight.shape:
                layer.base_layer.weight.copy_(change.base)  # type: ignore[operator]
            for ours, theirs in zip(layer.matrices(), (change.a, change.b), strict=True):
                ours.copy_(theirs)  # type: ignore[arg-type]
            if layer.lora_magnitude is not None and change.magnitude is not None:
                layer.lora_magnitude.copy_(change.magnitude)
