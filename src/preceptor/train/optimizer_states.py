"""Where the states of an optimizer lie, and the optimizers that hold them in 8 bits."""

import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from preceptor.core.errors import ConfigError
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.scratch_file import ScratchFile, open_scratch

SMALLEST_BYTES = 1 << 12
"""States that are smaller stay in memory."""


class StatePlaces(Protocol):
    """Where the states of an optimizer lie between steps."""

    @property
    def bytes_on_disk(self) -> int:
        """How many bytes lie in a file."""
        ...

    def step(self, rule: torch.optim.Optimizer) -> None:
        """Let a rule update its weights, with its states where it finds them."""
        ...

    def put(self, state: dict[str, Any]) -> None:
        """Put the state of one weight where it lies between steps, in place."""
        ...


class StatesInMemory:
    """States lie where their weights do."""

    bytes_on_disk = 0

    def step(self, rule: torch.optim.Optimizer) -> None:
        """Update all weights at once."""
        rule.step()

    def put(self, state: dict[str, Any]) -> None:
        """Leave the state where it is."""


class StatesOnDisk:
    """States are mapped from a file, so that the system writes them out where memory is short."""

    def __init__(self, file: ScratchFile) -> None:
        self.file = file
        self._mapped: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        """By identity, for tensors are equal element by element."""

    @property
    def bytes_on_disk(self) -> int:
        """The size of the file."""
        return self.file.num_bytes

    def step(self, rule: torch.optim.Optimizer) -> None:
        """Update weights one by one, so that never more than one new state is in memory."""
        _one_by_one(rule, _leave, self.put)

    def put(self, state: dict[str, Any]) -> None:
        """Move what is new of a state into the file.

        Raises:
            OutputError: the disk is full.
        """
        for key, value in state.items():
            if _is_large(value) and self._mapped.get(id(value)) is not value:
                state[key] = self.file.mapped(value).copy_(value)
                self._mapped[id(state[key])] = state[key]


class StatesOnHost:
    """States lie in the host's memory, and come to a weight's device for its update."""

    bytes_on_disk = 0

    def step(self, rule: torch.optim.Optimizer) -> None:
        """Update weights one by one, so that never more than one state is on the device."""
        _one_by_one(rule, self._fetch, self.put)

    def _fetch(self, state: dict[str, Any], device: torch.device) -> None:
        for key, value in state.items():
            if _is_large(value):
                state[key] = value.to(device, non_blocking=True)

    def put(self, state: dict[str, Any]) -> None:
        """Move a state to the host's memory, from which a GPU fetches it without waiting."""
        for key, value in state.items():
            if _is_large(value) and value.device.type != "cpu":
                held = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                state[key] = held.copy_(value)


def state_places(memory: MemoryConfig, folder: Path | None, device: torch.device) -> StatePlaces:
    """Where states lie, as the settings say; ``folder`` is taken where they name none.

    Raises:
        OutputError: the folder does not exist or cannot be written.
    """
    if memory.optimizer_states == "disk":
        return StatesOnDisk(open_scratch(memory, folder))
    if memory.optimizer_states == "host" and device.type != "cpu":
        return StatesOnHost()
    return StatesInMemory()


def _is_large(value: Any) -> bool:
    return isinstance(value, Tensor) and value.nbytes >= SMALLEST_BYTES


def _leave(state: dict[str, Any], device: torch.device) -> None:
    """What is mapped is found where it lies."""


def _one_by_one(
    rule: torch.optim.Optimizer,
    before: Callable[[dict[str, Any], torch.device], None],
    after: Callable[[dict[str, Any]], None],
) -> None:
    """Update weights one after another; the updates are those of all at once, for no rule looks at two weights."""
    groups = rule.param_groups
    try:
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                rule.param_groups = [{**group, "params": [parameter]}]
                before(rule.state[parameter], parameter.device)
                rule.step()
                after(rule.state[parameter])
    finally:
        rule.param_groups = groups


def rule_in_8_bits(
    kind: str, groups: list[dict[str, Any]], config: OptimizerConfig, rate: float, *, paged: bool
) -> torch.optim.Optimizer:
    """The optimizer of a kind in bitsandbytes, whose states take a byte for each element of a large weight.

    Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization.

    Raises:
        ConfigError: bitsandbytes is not installed, or states are to be paged and there is no GPU.
    """
    try:
        # It takes seconds to import, and is an extra.
        optim = importlib.import_module("bitsandbytes.optim")
    except ImportError as error:
        raise ConfigError(
            "memory.optimizer_bits = 8 needs bitsandbytes, which is not installed",
            path="memory.optimizer_bits",
            remedy="pip install 'preceptor[quant]', or leave memory.optimizer_bits = 32",
        ) from error
    if paged and any(parameter.device.type == "cpu" for group in groups for parameter in group["params"]):
        raise ConfigError(
            "memory.paged moves states between a GPU and its host, and this model is on the CPU",
            path="memory.paged",
            remedy='leave out memory.paged, and set memory.optimizer_states = "disk" where memory is short',
        )
    betas, prefix = (config.beta1, config.beta2), "Paged" if paged else ""
    made: Any
    match kind:
        case "lion":
            made = getattr(optim, f"{prefix}Lion8bit")(groups, lr=rate, betas=betas)
        case "rmsprop":
            made = optim.RMSprop8bit(groups, lr=rate, alpha=config.smoothing, eps=config.eps)
        case "sgd":
            made = optim.SGD8bit(groups, lr=rate, momentum=config.momentum)
        case _:
            # Adam is AdamW without decay, which is taken care of before.
            made = getattr(optim, f"{prefix}AdamW8bit")(groups, lr=rate, betas=betas, eps=config.eps)
    rule: torch.optim.Optimizer = made
    return rule
