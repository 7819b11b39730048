"""Optimizers: which weights they train, how, and their state as named tensors."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.language_model import is_hidden_matrix
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim_config import OptimizerConfig, ParameterGroup
from preceptor.train.optimizer_states import rule_in_8_bits, state_places
from preceptor.train.update_rules import Lion, Muon

_ALIKE: Mapping[str, float] = MappingProxyType({})
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EMBEDS = re.compile(r"(?:^|\.)(?:embed_\w+|shared|embeddings?)\.")
_PLAIN = ParameterGroup(pattern="*")
_PLAIN_MEMORY = MemoryConfig()
_OWN_DECAY = ("adamw", "adafactor", "muon", "lion")
"""Kinds whose update rule decays weights itself, apart from the gradient."""
_OTHER_SHAPES = ("step", "row_var", "col_var", "absmax1", "absmax2", "qmap1", "qmap2")
"""What of a state has not the shape of its weight."""
_COUNT = "num_tensors"
"""How many other tensors a saved state has, so that it is seen where one is missing."""


def group_of(config: OptimizerConfig, name: str) -> ParameterGroup:
    """The settings of a weight: those of the first group whose pattern fits its name."""
    return next((group for group in config.groups if fnmatchcase(name, group.pattern)), _PLAIN)


def freeze(model: nn.Module, config: OptimizerConfig) -> None:
    """Let the weights of frozen groups ask for no gradient.

    Raises:
        ConfigError: a pattern fits no weight that is trained, or nothing is left to train.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for group in config.groups:
        if not any(fnmatchcase(name, group.pattern) for name in names):
            raise ConfigError(
                f"optimizer.groups: the pattern {group.pattern!r} fits no weight that is trained",
                expected=f"a pattern for names such as {', '.join(names[:3])}",
                remedy="correct the pattern; `preceptor model describe` lists the names",
            )
    found = [group_of(config, name) for name in names]
    if all(group.frozen or group.from_step for group in found):
        raise ConfigError(
            "optimizer.groups leave no weight to be trained from the first step on",
            remedy="leave out frozen and from_step for some weights",
        )
    for name, parameter in model.named_parameters():
        if group_of(config, name).frozen:
            parameter.requires_grad_(False)


def layer_scales(names: Collection[str], decay: float) -> dict[str, float]:
    """What the learning rate of each weight is multiplied by: less by ``decay`` with each layer further down.

    What stands behind the layers learns at the full rate, what stands before them as the layer below the first. Source:
    Howard and Ruder 2018, ULMFiT, discriminative fine-tuning; Clark et al. 2020, ELECTRA.
    """
    inside = {name: int(found[1]) + 1 for name in names if (found := _LAYER.search(name))}
    top = max(inside.values(), default=0) + 1
    depths = {name: inside.get(name, 0 if _EMBEDS.search(name) else top) for name in names}
    return {name: decay ** (top - depth) for name, depth in depths.items()}


@dataclass(frozen=True, slots=True)
class _Part:
    """A PyTorch optimizer, what its peak rate is, and the weights it trains by name."""

    rule: torch.optim.Optimizer
    peak: float
    parameters: dict[str, nn.Parameter]
    decays: list[tuple[nn.Parameter, float, float]] = field(default_factory=list)
    """Weights that decay and whose rule does not see to it, with decay and scale of the rate."""


