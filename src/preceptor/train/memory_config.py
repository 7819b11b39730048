"""What training keeps in memory, and where else; settings without torch."""

from dataclasses import dataclass
from typing import Literal

from preceptor.train.optim_config import OptimizerConfig

_IN_8_BIT = ("adamw", "adam", "lion", "rmsprop", "sgd")
"""Optimizers whose states can be held in 8 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """What is kept in memory while a model trains, and where.

    Nothing here changes a gradient, and only 8-bit states of the optimizer change an update.
    """

    activation_checkpointing: Literal["none", "full", "every-nth", "by-operation"] = "none"
    """Which results of the forward pass are made anew in the backward pass: none; full: all of every block but its
    input; every-nth: those of every so many blocks; by-operation: all but those of matrix products and attention."""
    every_nth: int = 2
    """Under every-nth: one block in so many is made anew; the others keep everything."""
    keep_activations_in: Literal["device", "host", "disk"] = "device"
    """Where the blocks keep what is not made anew: where the model is, in the memory of the host, or in a file."""
    optimizer_states: Literal["memory", "host", "disk"] = "memory"
    """Where the states of the optimizer lie: where the model is, in the memory of the host, or in a file."""
    optimizer_bits: Literal[8, 32] = 32
    """The precision of the states: as the weights, or 8 bits by bitsandbytes (adamw, adam, lion, rmsprop, sgd)."""
    paged: bool = False
    """On a GPU with 8 bits: whether states are moved to the host where the GPU's memory is full (adamw, adam, lion)."""
    folder: str = ""
    """A folder that exists, on a disk with room, for what is kept on disk; empty takes that of the run's checkpoints.
    Its files have no name and are gone when training ends, however it ends."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.every_nth < 1:
            raise ValueError(f"every_nth must be at least 1, got {self.every_nth}")
        if self.activation_checkpointing == "by-operation" and self.keep_activations_in != "device":
            raise ValueError(
                f'by-operation keeps results on the device only; for keep_activations_in = "{self.keep_activations_in}"'
                ' choose activation_checkpointing = "full", "every-nth" or "none"'
            )
        if self.paged and self.optimizer_bits != 8:
            raise ValueError('paged is for optimizer_bits = 8; with 32 bits choose optimizer_states = "host"')
        if self.paged and self.optimizer_states != "memory":
            raise ValueError('paged states are moved by themselves: leave optimizer_states = "memory"')
        if self.optimizer_bits == 8 and self.optimizer_states == "host":
            raise ValueError('8-bit states are offloaded by paged = true, not by optimizer_states = "host"')

    @property
    def moves_activations(self) -> bool:
        """Whether some results of the forward pass are made anew, or lie elsewhere than the model does."""
        return self.activation_checkpointing != "none" or self.keep_activations_in != "device"

    def require(self, optimizer: OptimizerConfig) -> None:
        """Refuse an optimizer that cannot do what is asked for.

        Raises:
            ValueError: says what to choose.
        """
        if self.optimizer_bits != 8:
            return
        if optimizer.kind not in _IN_8_BIT:
            raise ValueError(
                f"memory.optimizer_bits = 8 is not for {optimizer.kind}: choose optimizer.kind from "
                f"{', '.join(_IN_8_BIT)}, or 32 bits"
            )
        if self.paged and optimizer.kind not in ("adamw", "adam", "lion"):
            raise ValueError(f"memory.paged is not for {optimizer.kind}: choose adamw, adam or lion")
        if optimizer.kind == "rmsprop" and optimizer.momentum:
            raise ValueError("rmsprop in 8 bits has no momentum: set optimizer.momentum = 0, or 32 bits")
        if optimizer.kind == "sgd" and not optimizer.momentum:
            raise ValueError("sgd without momentum has no states: leave memory.optimizer_bits = 32")
        if optimizer.kind == "sgd" and optimizer.nesterov:
            raise ValueError("sgd in 8 bits does not look ahead: set optimizer.nesterov = false, or 32 bits")
