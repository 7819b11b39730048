"""The language-model loss in chunks over tokens, so that the logits of a batch are never all in memory.

The gradient of a chunk's logits is known as soon as the chunk's loss is. It is therefore used at once, in the forward
pass, and the logits are forgotten: nothing of size tokens x vocabulary survives a chunk, and nothing is computed twice.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 512
IGNORED = -100
"""The label of a token that is not supervised, as everywhere in the field."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, labels_T: Tensor) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        num_tokens = hidden_TD.shape[0]
        losses_T = hidden_TD.new_empty(num_tokens, dtype=torch.float32)
        correct_T = torch.empty(num_tokens, dtype=torch.bool, device=hidden_TD.device)
        hidden_gradient_TD = torch.empty_like(hidden_TD) if wants_hidden else None
        weight_gradient_VD = torch.zeros_like(weight_VD) if wants_weight else None
        for start in range(0, num_tokens, CHUNK_TOKENS):
            chunk = slice(start, min(start + CHUNK_TOKENS, num_tokens))
            hidden, labels = hidden_TD[chunk], labels_T[chunk].unsqueeze(1)
            logits = (hidden @ weight_VD.t()).float()
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            losses_T[chunk] = (normaliser - logits.gather(1, labels)).squeeze(1)
            correct_T[chunk] = logits.argmax(dim=1) == labels.squeeze(1)
            if not (wants_hidden or wants_weight):
                continue
            gradient = logits.sub_(normaliser).exp_()
            gradient.scatter_add_(1, labels, gradient.new_full((1, 1), -1.0).expand_as(labels))
            gradient = gradient.to(hidden.dtype)
            if hidden_gradient_TD is not None:
                torch.mm(gradient, weight_VD, out=hidden_gradient_TD[chunk])
            if weight_gradient_VD is not None:
                weight_gradient_VD.addmm_(gradient.t(), hidden)
        ctx.save_for_backward(hidden_gradient_TD, weight_gradient_VD)
        ctx.mark_non_differentiable(correct_T)
        return losses_T.sum(), correct_T.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_gradient_TD, weight_gradient_VD = ctx.saved_tensors
        scale = gradients[0]
        return (
            None if hidden_gradient_TD is None else hidden_gradient_TD * scale,
            None if weight_gradient_VD is None else weight_gradient_VD * scale,
            None,
        )


def cross_entropy_sum(
    hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, **_: object
) -> tuple[Tensor, Tensor, int]:
    """The summed loss in nats, the number of supervised tokens whose likeliest next token is right, and their count.

    Only supervised tokens are computed at all.
    """
    supervised_BT = labels_BT != IGNORED
    hidden_TD = hidden_BTD[supervised_BT]
    labels_T = labels_BT[supervised_BT]
    loss, correct = _LinearCrossEntropy.apply(hidden_TD, weight_VD, labels_T)  # type: ignore[no-untyped-call]
    return loss, correct, int(labels_T.shape[0])


@torch.no_grad()
def token_losses(hidden_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, **_: object) -> tuple[Tensor, Tensor]:
    """The loss in nats of each token and whether it was the likeliest, both B T; 0 and False where not supervised."""
    losses_BT = torch.zeros(labels_BT.shape, dtype=torch.float32, device=labels_BT.device)
    correct_BT = torch.zeros(labels_BT.shape, dtype=torch.bool, device=labels_BT.device)
    supervised_BT = labels_BT != IGNORED
    hidden_TD, labels_T = hidden_BTD[supervised_BT], labels_BT[supervised_BT]
    losses, correct = [], []
    for hidden, labels in zip(torch.split(hidden_TD, CHUNK_TOKENS), torch.split(labels_T, CHUNK_TOKENS), strict=True):
        logits = (hidden @ weight_VD.t()).float()
        losses.append(logits.logsumexp(dim=1) - logits.gather(1, labels.unsqueeze(1)).squeeze(1))
        correct.append(logits.argmax(dim=1) == labels)
    if losses:
        losses_BT[supervised_BT] = torch.cat(losses)
        correct_BT[supervised_BT] = torch.cat(correct)
    return losses_BT, correct_BT
