"""A GGUF file as a base model: configuration, weights and tokenizer, in the words that transformers uses."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.core.errors import ArtifactError
from preceptor.models.gguf_architectures import ARCHITECTURES, Architecture
from preceptor.models.gguf_tokenizer import tokenizer_json
from preceptor.tokenizer.imports import complete
from preceptor.tokenizer.tokenizer import Tokenizer

_DOWNLOAD = "download or convert the file again"


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids of the tokens that stand for no text; None where the file names none."""

    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None


_Parts = tuple[int, list[NDArray[Any]], list[int], list[gguf.GGUFValueType]]


class _Reader(gguf.GGUFReader):
    """The library's reader, which alone would take what lies behind the end of a file for empty."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> NDArray[Any]:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise EOFError(f"byte {end} is needed, and the file ends at byte {len(self.data)}")
        return super()._get(int(offset), dtype, int(count), override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> _Parts:
        """As the library has it, but a list as one array: a vocabulary is 100,000 texts and more."""
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = gguf.GGUFValueType(self._get(orig_offs, np.uint32)[0])
        length, place = int(self._get(orig_offs + 4, np.uint64)[0]), int(orig_offs) + 12
        if kind == gguf.GGUFValueType.STRING:
            view, texts = self.data.data, []
            for _ in range(length):
                size = int.from_bytes(view[place : place + 8], "little")
                place += 8 + size
                if place > len(view):
                    raise EOFError(f"byte {place} is needed, and the file ends at byte {len(view)}")
                texts.append(str(view[place - size : place], "utf-8"))
            values = np.array(texts, dtype=object)
        elif kind in self.gguf_scalar_to_np:
            values = self._get(place, self.gguf_scalar_to_np[kind], length)
            place += values.nbytes
        else:
            raise ValueError(f"byte {orig_offs} starts a list of {kind.name} values")
        return place - int(orig_offs), [values], [0], [gguf.GGUFValueType.ARRAY, kind]

    def metadata(self) -> dict[str, Any]:
        """What the file says of itself: numbers, truths, texts and lists of them."""
        lists = {k: f.parts[f.data[0]] for k, f in self.fields.items() if f.types[0] == gguf.GGUFValueType.ARRAY}
        return {k: lists[k].tolist() if k in lists else field.contents() for k, field in self.fields.items()}


_OPTIONAL = frozenset({"attention.head_count_kv", "attention.key_length"})
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class GgufModel:
    """What a GGUF file says of a model; weights and tokenizer are read when they are asked for."""

    path: Path
    config: dict[str, Any]
    """What transformers' config.json would say."""
    special: SpecialIds
    chat_template: str | None
    quantisations: Mapping[str, str]
    """transformers' name of each tensor -> how its values are stored."""
    _metadata: Mapping[str, Any] = field(repr=False)
    _stored: Mapping[str, gguf.ReaderTensor] = field(repr=False)
    _architecture: Architecture = field(repr=False)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names of transformers with the values in float32, one at a time, in the order of the file.

        Raises:
            ArtifactError: a quantisation has no known way back, or a tensor has an impossible shape.
        """
        for name, stored in self._stored.items():
            try:
                values = gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float32, copy=False)
                values = self._architecture.change(stored.name, values, self.config)
            except NotImplementedError as error:
                raise ArtifactError(
                    f"{self.path}: tensor {stored.name} is stored as {stored.tensor_type.name}, "
                    "of which the values cannot be had back",
                    remedy="take the file in another quantisation, such as Q8_0 or F16",
                ) from error
            except ValueError as error:
                raise ArtifactError(
                    f"{self.path}: tensor {stored.name} has the shape {stored.shape.tolist()[::-1]}, "
                    f"which cannot be: {error}",
                    remedy=_DOWNLOAD,
                ) from error
            yield name, torch.from_numpy(np.array(values, order="C"))

    @cached_property
    def tokenizer_json(self) -> str:
        """The content of a tokenizer.json, with the ids of the file.

        Raises:
            ArtifactError: the file has no tokenizer, or one of a kind that is not known.
        """
        return tokenizer_json(self._metadata, str(self.path))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the file with its chat template; what it lacks of an end or a template is added behind.

        Raises:
            ArtifactError: the file has no tokenizer, or one of a kind that is not known.
        """
        words = tokenizers.Tokenizer.from_str(self.tokenizer_json)
        named = {f"{key}_token": getattr(self.special, key) for key in ("bos", "eos", "pad", "unk")}
        said = {name: words.id_to_token(number) for name, number in named.items() if number is not None}
        return complete(self.tokenizer_json, {**said, "chat_template": self.chat_template}, self.path)


