"""LoRA: the change of a linear layer as the product of two thin matrices, saved in peft's layout."""

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preceptor.adapters.adapter import freeze, named_linears
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.quantised import dequantised
from preceptor.core.errors import ArtifactError, ConfigError, output_errors

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a trained change of low rank: y = W x + (alpha / R) B A x.

    A starts random and B at zero, so that the change starts at nothing.

    Source: Hu et al. 2021, LoRA, eq. 3; the start of A as in peft.
    """

    def __init__(self, base_layer: nn.Linear, config: AdapterConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.scaling = config.alpha / config.rank
        weight = base_layer.weight
        self.lora_A = nn.Parameter(weight.new_empty(config.rank, base_layer.in_features))
        self.lora_B = nn.Parameter(weight.new_zeros(base_layer.out_features, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """What the adapted layer gives, of the base layer's output shape."""
        change = nn.functional.linear(nn.functional.linear(self.dropout(x), self.lora_A), self.lora_B)
        return torch.add(self.base_layer(x), change, alpha=self.scaling)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the change added to its weights, in place."""
        self.base_layer.weight.addmm_(self.lora_B, self.lora_A, alpha=self.scaling)
        return self.base_layer


def attach(model: nn.Module, config: AdapterConfig, generator: torch.Generator | None = None) -> nn.Module:
    """The model with every targeted linear layer wrapped in place; only the adapters train.

    Raises:
        ConfigError: a target names no linear layer of the model.
    """
    layers = [each for each in named_linears(model) if not each[2].startswith(("heads.", "lm_head"))]
    names = {name for _, name, _, _ in layers}
    targets = config.target_modules or sorted(names)
    if missing := [target for target in targets if target not in names]:
        raise ConfigError(
            f"finetuning.adapter.target_modules: the model has no linear layer named {missing[0]!r}",
            path="finetuning.adapter.target_modules",
            expected=f"some of {', '.join(sorted(names))}",
            remedy=f"choose from {', '.join(sorted(names))}",
        )
    freeze(model)
    for parent, name, _, layer in layers:
        if name in targets:
            setattr(parent, name, LowRankLinear(layer, config, generator))
    return model


def merge(model: nn.Module) -> nn.Module:
    """The model with every adapter folded into its base layer, in place; a base in 4 bits comes back whole.

    Nothing is rounded to 4 bits again, so that the result says what the model said in training.
    """
    dequantised(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LowRankLinear):
                setattr(module, name, child.merged())
    return model


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors under peft's names."""
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            state[f"{_PREFIX}{name}.lora_A.weight"] = module.lora_A.detach().contiguous()
            state[f"{_PREFIX}{name}.lora_B.weight"] = module.lora_B.detach().contiguous()
    return state


def save_adapter(model: nn.Module, config: AdapterConfig, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors; ``base`` names the model they belong to."""
    table = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(
            {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
        ),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with output_errors(folder):
        save_file(adapter_state(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """The model with the adapter of a folder attached, in evaluation mode.

    Raises:
        ArtifactError: a file is missing or torn, the adapter is not a LoRA, or a tensor does not fit the model.
    """
    try:
        table = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS_FILE)
        if table["peft_type"] != "LORA":
            raise ValueError(f"peft_type is {table['peft_type']!r}, not 'LORA'")
        config = AdapterConfig(
            rank=table["r"], alpha=table["lora_alpha"], target_modules=tuple(sorted(table["target_modules"]))
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} does not hold a LoRA adapter that can be read: {error}",
            remedy=f"name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as `preceptor finetune` writes it",
        ) from error
    attach(model, config)
    ours = adapter_state(model)
    for name in sorted(ours.keys() | state.keys()):
        if name not in state or name not in ours or state[name].shape != ours[name].shape:
            raise ArtifactError(
                f"{folder / WEIGHTS_FILE}: tensor {name} does not fit the base model",
                remedy=f"attach it to the model it was trained on: {table.get('base_model_name_or_path')}",
            )
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LowRankLinear)}
    with torch.no_grad():
        for name, module in modules.items():
            module.lora_A.copy_(state[f"{_PREFIX}{name}.lora_A.weight"])
            module.lora_B.copy_(state[f"{_PREFIX}{name}.lora_B.weight"])
    return model.eval()
