"""Models to and from the folders that transformers reads: config.json and safetensors, never pickle."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.core.errors import ArtifactError, ConfigError, output_errors
from preceptor.models import (
    decoder_architectures,
    encoder_architectures,
    encoder_decoder_architectures,
    foreign,
    two_stream_architectures,
)
from preceptor.models.architecture import Architecture, TensorRow
from preceptor.models.bitsandbytes_files import restored
from preceptor.models.decoder import Decoder
from preceptor.models.foreign_config import ForeignConfig
from preceptor.models.heads import HeadConfig, attach_head
from preceptor.models.language_model import LanguageModel
from preceptor.nn.normal_float import NormalFloatLinear

if TYPE_CHECKING:
    from preceptor.models.gguf import GgufModel

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
HEADS_FILE, HEADS_WEIGHTS_FILE = "heads.json", "heads.safetensors"
ARCHITECTURES: tuple[Architecture, ...] = (
    *decoder_architectures.ARCHITECTURES,
    *encoder_architectures.ARCHITECTURES,
    *two_stream_architectures.ARCHITECTURES,
    *encoder_decoder_architectures.ARCHITECTURES,
    foreign.FOREIGN,
)
"""Of each family in order of preference."""
_ADAPTER_FILE = "adapter_config.json"
MAX_SHARD_BYTES = 5_000_000_000
"""Weights beyond this go to several files, as transformers has it."""


def architecture_of(config: Any) -> Architecture:
    """The architecture under which a model of this configuration is saved."""
    return next(architecture for architecture in ARCHITECTURES if architecture.fits(config))


def to_config_json(config: Any, end_of_text_id: int | None = None) -> dict[str, Any]:
    """The content of config.json for a model."""
    if isinstance(config, ForeignConfig):
        return {**json.loads(config.table), "vocab_size": config.vocab_size}
    architecture = architecture_of(config)
    table: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        **{theirs: getattr(config, ours) for ours, theirs in architecture.config_names.items()},
        **architecture.extra,
        "dtype": "float32",
        "use_cache": True,
    }
    if end_of_text_id is not None:
        table |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text_id)
    if config.layer_drop:
        # No architecture of transformers has one probability for all layers; its programs keep the key and ignore it.
        table["layer_drop"] = config.layer_drop
    return {**table, **architecture.to_json(config)}


def from_config_json(table: Mapping[str, Any], where: Path) -> tuple[Architecture, Any]:
    """The architecture of a model and its configuration, from the content of its config.json.

    Raises:
        ArtifactError: the architecture is not one of ours, or a key is missing or wrong.
    """
    known = {row.model_type: row for row in ARCHITECTURES if row is not foreign.FOREIGN}
    architecture = known.get(str(table.get("model_type")))
    if architecture is None:
        return foreign.FOREIGN, _foreign_config(table, where, known)
    names = {"layer_drop": "layer_drop", **architecture.config_names}
    values = {ours: table[theirs] for ours, theirs in names.items() if table.get(theirs) is not None}
    try:
        fields = {**architecture.family.defaults(values), **architecture.fixed, **values}
        return architecture, architecture.family.config(**{**fields, **architecture.from_json(table)})
    except (TypeError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{where}: {error}", remedy="check the file against the model's documentation, or fetch the model again"
        ) from error


def _foreign_config(table: Mapping[str, Any], where: Path, known: Iterable[str]) -> ForeignConfig:
    """The configuration of a model that transformers runs.

    Raises:
        ArtifactError: transformers is not installed, has no decoder of this type, or refuses the table.
    """
    if not foreign.is_foreign(str(table.get("model_type"))):
        raise ArtifactError(
            f"{where}: model_type is {table.get('model_type')!r}, which is not a model that is known here",
            remedy=f"use a model of one of these types: {', '.join(known)}"
            + ("" if foreign.has_transformers() else f"; or {foreign.EXTRA}"),
        )
    try:
        return foreign.foreign_config(table)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"{where}: {error}", remedy="check the file against the model's documentation, or fetch the model again"
        ) from error


def save_model(
    model: LanguageModel,
    folder: Path,
    end_of_text_id: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, generation_config.json and the weights into an existing folder.

    ``state`` is taken in place of the model's own tensors but those of heads, each when its file is written.

    Raises:
        ConfigError: weights are kept in 4 bits, which these files have no place for.
        OutputError: the folder cannot be written.
    """
    if any(isinstance(module, NormalFloatLinear) for module in model.modules()):
        raise ConfigError(
            "a model whose weights are in 4 bits is not saved as it is, for it would not be what was loaded",
            remedy="save its adapter, or merge the adapter, which gives a model in full precision",
        )
    if isinstance(model, foreign.ForeignModel):
        with output_errors(folder):
            save_heads(model, folder)
            model.save(folder, dtype)
        return
    table = to_config_json(model.config, end_of_text_id) | {"dtype": str(dtype).removeprefix("torch.")}
    own = _without_heads(model.state_dict())
    with output_errors(folder):
        save_heads(model, folder)
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        files = _files(model.config, shapes, dtype, max_shard_bytes)
        _save_tensors(files, own if state is None else state, model.config, dtype, folder)
        _write_json(folder / CONFIG_FILE, table)
        if end_of_text_id is not None:
            ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text_id)
            _write_json(folder / "generation_config.json", ids)