def read_gguf(path: str | PathLike[str]) -> GgufModel:
    """The model of a GGUF file; the weights stay in the file until they are asked for.

    Raises:
        ArtifactError: it is missing, no GGUF file, cut short, one part of several, of an architecture that is not
            known, or lacks a tensor or a size.

    Source: the GGUF specification, version 3, of the ggml project.
    """
    path = Path(path)
    reader, metadata = _open(path)
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ArtifactError(
            f"{path} holds a model of the architecture {name!r}, which is not known",
            remedy=f"take a model of one of these: {', '.join(sorted(ARCHITECTURES))}",
        )
    if metadata.get("split.count", 1) != 1:
        raise ArtifactError(
            f"{path} is one of {metadata['split.count']} parts",
            remedy="join the parts first, with `llama-gguf-split --merge`",
        )
    architecture = ARCHITECTURES[name]
    found = {tensor.name: tensor for tensor in reader.tensors}
    ids = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "padding", "unknown")]
    special = SpecialIds(*(_number(path, "special token", number, 0) for number in ids))
    config = _config(path, name, metadata, found, special)
    stored = _matched(path, architecture, found, config)
    template = metadata.get("tokenizer.chat_template")
    types = {name: tensor.tensor_type.name for name, tensor in stored.items()}
    return GgufModel(path, config, special, template, types, metadata, stored, architecture)


def _open(path: Path) -> tuple[_Reader, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise ArtifactError(f"{path} is no GGUF file: it starts with {magic!r}", remedy="check the path")
        reader = _Reader(path)
        metadata = reader.metadata()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}", remedy="check the path") from error
    except EOFError as error:
        raise ArtifactError(f"{path} is cut short: {error}", remedy=_DOWNLOAD) from error
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        if unknown := re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error)):
            raise ArtifactError(
                f"{path} has a tensor of the quantisation {unknown[1]}, which is not known",
                remedy="take the file in another quantisation, such as Q8_0 or F16",
            ) from error
        raise ArtifactError(f"{path} is no GGUF file that can be read: {error}", remedy=_DOWNLOAD) from error
    if reader.byte_order != "I":
        raise ArtifactError(
            f"{path} is in the byte order of other machines", remedy="convert it on this kind of machine"
        )
    return reader, metadata


def _sizes(
    path: Path, name: str, metadata: Mapping[str, Any], found: Mapping[str, gguf.ReaderTensor]
) -> dict[str, Any]:
    """What the file says of the sizes of the model, by the keys of config.json.

    Raises:
        ArtifactError: it lacks one, one cannot be, or the layers differ in size.
    """
    keys, defaults = ARCHITECTURES[name].keys, ARCHITECTURES[name].defaults
    said = {key: _plain(metadata[f"{name}.{key}"]) for key in keys if f"{name}.{key}" in metadata}
    lacking = [key for key in keys if key not in said and keys[key] not in defaults and key not in _OPTIONAL]
    if lacking or "token_embd.weight" not in found:
        raise ArtifactError(f"{path} lacks {', '.join(lacking) or 'token_embd.weight'}", remedy=_DOWNLOAD)
    if metadata.get(f"{name}.expert_count", 0) or any(isinstance(value, list) for value in said.values()):
        raise ArtifactError(
            f"{path} holds a {name} model of several experts, or with layers of different sizes",
            remedy="take a model whose layers are all alike and have one feed-forward part each",
        )
    for key, value in said.items():
        fraction = isinstance(defaults.get(keys[key]), float) or key.endswith("epsilon")
        least = 0 if fraction or isinstance(value, bool) else 1
        _number(path, f"{name}.{key}", value, least, int | float if fraction else int)
    if said["block_count"] > len(found):
        raise ArtifactError(
            f"{path} lacks tensors: it has {len(found)}, for {said['block_count']} layers", remedy=_DOWNLOAD
        )
    return {keys[key]: value for key, value in said.items()}


def _config(
    path: Path, name: str, metadata: Mapping[str, Any], found: Mapping[str, gguf.ReaderTensor], special: SpecialIds
) -> dict[str, Any]:
    architecture = ARCHITECTURES[name]
    sizes = _sizes(path, name, metadata, found)
    vocab_size = len(found["token_embd.weight"].data)
    tokens = metadata.get("tokenizer.ggml.tokens")
    used = [len(tokens) if isinstance(tokens, list) else 0, *(1 + number for number in astuple(special) if number)]
    if max(used) > vocab_size:
        raise ArtifactError(f"{path} has {max(used)} tokens, and {vocab_size} embeddings", remedy=_DOWNLOAD)
    config = {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        **architecture.defaults,
        **sizes,
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in found,
        **{f"{key}_token_id": getattr(special, key) for key in ("bos", "eos", "pad")},
    }
    for key, stems in architecture.choices.items():
        config[key] = any(f"{stem.format(0)}.bias" in found for stem in stems)
    if "rms_norm_eps" in config:
        _complete_rotary(path, name, metadata, found, config)
    elif name == "gptneox":
        head_size = config["hidden_size"] // config["num_attention_heads"]
        rotary = _number(path, "rope.dimension_count", metadata.get("gptneox.rope.dimension_count"), 1)
        config["rotary_pct"] = (rotary or head_size) / head_size
    if name == "llama" and "mistral" in str(metadata.get("general.name", "")).lower():
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    return config


