"""Update rules that PyTorch does not have: Muon, and Lion."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Coefficients of the odd quintic that maps singular values towards one, step by step.
# Source: Amsel et al. 2025, The Polar Express, algorithm 1 (safety factor included).
_POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


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


class Muon(Optimizer):
    """Momentum whose matrix updates are orthogonalised, with decoupled weight decay.

    The update of a matrix is scaled by the square root of its shape's ratio where it is taller than wide, so that one
    learning rate serves all shapes.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers.
    """

    def __init__(self, groups: Any, *, lr: float, momentum: float, nesterov: bool = True) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.momentum, self.nesterov = momentum, nesterov

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters in place from their gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            buffers = [_state(self, p, "momentum_buffer") for p in parameters]
            torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
            # Nesterov: look ahead along the buffer that already holds this step's gradient.
            directions = torch._foreach_lerp(gradients, buffers, self.momentum) if self.nesterov else buffers
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for parameter, direction in zip(parameters, directions, strict=True):
                rows, columns = parameter.shape
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                parameter.add_(orthogonalise(direction), alpha=-rate)


class Lion(Optimizer):
    """The sign of an average of gradients, with decoupled weight decay.

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, program 1.
    """

    def __init__(self, groups: Any, *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.betas = betas

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters in place from their gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            averages = [_state(self, p, "exp_avg") for p in parameters]
            directions = torch._foreach_lerp(averages, gradients, 1 - self.betas[0])
            torch._foreach_sign_(directions)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            torch._foreach_lerp_(averages, gradients, 1 - self.betas[1])


def _state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor:
    """A tensor of a parameter's state, zeros at first."""
    state = optimizer.state[parameter]
    if name not in state:
        state[name] = torch.zeros_like(parameter)
    found: Tensor = state[name]
    return found
