"""Optimizers: which weights they train, how, and their state as named tensors."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from preceptor.core.errors import ArtifactError
from preceptor.models.language_model import is_hidden_matrix
from preceptor.train.run import OptimizerConfig

# Coefficients of the odd quintic that maps singular values towards one, step by step.
# Source: Amsel et al. 2025, The Polar Express, algorithm 1 (safety factor included).
_POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)

_ALIKE: Mapping[str, float] = MappingProxyType({})


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are about one: the polar factor, by Newton-Schulz steps.

    Source: Jordan et al. 2024, Muon; coefficients of Amsel et al. 2025.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) * 1.02 + 1e-7)
    for a, b, c in _POLAR_EXPRESS:
        gram = x @ x.t()
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.t() if tall else x


class Muon:
    """Momentum whose matrix updates are orthogonalised, with decoupled weight decay.

    The update of a matrix is scaled by the square root of its shape's ratio where it is taller than wide, so that one
    learning rate serves all shapes.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        momentum: float,
        weight_decay: float,
        scales: Mapping[str, float] = _ALIKE,
    ) -> None:
        self.parameters = dict(parameters)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.scales = {name: scales.get(name, 1.0) for name in self.parameters}
        self.buffers = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the parameters in place from their gradients."""
        trained = {name: p for name, p in self.parameters.items() if p.grad is not None}
        scales = [self.scales[name] for name in trained]
        buffers = [self.buffers[name] for name in trained]
        gradients = [p.grad for p in trained.values() if p.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        # Nesterov: look ahead along the buffer that already holds this step's gradient.
        directions = torch._foreach_lerp(gradients, buffers, self.momentum)
        parameters: list[Tensor] = list(trained.values())
        torch._foreach_mul_(parameters, 1 - learning_rate * self.weight_decay)
        for parameter, direction, scale in zip(parameters, directions, scales, strict=True):
            rows, columns = parameter.shape
            rate = learning_rate * math.sqrt(max(1.0, rows / columns)) * scale
            parameter.add_(orthogonalise(direction), alpha=-rate)


class Optimizer:
    """The optimizer of a run: Muon for hidden matrices where asked for, AdamW for everything else.

    ``scales`` multiply the learning rates of the weights they name. Weight decay does not follow them, so that a wider
    model, whose matrices learn more slowly, forgets as fast. Source: Wang and Aitchison 2024, for the latter.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, scales: Mapping[str, float] = _ALIKE
    ) -> None:
        self.config = config
        matrices = {n: p for n, p in parameters.items() if config.kind == "muon" and is_hidden_matrix(n, p)}
        rest = {n: p for n, p in parameters.items() if n not in matrices}
        self.muon = Muon(matrices, config.momentum, config.weight_decay, scales) if matrices else None
        self.adamw_names = list(rest)
        alike: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
        for name, parameter in rest.items():
            alike.setdefault((parameter.dim() >= 2, scales.get(name, 1.0)), []).append(parameter)
        groups = [
            {"params": members, "weight_decay": config.weight_decay / scale if is_matrix else 0.0, "scale": scale}
            for (is_matrix, scale), members in alike.items()
        ]
        self.adamw = (
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.learning_rate,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                fused=True,
            )
            if rest
            else None
        )
        self._adamw_parameters = rest

    def step(self, factor: float) -> None:
        """Update the parameters in place; ``factor`` is the share of the peak learning rate."""
        config = self.config
        if self.muon is not None:
            self.muon.step(config.learning_rate * factor)
        if self.adamw is not None:
            rate = config.learning_rate if config.kind == "adamw" else config.adamw_learning_rate
            for group in self.adamw.param_groups:
                group["lr"] = rate * factor * group["scale"]
            self.adamw.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state by name; loading it into a fresh optimizer of the same weights goes on bit for bit."""
        state = {f"muon.{n}": b for n, b in self.muon.buffers.items()} if self.muon is not None else {}
        if self.adamw is not None:
            for name, parameter in self._adamw_parameters.items():
                for key, value in self.adamw.state[parameter].items():
                    state[f"adamw.{name}.{key}"] = value
        return state

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state from ``state_tensors``.

        Raises:
            ArtifactError: the state is not of these weights.
        """
        left = dict(state)
        try:
            if self.muon is not None:
                for name, buffer in self.muon.buffers.items():
                    buffer.copy_(left.pop(f"muon.{name}"))
            if self.adamw is not None:
                for name, parameter in self._adamw_parameters.items():
                    prefix = f"adamw.{name}."
                    keys = [key for key in left if key.startswith(prefix)]
                    self.adamw.state[parameter] = {key.removeprefix(prefix): left.pop(key).clone() for key in keys}
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"the saved optimizer state does not fit this model: {error}",
                remedy="resume with the recipe the checkpoint was made with, or start into a new --out folder",
            ) from error
        if left:
            raise ArtifactError(
                f"the saved optimizer state has tensors of unknown weights: {', '.join(sorted(left)[:3])}",
                remedy="resume with the recipe the checkpoint was made with, or start into a new --out folder",
            )