def _without_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that transformers has a place for."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("heads.")}


def save_heads(model: LanguageModel, folder: Path) -> None:
    """Write the heads beside the model, where there are any; in float32, whatever the model is saved in."""
    if not model.heads:
        return
    state = {name: tensor.detach().float().contiguous() for name, tensor in model.heads.state_dict().items()}
    save_file(state, folder / HEADS_WEIGHTS_FILE, metadata={"format": "pt"})
    heads = {name: asdict(head.config) for name, head in model.heads.items()}  # type: ignore[call-overload]
    _write_json(folder / HEADS_FILE, heads)


def with_heads(model: LanguageModel, folder: Path) -> LanguageModel:
    """The model with the heads that were saved beside it.

    Raises:
        ArtifactError: they are torn.
    """
    if not (folder / HEADS_FILE).exists():
        return model
    try:
        for name, table in json.loads((folder / HEADS_FILE).read_text(encoding="utf-8")).items():
            attach_head(model, name, HeadConfig(**{**table, "labels": tuple(table["labels"])}))
        model.heads.load_state_dict(load_file(folder / HEADS_WEIGHTS_FILE))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder}: the heads cannot be read: {error}",
            remedy=f"take {HEADS_FILE} and {HEADS_WEIGHTS_FILE} away to use the model without them, or save it again",
        ) from error
    return model


def _files(
    config: Any, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, max_bytes: int
) -> list[dict[TensorRow, int]]:
    """Which of transformers' tensors go into which file, with their sizes in bytes."""
    files: list[dict[TensorRow, int]] = [{}]
    room = max_bytes
    for row in architecture_of(config).pairs(shapes):
        joined = row.layout.join([torch.empty(shapes[name], device="meta") for name in row.ours], config)
        num_bytes = joined.numel() * dtype.itemsize
        if num_bytes > room and files[-1]:
            files.append({})
            room = max_bytes
        files[-1][row] = num_bytes
        room -= num_bytes
    return files


def _save_tensors(
    files: Sequence[Mapping[TensorRow, int]], state: Mapping[str, Tensor], config: Any, dtype: torch.dtype, folder: Path
) -> None:
    """Write one file, or numbered files and an index of them; of no more than one file are the tensors held."""
    places: dict[str, str] = {}
    for number, rows in enumerate(files, 1):
        file_name = WEIGHTS_FILE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {
            row.theirs: row.layout.join([state[name].detach() for name in row.ours], config).to(dtype).contiguous()
            for row in rows
        }
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file_name)
        del tensors
    if len(files) > 1:
        total = sum(num_bytes for rows in files for num_bytes in rows.values())
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": places})


def load_model(folder: Path) -> LanguageModel:
    """The model of a folder, in evaluation mode, with its weights in float32.

    Raises:
        ArtifactError: a file is missing or torn, or a tensor is missing, unexpected or of the wrong shape.
    """
    config_path = folder / CONFIG_FILE
    try:
        table = json.loads(config_path.read_text(encoding="utf-8"))
        architecture, config = from_config_json(table, config_path)
        if architecture is foreign.FOREIGN:
            _require_no_adapter(folder)
            return with_heads(foreign.load_foreign(folder, config), folder)
        state = _load_tensors(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} does not hold a model that can be read: {error}",
            remedy=_remedy(folder),
        ) from error
    return with_heads(model_of(architecture, config, state, folder), folder)


def _require_no_adapter(folder: Path) -> None:
    """Refuse an adapter beside a model: with peft, transformers would load the model that its file names instead."""
    if (folder / _ADAPTER_FILE).exists():
        raise ArtifactError(
            f"{folder} holds an adapter beside a model that transformers runs",
            remedy=f"remove {_ADAPTER_FILE}, or merge the adapter into its model and name the folder of that",
        )


def _remedy(folder: Path) -> str:
    """What to do about a folder whose weights are not found."""
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        return (
            f"{pickles[0]} may be a pickle, which can run any code when read and so is never opened; load it with "
            "transformers where you trust it, and save it anew, which writes safetensors"
        )
    return f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as `preceptor pretrain` writes it"


