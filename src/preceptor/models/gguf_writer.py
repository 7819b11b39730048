"""A model as a GGUF file: the way back from ``gguf``, for the same architectures."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.models.gguf import read_gguf
from preceptor.models.gguf_architectures import ARCHITECTURES, Architecture
from preceptor.models.gguf_vocabulary import vocabulary
from preceptor.models.interchange import architecture_of, from_config_json, to_config_json, to_their_tensors
from preceptor.models.language_model import LanguageModel
from preceptor.tokenizer.tokenizer import Tokenizer

GgufKind = Literal["F32", "F16", "Q8_0", "Q4_0"]
"""How matrices are stored: in float32, float16, or blocks of 32 values in 8 or 4 bits with one scale each."""
_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
_OF_TRAINING = frozenset(
    {
        *("dropout", "layer_drop", "initialisation", "initializer_range", "zero_init_outputs"),
        *("width_base", "head_dim_base"),
    }
)
"""Fields of a configuration that a trained model has no use for."""
_TABLES = ("token_embd.weight", "output.weight")


def gguf_name(model: LanguageModel) -> str | None:
    """What GGUF calls the architecture of a model; None where it knows none."""
    model_type = architecture_of(model.config).model_type
    return next((name for name, each in ARCHITECTURES.items() if each.model_type == model_type), None)


def write_gguf(
    model: LanguageModel,
    tokenizer: Tokenizer,
    path: Path,
    kind: GgufKind = "F16",
    *,
    says: Mapping[str, str] | None = None,
    texts: Sequence[str] = (),
) -> dict[str, int]:
    """How many tensors are stored in which way, once the file is written; it is read back and compared.

    Vectors stay in float32. A matrix whose rows are no whole number of blocks is stored in float16, and with 4 bits
    the tables of the vocabulary in 8, which suffer most. ``says`` are texts under "general.", ``texts`` some to prove
    the tokenizer on.

    Raises:
        ArtifactError: GGUF has no place for the architecture, for a part of it, or for the tokenizer.
        OutputError: it cannot be written.
    """
    name = gguf_name(model)
    if name is None:
        raise ArtifactError(
            f"a GGUF file has no place for models of type {architecture_of(model.config).model_type}",
            remedy=f"export with `--as merged`; known in GGUF are {', '.join(ARCHITECTURES)}",
        )
    row, table = ARCHITECTURES[name], to_config_json(model.config)
    tensors = _tensors(model, row, table)
    counts: dict[str, int] = {}
    with output_errors(path):
        writer = gguf.GGUFWriter(path, name)
        for key, value in {**_sizes(model, name, table), **vocabulary(tokenizer, _num_rows(tensors), texts)}.items():
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value), _kind_within(value))
        for key, text in (says or {}).items():
            writer.add_key_value(f"general.{key}", text, gguf.GGUFValueType.STRING)
        writer.add_file_type(_FILE_TYPES[kind])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for ours, values in tensors.items():
            stored, found = _stored(ours, values, kind)
            counts[found.name] = counts.get(found.name, 0) + 1
            writer.add_tensor(ours, stored, raw_dtype=found)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    _require_same_shape(model, path)
    return counts


def _kind_within(value: Any) -> "gguf.GGUFValueType | None":
    return gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) and value else None


def _num_rows(tensors: Mapping[str, NDArray[np.float32]]) -> int:
    return len(tensors["token_embd.weight"])


def _tensors(model: LanguageModel, row: Architecture, table: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The values under GGUF's names and in its layout.

    Raises:
        ArtifactError: the model has one that GGUF has no name for.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("heads.")}
    theirs = to_their_tensors(architecture_of(model.config), model.config, state)
    found: dict[str, NDArray[np.float32]] = {}
    for stem, their_stem in row.names.items():
        for layer in range(model.config.num_hidden_layers if "{}" in stem else 1):
            for part in ("weight", "bias"):
                tensor = theirs.pop(f"{their_stem.format(layer)}.{part}", None)
                if tensor is not None:
                    name = f"{stem.format(layer)}.{part}"
                    found[name] = np.ascontiguousarray(row.undo(name, tensor.float().cpu().numpy(), table))
    if theirs:
        raise ArtifactError(
            f"a GGUF file has no place for the tensor {next(iter(theirs))}", remedy="export with `--as merged`"
        )
    if getattr(model.config, "rope_scaling", None) and model.config.rope_scaling.rope_type == "llama3":
        found["rope_freqs.weight"] = _llama3_factors(model.config)
    return found


def _llama3_factors(config: Any) -> NDArray[np.float32]:
    """By how much each rotary frequency is slowed, as GGUF keeps it. Source: Grattafiori et al. 2024."""
    scaling, size = config.rope_scaling, config.head_dim
    wavelengths = 2 * np.pi * config.rope_theta ** (np.arange(0, size, 2) / size)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((scaling.original_max_position_embeddings / wavelengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / scaling.factor + smooth), np.float32)


def _sizes(model: LanguageModel, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say the shape."""
    config, row = model.config, ARCHITECTURES[name]
    values = {
        **table,
        "rope_theta": config.rope_theta,
        "rotary_emb_base": config.rope_theta,
        "rope_local_base_freq": config.rope_theta_local or config.rope_theta,
        "sliding_window_pattern": config.full_attention_every or None,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
    }
    said = {key: values.get(theirs) for key, theirs in row.keys.items()}
    if "attention.key_length" in said:
        said |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
    if name == "gptneox":
        said["rope.dimension_count"] = config.rotary_dim
    if config.rope_scaling.rope_type == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config.rope_scaling.factor)}
    said["vocab_size"] = config.vocab_size
    return {f"{name}.{key}": value for key, value in said.items() if value is not None}


def _stored(name: str, values: NDArray[np.float32], kind: GgufKind) -> tuple[NDArray[Any], Any]:
    """The values as the file holds them, and the type of that."""
    if kind == "F32" or values.ndim == 1 or name == "position_embd.weight":
        return values.astype(np.float32, copy=False), gguf.GGMLQuantizationType.F32
    found = gguf.GGMLQuantizationType["Q8_0" if kind == "Q4_0" and name in _TABLES else kind]
    if kind != "F16" and values.shape[-1] % gguf.GGML_QUANT_SIZES[found][0]:
        found = gguf.GGMLQuantizationType.F16
    return gguf.quants.quantize(values, found), found


def _require_same_shape(model: LanguageModel, path: Path) -> None:
    """Read the file's configuration back.

    Raises:
        ArtifactError: it is another model's; names the first field that GGUF does not say.
    """
    read = from_config_json(read_gguf(path).config, path)[1]
    for field in fields(model.config):
        ours, theirs = getattr(model.config, field.name), getattr(read, field.name)
        if field.name in _OF_TRAINING or ours == theirs:
            continue
        if isinstance(ours, float) and (_close(ours, theirs) or _same_scale(model.config, field.name, ours, theirs)):
            continue
        raise ArtifactError(
            f"a GGUF file cannot say {field.name} = {ours!r} of a model of this architecture: it reads {theirs!r}",
            remedy="export with `--as merged`",
        )


def _close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= 1e-6 * max(abs(ours), abs(theirs))


def _same_scale(config: Any, name: str, ours: float, theirs: float) -> bool:
    """Whether one says in words what the other takes for granted."""
    if name == "attention_scale":
        usual = config.head_dim**-0.5
        return _close(ours or usual, theirs or usual)
    if name == "rope_theta_local":
        return _close(ours or config.rope_theta, theirs or config.rope_theta)
    return False