class Optimizer:
    """The optimizer of a run: one rule for all weights, or Muon for hidden matrices and AdamW for the rest.

    ``scales`` multiply the learning rates of the weights they name. Weight decay does not follow them, so that a wider
    model, whose matrices learn more slowly, forgets as fast. Source: Wang and Aitchison 2024, for the latter.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimizerConfig,
        scales: Mapping[str, float] = _ALIKE,
        memory: MemoryConfig = _PLAIN_MEMORY,
        folder: Path | None = None,
    ) -> None:
        self.config, self.memory = config, memory
        self.parameters = dict(parameters)
        device = next((parameter.device for parameter in self.parameters.values()), torch.device("cpu"))
        self._places = state_places(memory, folder, device)
        by_layer = layer_scales(self.parameters, config.layer_decay)
        self._groups = {name: group_of(config, name) for name in self.parameters}
        self._scales = {name: scales.get(name, 1.0) for name in self.parameters}
        self._chosen = {name: by_layer[name] * self._groups[name].learning_rate_scale for name in self.parameters}
        matrices = {n: p for n, p in self.parameters.items() if config.kind == "muon" and is_hidden_matrix(n, p)}
        rest = {n: p for n, p in self.parameters.items() if n not in matrices}
        self.parts: dict[str, _Part] = {}
        if matrices:
            self.parts["muon"] = self._part("muon", matrices, config.learning_rate)
        if rest:
            kind = "adamw" if config.kind == "muon" else config.kind
            rate = config.adamw_learning_rate if config.kind == "muon" else config.learning_rate
            self.parts[kind] = self._part(kind, rest, rate)

    def _part(self, kind: str, parameters: dict[str, nn.Parameter], peak: float) -> _Part:
        """The rule of a kind over these weights, those alike in one group."""
        alike: dict[tuple[float, float], list[nn.Parameter]] = {}
        decays: list[tuple[nn.Parameter, float, float]] = []
        for name, parameter in parameters.items():
            group, scale = self._groups[name], self._scales[name]
            decay = self.config.decay if group.weight_decay is None else group.weight_decay
            decay = decay / scale if parameter.dim() >= 2 else 0.0
            rate_scale = scale * self._chosen[name]
            if kind not in _OWN_DECAY and decay:
                decays.append((parameter, decay, rate_scale))
                decay = 0.0
            alike.setdefault((decay, rate_scale), []).append(parameter)
        groups = [{"params": p, "weight_decay": decay, "scale": scale} for (decay, scale), p in alike.items()]
        if self.memory.optimizer_bits == 8:
            rule = rule_in_8_bits(kind, groups, self.config, peak, paged=self.memory.paged)
        else:
            rule = _rule(kind, groups, self.config, peak)
        return _Part(rule, peak, parameters, decays)

    def hold_back(self, step: int) -> None:
        """Drop the gradients of weights that are not trained yet at a step, counted from 0."""
        for name, group in self._groups.items():
            if step < group.from_step:
                self.parameters[name].grad = None

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update the parameters in place; ``factor`` is the share of the peak learning rate."""
        self._regularise()
        for part in self.parts.values():
            for group in part.rule.param_groups:
                group["lr"] = part.peak * factor * group["scale"]
            for parameter, decay, scale in part.decays:
                if parameter.grad is not None:
                    parameter.mul_(1 - part.peak * factor * scale * decay)
            self._places.step(part.rule)

    def _regularise(self) -> None:
        """Add the gradients of the penalties of matrices."""
        config = self.config
        if not config.l1 and not config.l2:
            return
        for parameter in self.parameters.values():
            if parameter.grad is None or parameter.dim() < 2:
                continue
            if config.l2:
                parameter.grad.add_(parameter, alpha=config.l2)
            if config.l1:
                parameter.grad.add_(parameter.sign(), alpha=config.l1)

    @property
    def bytes_on_disk(self) -> int:
        """How many bytes of the state lie in a file."""
        return self._places.bytes_on_disk

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state by name; loading it into a fresh optimizer of the same weights goes on bit for bit."""
        state = {
            f"{kind}.{name}.{key}": _saved(key, value)
            for kind, part in self.parts.items()
            for name, parameter in part.parameters.items()
            for key, value in part.rule.state.get(parameter, {}).items()
            if isinstance(value, Tensor | int)
        }
        return state | {_COUNT: torch.tensor(len(state))}

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state from ``state_tensors``.

        Raises:
            ArtifactError: the state is not of these weights, or not of this kind of optimizer, or not whole.
        """
        remedy = "resume with the recipe the checkpoint was made with, or start into a new --out folder"
        left = dict(state)
        count = int(left.pop(_COUNT, torch.tensor(-1)))
        if len(left) < count or count < 0:
            raise ArtifactError(
                f"the saved optimizer state is not whole: it has {len(left)} tensors of {count}", remedy=remedy
            )
        for kind, part in self.parts.items():
            for name, parameter in part.parameters.items():
                prefix = f"{kind}.{name}."
                # A weight's name may begin another's, but no key of a state has a dot.
                keys = [key for key in left if key.startswith(prefix) and "." not in key.removeprefix(prefix)]
                found = {key.removeprefix(prefix): left.pop(key).clone() for key in keys}
                for key, value in found.items():
                    if key not in _OTHER_SHAPES and value.shape != parameter.shape:
                        raise ArtifactError(
                            f"the saved {prefix}{key} has shape {tuple(value.shape)}, which does not fit this model",
                            remedy=remedy,
                        )
                in_8_bits = self.memory.optimizer_bits == 8
                if found and ("state1" in found) != in_8_bits:
                    raise ArtifactError(
                        f"the saved state of {name} is {'not ' if in_8_bits else ''}of an optimizer in 8 bits",
                        remedy=remedy,
                    )
                part.rule.state[parameter] = self._as_the_rule_has_it(found)
        if left:
            raise ArtifactError(
                f"the saved optimizer state has tensors of unknown weights: {', '.join(sorted(left)[:3])}",
                remedy=remedy,
            )
        if len(state) > count + 1:
            raise ArtifactError(f"the saved optimizer state has more tensors than {count}", remedy=remedy)

    def _as_the_rule_has_it(self, found: dict[str, Tensor]) -> dict[str, Any]:
        """A state that was saved, each tensor where it lies between steps."""
        state: dict[str, Any] = dict(found)
        if self.memory.optimizer_bits == 8 and "step" in state:
            state["step"] = int(state["step"])
        self._places.put(state)
        return state


def _saved(key: str, value: Tensor | int) -> Tensor:
    """What of a state is saved; a table of values that all weights share is saved for each."""
    if isinstance(value, int):
        return torch.tensor(value)
    return value.clone() if key.startswith("qmap") else value


def _rule(kind: str, groups: list[dict[str, Any]], config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    """PyTorch's optimizer of a kind, or ours. Adafactor: Shazeer and Stern 2018, with the rate as it is scheduled."""
    betas = (config.beta1, config.beta2)
    match kind:
        case "muon":
            return Muon(groups, lr=rate, momentum=config.momentum, nesterov=config.nesterov)
        case "lion":
            return Lion(groups, lr=rate, betas=betas)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=rate)
        case "rmsprop":
            return torch.optim.RMSprop(
                groups, lr=rate, alpha=config.smoothing, eps=config.eps, momentum=config.momentum
            )
        case "sgd":
            nesterov = config.nesterov and config.momentum > 0
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=nesterov)
    # Adam is AdamW without decay, which is taken care of before.
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=config.eps, fused=True)
