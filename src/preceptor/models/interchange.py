"""Models to and from the folders that transformers reads: config.json and model.safetensors."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preceptor.core.errors import ArtifactError, output_errors
from preceptor.models.decoder import Decoder, DecoderConfig

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of transformers' architectures as a row: what our configuration must say, and the names of both sides."""

    model_type: str
    class_name: str
    fixed: Mapping[str, Any]
    """Fields of our configuration that this architecture implies."""
    config_names: Mapping[str, str]
    """Our field -> the key in config.json."""
    extra: Mapping[str, Any]
    """Keys of config.json that follow from the architecture."""

    def fits(self, config: DecoderConfig) -> bool:
        """Whether a model of this configuration is of this architecture."""
        return all(getattr(config, name) == value for name, value in self.fixed.items())


_LLAMA_NAMES = {
    name: name
    for name in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rope_theta",
        "hidden_act",
        "tie_word_embeddings",
        "initializer_range",
    ]
} | {"norm_eps": "rms_norm_eps", "dropout": "attention_dropout"}
_LLAMA_SHAPE = {"norm": "rmsnorm", "positions": "rotary", "gated": True, "bias": False}

LLAMA = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    fixed=_LLAMA_SHAPE | {"qk_norm": False},
    config_names=_LLAMA_NAMES,
    extra={"attention_bias": False, "mlp_bias": False},
)
QWEN3 = Architecture(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    fixed=_LLAMA_SHAPE | {"qk_norm": True},
    config_names=_LLAMA_NAMES,
    extra={"attention_bias": False, "use_sliding_window": False, "sliding_window": None},
)
GPT2 = Architecture(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    fixed={
        "norm": "layernorm",
        "positions": "learned",
        "gated": False,
        "bias": True,
        "qk_norm": False,
        "tie_word_embeddings": True,
    },
    config_names={
        "vocab_size": "vocab_size",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "hidden_act": "activation_function",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "resid_pdrop",
        "initializer_range": "initializer_range",
    },
    extra={"tie_word_embeddings": True},
)
NATIVE = Architecture(
    model_type="preceptor-decoder",
    class_name="Decoder",
    fixed={},
    config_names={field.name: field.name for field in fields(DecoderConfig)},
    extra={},
)
ARCHITECTURES = (QWEN3, LLAMA, GPT2, NATIVE)
"""In order of preference; the last one takes every decoder, and only this project reads it."""


def architecture_of(config: DecoderConfig) -> Architecture:
    """The architecture under which a decoder is saved."""
    for architecture in ARCHITECTURES:
        square = config.num_key_value_heads == config.num_attention_heads
        square = square and config.head_dim * config.num_attention_heads == config.hidden_size
        if architecture.fits(config) and (architecture is not GPT2 or square):
            return architecture
    raise AssertionError("the native architecture fits every decoder")


def to_config_json(config: DecoderConfig, end_of_text_id: int | None = None) -> dict[str, Any]:
    """The content of config.json for a decoder."""
    architecture = architecture_of(config)
    table: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        **{theirs: getattr(config, ours) for ours, theirs in architecture.config_names.items()},
        **architecture.extra,
        "dtype": "float32",
        "use_cache": True,
    }
    if "rope_theta" in table:
        # Releases of transformers from 5 on look here, older ones at rope_theta.
        table["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if architecture is GPT2:
        table |= {"attn_pdrop": config.dropout, "embd_pdrop": config.dropout}
    if end_of_text_id is not None:
        table |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text_id)
    return table


def from_config_json(table: Mapping[str, Any], where: Path) -> DecoderConfig:
    """The configuration of a decoder from the content of its config.json.

    Raises:
        ArtifactError: the architecture is not one of ours, or a key is missing or wrong.
    """
    known = {architecture.model_type: architecture for architecture in ARCHITECTURES}
    architecture = known.get(str(table.get("model_type")))
    if architecture is None:
        raise ArtifactError(
            f"{where}: model_type is {table.get('model_type')!r}, which is not a decoder that is known here",
            remedy=f"use a model of one of these types: {', '.join(known)}",
        )
    table = dict(table)
    if isinstance(table.get("rope_parameters"), dict):
        table.setdefault("rope_theta", table["rope_parameters"].get("rope_theta", DecoderConfig().rope_theta))
    values = {
        ours: table[theirs] for ours, theirs in architecture.config_names.items() if table.get(theirs) is not None
    }
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    if heads and hidden:
        values.setdefault("head_dim", hidden // heads)
        values.setdefault("num_key_value_heads", heads)
        values.setdefault("intermediate_size", 4 * hidden)
    try:
        return DecoderConfig(**{**architecture.fixed, **values})
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{where}: {error}", remedy="check the file against the model's documentation, or fetch the model again"
        ) from error


