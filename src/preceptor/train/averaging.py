"""A running average of the weights: exponential, or of the last part of training."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from preceptor.core.errors import ArtifactError
from preceptor.train.optim_config import AveragingConfig

_COUNT, _WEIGHTS = "count", "weights."


class WeightAverage:
    """The average of trained weights, which can stand in for them; without a kind it does nothing.

    Source: Polyak and Juditsky 1992; Izmailov et al. 2018, SWA; the first steps of the exponential average as in Tan
    and Le 2019's code, by (1 + n) / (10 + n).
    """

    def __init__(self, config: AveragingConfig, parameters: Mapping[str, nn.Parameter]) -> None:
        self.config, self.parameters = config, dict(parameters)
        self.tensors: dict[str, Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def update(self, step: int, num_steps: int) -> None:
        """Take in the weights after a step, counted from 1."""
        if self.config.kind == "none":
            return
        if self.config.kind == "swa":
            first = math.floor(self.config.start_fraction * num_steps) + 1
            if step < first or (step - first) % self.config.every_steps:
                return
        if not self.tensors:
            self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        else:
            early = (1 + self.count) / (10 + self.count)
            share = 1 / (self.count + 1) if self.config.kind == "swa" else 1 - min(self.config.decay, early)
            torch._foreach_lerp_(list(self.tensors.values()), list(self.parameters.values()), share)
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the weights are the average, where there is one."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items() if self.tensors}
        self.take()
        try:
            yield
        finally:
            self._write(kept)

    def take(self) -> None:
        """Make the average the weights, where there is one."""
        self._write(self.tensors)

    @torch.no_grad()
    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.parameters[name].copy_(tensor)

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state by name; empty before the first weights are taken in."""
        if not self.tensors:
            return {}
        return {_COUNT: torch.tensor(self.count), **{_WEIGHTS + name: t for name, t in self.tensors.items()}}

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state from ``state_tensors``.

        Raises:
            ArtifactError: it is not the average of these weights.
        """
        if state and state.keys() != {_COUNT, *(_WEIGHTS + name for name in self.parameters)}:
            raise ArtifactError(
                "the saved average is of other weights",
                remedy="resume with the recipe the checkpoint was made with, or start into a new --out folder",
            )
        self.count = int(state[_COUNT]) if state else 0
        # In the order of the weights, beside which they are averaged.
        self.tensors = {name: state[_WEIGHTS + name].clone() for name in self.parameters} if state else {}
