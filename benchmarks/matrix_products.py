"""The matrix products of a training step alone: what a step cannot be faster than.

They are those of our own model: for each linear layer one forward and two backward; in attention two batched ones
forward and four backward, over whole squares (PyTorch's attention skips some of what lies above the diagonal); and the
output layer in chunks of tokens, as our loss takes it. Every layer has weights and activations of its own, so that
caches are as cold as in a step. Results are written into memory that is there.
"""

from collections.abc import Callable

import torch


class _Linear:
    """The products of a linear layer: forward, and for the gradients of input and weights."""

    def __init__(self, tokens: int, inputs: int, outputs: int, chunk: int = 0) -> None:
        chunk = chunk or tokens
        self.x, self.x_gradient = torch.randn(tokens, inputs), torch.empty(tokens, inputs)
        self.weight, self.weight_gradient = torch.randn(outputs, inputs), torch.zeros(outputs, inputs)
        self.y, self.y_gradient = torch.empty(chunk, outputs), torch.randn(chunk, outputs)
        self.parts = [slice(start, start + chunk) for start in range(0, tokens, chunk)]

    def forward(self) -> None:
        for part in self.parts:
            torch.mm(self.x[part], self.weight.t(), out=self.y)

    def backward(self) -> None:
        for place, part in enumerate(self.parts):
            torch.mm(self.y_gradient, self.weight, out=self.x_gradient[part])
            if place:
                self.weight_gradient.addmm_(self.y_gradient.t(), self.x[part])
            else:
                torch.mm(self.y_gradient.t(), self.x[part], out=self.weight_gradient)


class _Attention:
    """The batched products of attention: scores and mixtures, and the four gradients of both."""

    def __init__(self, batch: int, places: int, head: int) -> None:
        self.q, self.k, self.v, self.out = (torch.randn(batch, places, head) for _ in range(4))
        self.scores = torch.randn(batch, places, places)
        self.results = [torch.empty(batch, places, head) for _ in range(3)]
        self.square = torch.empty(batch, places, places)

    def forward(self) -> None:
        torch.bmm(self.q, self.k.transpose(1, 2), out=self.square)
        torch.bmm(self.scores, self.v, out=self.results[0])

    def backward(self) -> None:
        torch.bmm(self.scores.transpose(1, 2), self.out, out=self.results[2])
        torch.bmm(self.out, self.v.transpose(1, 2), out=self.square)
        torch.bmm(self.scores, self.k, out=self.results[0])
        torch.bmm(self.scores.transpose(1, 2), self.q, out=self.results[1])


def step_of_products(
    *, gated: bool, vocabulary: int, width: int, inside: int, layers: int, heads: int, rows: int, context: int
) -> Callable[[], None]:
    """A function that does all matrix products of one step, forward and then backward."""
    tokens = rows * context
    parts: list[_Linear | _Attention] = []
    for _ in range(layers):
        parts += [_Linear(tokens, width, width) for _ in range(3)]
        parts += [_Attention(rows * heads, context, width // heads), _Linear(tokens, width, width)]
        parts += [_Linear(tokens, width, inside) for _ in range(1 + gated)]
        parts += [_Linear(tokens, inside, width)]
    parts.append(_Linear(tokens, width, vocabulary, chunk=min(tokens, 2048)))

    def step() -> None:
        for part in parts:
            part.forward()
        for part in reversed(parts):
            part.backward()

    return step