def _plain(value: Any) -> Any:
    """A value as a configuration would write it: float32 by its shortest decimal; a list of equal values as one."""
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _number(path: Path, key: str, value: Any, least: float, kinds: type | UnionType = int) -> Any:
    """The value, if there is none or it is a number that can be.

    Raises:
        ArtifactError: it is something else.
    """
    is_number = isinstance(value, kinds)
    if value is not None and not (is_number and least <= value < 2**31):
        raise ArtifactError(f"{path} says {key} = {str(value)[:40]!r}, which cannot be", remedy=_DOWNLOAD)
    return value


def _complete_rotary(
    path: Path, name: str, metadata: Mapping[str, Any], found: Mapping[str, gguf.ReaderTensor], config: dict[str, Any]
) -> None:
    """Add to the configuration what GGUF leaves to the reader, of heads and of rotary positions."""
    num_heads = config["num_attention_heads"]
    config.setdefault("num_key_value_heads", num_heads)
    rotary = _number(path, "rope.dimension_count", metadata.get(f"{name}.rope.dimension_count"), 1)
    config.setdefault("head_dim", rotary or config["hidden_size"] // num_heads)
    if rotary not in (None, config["head_dim"]):
        raise ArtifactError(
            f"{path} turns {rotary} of the {config['head_dim']} dimensions of a head, which {name} models do not",
            remedy="take a model that turns them all",
        )
    if name in _GEMMA_27B_LAYERS:
        whole = config["num_hidden_layers"] == _GEMMA_27B_LAYERS[name]
        config["query_pre_attn_scalar"] = config["hidden_size"] // num_heads if whole else config["head_dim"]
    kind, factor, original = (
        _plain(metadata.get(f"{name}.rope.scaling.{key}")) for key in ("type", "factor", "original_context_length")
    )
    _number(path, "rope.scaling.factor", factor, 0, int | float)
    _number(path, "rope.scaling.original_context_length", original, 1)
    if "rope_freqs.weight" in found:
        config["rope_scaling"] = _llama3_scaling(path, found["rope_freqs.weight"], config)
    elif kind == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        config["rope_scaling"] = {"rope_type": "yarn", "factor": factor}
        if original is not None:
            config["rope_scaling"]["original_max_position_embeddings"] = original
    elif kind not in (None, "none"):
        raise ArtifactError(
            f"{path} stretches positions by {kind}, which is not known",
            remedy="take a model that stretches them by linear, yarn or llama3, or not at all",
        )


def _llama3_scaling(path: Path, stored: gguf.ReaderTensor, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The way of Llama 3.1 to stretch positions, of which GGUF keeps only the factor of each frequency.

    Source: Grattafiori et al. 2024, and the constants that all its published configurations share.
    """
    factors = np.asarray(stored.data, np.float64).ravel()
    factor = float(factors.max())
    if factor == 1.0:
        return None
    low, high, original = _LLAMA3_ROPE.values()
    size = config["head_dim"]
    wavelengths = 2 * np.pi * config["rope_theta"] ** (np.arange(0, size, 2) / size)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    if len(factors) != size // 2 or not np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise ArtifactError(
            f"{path} stretches positions by factors that are not those of Llama 3.1",
            remedy="take the model as a folder of transformers, if there is one",
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_ROPE}


def _matched(
    path: Path, architecture: Architecture, found: Mapping[str, gguf.ReaderTensor], config: Mapping[str, Any]
) -> dict[str, gguf.ReaderTensor]:
    """The tensors of the file by transformers' names.

    Raises:
        ArtifactError: one is missing, or one is not part of the architecture.
    """
    chosen = [stems for key, stems in architecture.choices.items() if config[key]]
    biased = architecture.biased.union(*chosen)
    names: dict[str, str] = {}
    num_layers = config.get("num_hidden_layers", config.get("n_layer"))
    for stem, theirs in architecture.names.items():
        if stem == "output" and config["tie_word_embeddings"]:
            continue
        for layer in range(num_layers if "{}" in stem else 1):
            names[f"{stem.format(layer)}.weight"] = f"{theirs.format(layer)}.weight"
            if stem in biased:
                names[f"{stem.format(layer)}.bias"] = f"{theirs.format(layer)}.bias"
    if missing := [name for name in names if name not in found]:
        raise ArtifactError(f"{path} lacks {len(missing)} tensors, such as {missing[0]}", remedy=_DOWNLOAD)
    if others := [name for name in found if name not in names and name != "rope_freqs.weight"]:
        raise ArtifactError(
            f"{path} has {len(others)} tensors that no {architecture.model_type} model has, such as {others[0]}",
            remedy="take a model of the plain architecture",
        )
    return {names[name]: tensor for name, tensor in found.items() if name in names}