def load_decoder(folder: Path) -> Decoder:
    """The decoder of a folder, in evaluation mode, with its weights in float32.

    Raises:
        ArtifactError: as ``load_model``, or the model is of another family.
    """
    model = load_model(folder)
    if not isinstance(model, Decoder):
        raise ArtifactError(
            f"{folder} holds a model of type {architecture_of(model.config).model_type}, which does not generate",
            remedy="name the folder of a decoder, such as a GPT-2 or Llama model",
        )
    return model


def gguf_model(file: "GgufModel") -> LanguageModel:
    """The model of a GGUF file, in evaluation mode, with its weights in float32.

    Raises:
        ArtifactError: a tensor is missing, unexpected, of the wrong shape, or cannot be had back from its quantisation.
    """
    architecture, config = from_config_json(file.config, file.path)
    return model_of(architecture, config, dict(file.tensors()), file.path)


def _load_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in float32 where they are quantised."""
    return restored(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")), _stored_tensors(folder))


def _stored_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or from those its index names."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).exists() or not index.exists():
        return load_file(folder / WEIGHTS_FILE)
    state: dict[str, Tensor] = {}
    for file_name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
        if Path(file_name).name != file_name:
            raise ValueError(f"{index.name} names {file_name!r}, which is not a file of this folder")
        state |= load_file(folder / file_name)
    return state


def model_of(architecture: Architecture, config: Any, state: Mapping[str, Tensor], where: Path) -> LanguageModel:
    """The model of a configuration with the weights that transformers' tensors hold, in evaluation mode, in float32.

    Raises:
        ArtifactError: a tensor is missing, unexpected or of the wrong shape; names it and the shape it should have.
    """
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in architecture.family.module(config).state_dict().items()}
    ours = from_their_tensors(architecture, config, state, shapes, where)
    model = architecture.family.module(config)
    model.load_state_dict({name: tensor.float() for name, tensor in ours.items()})
    return model.eval()


def to_their_tensors(architecture: Architecture, config: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under transformers' names and in its layout."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return {
        row.theirs: row.layout.join([state[name].detach() for name in row.ours], config)
        for row in architecture.pairs(shapes)
    }


def from_their_tensors(
    architecture: Architecture,
    config: Any,
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: Path,
) -> dict[str, Tensor]:
    """Transformers' tensors under our names and in our layout; ``shapes`` are those of our model.

    Raises:
        ArtifactError: a tensor is missing, unexpected or of the wrong shape; names it and the shape it should have.
    """
    rows = architecture.pairs(shapes)
    names = {row.theirs for row in rows}
    state = _with_prefix(architecture, state, names | {*architecture.tied})
    state = _with_stand_ins(architecture, state, names)
    ours: dict[str, Tensor] = {}
    for row in rows:
        of_ours = [shapes[name] for name in row.ours]
        expected = tuple(row.layout.join([torch.empty(shape, device="meta") for shape in of_ours], config).shape)
        if row.theirs in architecture.zeros and row.theirs not in state:
            state[row.theirs] = torch.zeros(expected)
        if row.theirs not in state or tuple(state[row.theirs].shape) != expected:
            found = f"has shape {tuple(state[row.theirs].shape)}" if row.theirs in state else "is missing"
            raise ArtifactError(
                f"{where}: tensor {row.theirs} {found}; expected shape {expected}",
                remedy="the weights and config.json are not of the same model; fetch or train it again",
            )
        parts = row.layout.split(state[row.theirs], of_ours, config)
        ours |= {name: part.contiguous() for name, part in zip(row.ours, parts, strict=True)}
    expected_names = names | {*architecture.tied}
    if unexpected := sorted(n for n in state if n not in expected_names and not architecture.is_ignored(n)):
        raise ArtifactError(
            f"{where}: tensor {unexpected[0]} is not part of this architecture",
            remedy="the weights and config.json are not of the same model; fetch or train it again",
        )
    return ours


def _with_prefix(architecture: Architecture, state: Mapping[str, Tensor], expected: set[str]) -> Mapping[str, Tensor]:
    """The tensors of a model that was saved without its head, under the names they have where there is one."""
    prefix = architecture.prefix
    if not prefix or any(name.startswith(prefix) for name in state):
        return state
    return {prefix + name if prefix + name in expected else name: tensor for name, tensor in state.items()}


def _with_stand_ins(architecture: Architecture, state: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The tensors of a file and those that it lacks but that share their values with one it has."""
    found = {
        name: next((state[other] for other in others if other in state), None)
        for name, others in architecture.stand_ins.items()
        if name in expected and name not in state
    }
    return {**state, **{name: tensor for name, tensor in found.items() if tensor is not None}}


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