def save_model(model: Decoder, folder: Path, end_of_text_id: int | None = None) -> None:
    """Write config.json, generation_config.json and model.safetensors into an existing folder."""
    architecture = architecture_of(model.config)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if architecture is GPT2:
        state = dict(_to_gpt2(state, model.config.num_hidden_layers))
    with output_errors(folder):
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        _write_json(folder / CONFIG_FILE, to_config_json(model.config, end_of_text_id))
        if end_of_text_id is not None:
            ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text_id)
            _write_json(folder / "generation_config.json", ids)


def load_model(folder: Path) -> Decoder:
    """The decoder of a folder, in evaluation mode, with its weights in float32.

    Raises:
        ArtifactError: a file is missing or torn, or a tensor is missing, unexpected or of the wrong shape.
    """
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        config = from_config_json(json.loads(config_path.read_text(encoding="utf-8")), config_path)
        state = load_file(weights_path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} does not hold a model that can be read: {error}",
            remedy=f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as `preceptor pretrain` writes it",
        ) from error
    if architecture_of(config) is GPT2:
        state = dict(_from_gpt2(state, config.num_hidden_layers))
    with torch.device("meta"):
        model = Decoder(config)
    _check(model, state, weights_path)
    model = Decoder(config)
    model.load_state_dict(
        {name: tensor.float() for name, tensor in state.items()}, strict=not config.tie_word_embeddings
    )
    return model.eval()


def _check(model: Decoder, state: dict[str, Tensor], where: Path) -> None:
    """Compare names and shapes; a tied output layer that was saved as well is let go.

    Raises:
        ArtifactError: names the tensor, and the shape it should have.
    """
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        if name not in state or tuple(state[name].shape) != shape:
            found = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise ArtifactError(
                f"{where}: tensor {name} {found}; expected shape {shape}",
                remedy="the weights and config.json are not of the same model; fetch or train it again",
            )
    if unexpected := sorted(state.keys() - expected.keys()):
        raise ArtifactError(
            f"{where}: tensor {unexpected[0]} is not part of this architecture",
            remedy="the weights and config.json are not of the same model; fetch or train it again",
        )


_GPT2_BLOCK = {
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
_GPT2_OUTER = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.wpe.weight": "model.embed_positions.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "transformer.ln_f.bias": "model.norm.bias",
}


def _to_gpt2(state: Mapping[str, Tensor], num_layers: int) -> Iterator[tuple[str, Tensor]]:
    """GPT-2's names and layout: linear weights transposed, queries, keys and values in one tensor."""
    for theirs, ours in _GPT2_OUTER.items():
        yield theirs, state[ours]
    for layer in range(num_layers):
        ours_at, theirs_at = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{ours_at}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            yield f"{theirs_at}attn.c_attn.{kind}", _transposed(torch.cat(parts))
            for theirs, ours in _GPT2_BLOCK.items():
                tensor = state[f"{ours_at}{ours}.{kind}"]
                yield f"{theirs_at}{theirs}.{kind}", _transposed(tensor)


def _from_gpt2(state: Mapping[str, Tensor], num_layers: int) -> Iterator[tuple[str, Tensor]]:
    """Our names and layout from GPT-2's; what is missing is left out, for the check that follows to name."""
    for theirs, ours in _GPT2_OUTER.items():
        if theirs in state:
            yield ours, state[theirs]
    for layer in range(num_layers):
        ours_at, theirs_at = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            fused = state.get(f"{theirs_at}attn.c_attn.{kind}")
            if fused is not None:
                for part, tensor in zip("qkv", _transposed(fused).chunk(3), strict=True):
                    yield f"{ours_at}self_attn.{part}_proj.{kind}", tensor.contiguous()
            for theirs, ours in _GPT2_BLOCK.items():
                tensor_or_none = state.get(f"{theirs_at}{theirs}.{kind}")
                if tensor_or_none is not None:
                    yield f"{ours_at}{ours}.{kind}", _transposed(tensor_or_none)


def _transposed(tensor: Tensor) -> Tensor:
    """A matrix the other way round; a vector as it is."""
    return tensor.t().contiguous() if tensor.dim() == 2 else tensor


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
