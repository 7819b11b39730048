"""Weights of linear layers in 8 or 4 bits, laid out as bitsandbytes has them in a folder of transformers."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.core.errors import ArtifactError, ConfigError, output_errors

Bits = Literal[8, 4]
_CONFIG_FILE, _INDEX_FILE = "config.json", "model.safetensors.index.json"
_BLOCK = 64
_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
_STATE = ".quant_state.bitsandbytes__nf4"
_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma", "gemma2", "gemma3_text")
"""The model types whose linear layers are stored as linear layers under such names, and replaced by transformers."""


def quantise_folder(folder: Path, bits: Bits) -> None:
    """Bring the weights of linear layers of a saved model into 8 or 4 bits, and say so in its config.json.

    Raises:
        ArtifactError: transformers would not find the weights of this architecture.
        ConfigError: bitsandbytes is not installed.
        OutputError: the folder cannot be written.

    Source: Dettmers et al. 2022, LLM.int8(), eq. 4; Dettmers et al. 2023, QLoRA, section 3.
    """
    config, index = folder / _CONFIG_FILE, folder / _INDEX_FILE
    table = json.loads(config.read_text(encoding="utf-8"))
    if table["model_type"] not in _KNOWN:
        raise ArtifactError(
            f"weights in {bits} bits have no layout for models of type {table['model_type']}",
            remedy=f"use `--as gguf --bits {bits}` where GGUF knows the model, or `--bits 16`",
        )
    places: dict[str, str] = {}
    total = 0
    with output_errors(folder):
        for path in sorted(folder.glob("model*.safetensors")):
            state = _quantised(load_file(path), bits)
            save_file(state, path, metadata={"format": "pt"})
            places |= dict.fromkeys(state, path.name)
            total += sum(tensor.nbytes for tensor in state.values())
        if index.exists():
            said = {"metadata": {"total_size": total}, "weight_map": places}
            index.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        table["quantization_config"] = _quantisation_config(bits)
        config.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _quantisation_config(bits: Bits) -> dict[str, Any]:
    """What config.json says of the weights."""
    said: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_8bit": bits == 8, "load_in_4bit": bits == 4}
    if bits == 8:
        return said | {"llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None}
    return said | {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_quant_storage": "uint8",
    }


def _quantised(state: Mapping[str, Tensor], bits: Bits) -> dict[str, Tensor]:
    """Transformers' tensors with the weights of linear layers in 8 or 4 bits, and what is needed to have them back."""
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise ConfigError(
            "weights in 8 or 4 bits for transformers are made by bitsandbytes, which is not installed",
            remedy=f"install it with `pip install 'preceptor[quant]'`, or use `--as gguf --bits {bits}`",
        ) from error
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not _LINEAR.fullmatch(name):
            found[name] = tensor
        elif bits == 8:
            found |= _in_8_bits(name, tensor)
        else:
            packed, how = functional.quantize_4bit(tensor.float().contiguous(), blocksize=_BLOCK, quant_type="nf4")
            found[name] = packed
            found |= {f"{name}.{key}": value for key, value in how.as_dict(packed=True).items()}
    return found


def _in_8_bits(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A row at a time: its largest value is 127."""
    weight = tensor.float()
    largest = weight.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    stem = name.removesuffix(".weight")
    return {
        name: torch.round(weight * (127 / scale)[:, None]).to(torch.int8),
        f"{stem}.SCB": largest,
        f"{stem}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def restored(table: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder in float32, those in 8 or 4 bits had back; ``table`` is its config.json.

    Raises:
        ValueError: they are quantised in a way that is not known here.
    """
    said = table.get("quantization_config")
    if not said:
        return dict(state)
    if said.get("quant_method") != "bitsandbytes":
        raise ValueError(f"the weights are quantised by {said.get('quant_method')!r}, which is not known here")
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem = name.removesuffix(".weight")
        if tensor.dtype == torch.int8:
            found[name] = tensor.float() * (state[f"{stem}.SCB"].float() / 127)[:, None]
        elif tensor.dtype == torch.uint8 and f"{name}.absmax" in state:
            found[name] = _of_4_bits(name, tensor, state)
        elif not re.search(r"\.(SCB|weight_format|absmax|quant_map|nested_\w+|quant_state\..*)$", name):
            found[name] = tensor
    return found


def _of_4_bits(name: str, packed: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Two values in a byte, the higher half first; each stands for one of 16 numbers, times its block's largest."""
    if f"{name}{_STATE}" not in state or f"{name}.nested_absmax" in state:
        raise ValueError(f"{name} is in 4 bits that are not NF4 with plain scales, which are not known here")
    said = json.loads(bytes(state[f"{name}{_STATE}"].tolist()).decode())
    halves = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()
    values = state[f"{name}.quant_map"].float()[halves.long()]
    num = int(torch.Size(said["shape"]).numel())
    scales = state[f"{name}.absmax"].float().repeat_interleave(int(said["blocksize"]))
    return (values[:num] * scales[:num]).reshape(said["shape"])
