"""The language-model loss in chunks over tokens, so that the logits of a batch are never all in memory.

The gradient of a chunk's logits is known as soon as the chunk's loss is. It is therefore used at once, in the forward
pass, and the logits are forgotten: nothing of size tokens x vocabulary survives a chunk, and nothing is computed twice.

Source: the gradients in the forward pass after Hsu et al. 2024 (Liger Kernel); the logits soft-capped as in Gemma 2
(2024); the penalty of the normaliser (z-loss) as in Chowdhery et al. 2022 (PaLM).
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from preceptor.nn.loss_options import LossOptions as _Options
from preceptor.nn.vocabulary import SharedVocabulary, VocabularyShare, WholeVocabulary

CHUNK_BYTES = 256 * 1024**2
"""What the logits of one chunk, with all that is of their size, may take."""
CHUNK_TOKENS = 2048
"""The most tokens of a chunk: with more, no matrix product becomes faster; with 512 the loss takes a tenth longer."""
IGNORED = -100
"""The label of a token that is not supervised, as everywhere in the field."""


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """The precision of the matrix products: autocast's where it is on, which leaves float64 alone."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


class _Pass:
    """One pass over the tokens, chunk by chunk, in buffers that all chunks share.

    The matrix products run in ``dtype``; the loss and the sums over chunks in float32, or float64 if that is ``dtype``.
    """

    def __init__(self, weight_VD: Tensor, bias_V: Tensor | None, options: _Options, dtype: torch.dtype) -> None:
        self.options, self.dtype = options, dtype
        self.precise = torch.float64 if dtype == torch.float64 else torch.float32
        self.weight_VD = weight_VD.detach().to(dtype)
        self.bias_V = None if bias_V is None else bias_V.detach().to(self.precise)
        share = options.vocabulary
        # Where the vocabulary is dealt, all have as many chunks, since they speak with each other in each of them.
        self.over, self.most = (
            (WholeVocabulary(), len(weight_VD)) if share is None else (SharedVocabulary(share), share.most)
        )

    def buffers(self, num_tokens: int) -> None:
        """Makes room for the logits of one chunk."""
        vocabulary = self.weight_VD.shape[0]
        rounds, caps = self.dtype != self.precise, self.options.softcap is not None
        bytes_per_token = self.most * (self.precise.itemsize * (1 + caps) + self.dtype.itemsize * rounds)
        self.chunk_tokens = max(1, min(CHUNK_TOKENS, CHUNK_BYTES // max(1, bytes_per_token), num_tokens))
        shape = (self.chunk_tokens, vocabulary)
        self.logits = self.weight_VD.new_empty(shape, dtype=self.precise)
        self.rounded = self.weight_VD.new_empty(shape) if rounds else self.logits
        self.tanh = torch.empty_like(self.logits) if caps else None

    def chunks(self, num_tokens: int) -> list[slice]:
        """The tokens of each chunk."""
        self.buffers(num_tokens)
        return [
            slice(start, min(start + self.chunk_tokens, num_tokens))
            for start in range(0, num_tokens, self.chunk_tokens)
        ]

    def _compute_logits(self, hidden: Tensor) -> Tensor:
        size = hidden.shape[0]
        logits, rounded = self.logits[:size], self.rounded[:size]
        torch.mm(hidden, self.weight_VD.t(), out=rounded)
        if rounded.dtype != logits.dtype:
            logits.copy_(rounded)
        if self.bias_V is not None:
            logits.add_(self.bias_V)
        if self.tanh is not None and self.options.softcap is not None:
            tanh = self.tanh[:size]
            torch.tanh(logits.div_(self.options.softcap), out=tanh)
            torch.mul(tanh, self.options.softcap, out=logits)
        return logits

    def losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss of each token of a chunk, whether it was the likeliest; for the gradient, normalisers and sums.

        ``logits`` holds, from now on, the exponentials whose sums are given.
        """
        smoothing, z_loss = self.options.label_smoothing, self.options.z_loss
        labels = labels.unsqueeze(1)
        logits = self._compute_logits(hidden)
        # The highest alone is found many times sooner than its place, which is asked for only where it may be right:
        # among equals the first counts.
        highest, chosen = self.over.highest(logits), self.over.of_labels(logits, labels)
        correct = (chosen == highest).squeeze(1)
        places = correct.nonzero().squeeze(1)
        correct[places] = self.over.first_highest(logits[places], highest[places]) == labels[places].squeeze(1)
        loss = chosen.mul_(smoothing - 1)
        if smoothing:
            loss.sub_(self.over.mean(logits), alpha=smoothing)
        sums = self.over.sum(logits.sub_(highest).exp_().sum(dim=1, keepdim=True))
        normaliser = highest + sums.log()
        loss.add_(normaliser)
        if z_loss:
            loss.add_(normaliser.square(), alpha=z_loss)
        return loss.squeeze(1), correct, normaliser, sums

    def gradient(self, labels: Tensor, normaliser: Tensor, sums: Tensor) -> Tensor:
        """The gradient of the chunk's summed loss by what the matrix product and the bias gave, in place."""
        smoothing, labels = self.options.label_smoothing, labels.unsqueeze(1)
        gradient = self.logits[: labels.shape[0]]
        gradient.mul_((1 + 2 * self.options.z_loss * normaliser) / sums)
        if smoothing:
            gradient.sub_(smoothing / self.over.size(gradient))
        self.over.add_to_labels(gradient, labels, smoothing - 1)
        if self.tanh is not None:
            gradient.mul_(self.tanh[: labels.shape[0]].square_().neg_().add_(1))
        return gradient

    def products(self, gradient: Tensor) -> Tensor:
        """The gradient of the logits as the matrix products take it."""
        rounded = self.rounded[: gradient.shape[0]]
        return gradient if rounded.dtype == gradient.dtype else rounded.copy_(gradient)


_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, enabled=False)


def _losses_and_gradients(
    hidden_TD: Tensor,
    labels_T: Tensor,
    run: _Pass,
    wanted: tuple[bool, bool, bool],
    scales_T: Tensor | None = None,
) -> tuple[Tensor, Tensor, _Gradients]:
    """The loss of each token, whether it was the likeliest, and the wanted ones of hidden, weight and bias gradients.

    The gradients are of the summed loss, each token's multiplied by its scale, in the precision of the sums.
    """
    num_tokens, weight_VD, precise = hidden_TD.shape[0], run.weight_VD, run.precise
    losses_T = hidden_TD.new_empty(num_tokens, dtype=precise)
    correct_T = torch.empty(num_tokens, dtype=torch.bool, device=hidden_TD.device)
    by_hidden_TD = hidden_TD.new_empty(hidden_TD.shape, dtype=precise) if wanted[0] else None
    by_weight_VD = weight_VD.new_zeros(weight_VD.shape, dtype=precise) if wanted[1] else None
    by_bias_V = weight_VD.new_zeros(weight_VD.shape[0], dtype=precise) if wanted[2] else None
    for chunk in run.chunks(num_tokens):
        hidden, labels = hidden_TD[chunk].to(run.dtype), labels_T[chunk]
        losses_T[chunk], correct_T[chunk], normaliser, sums = run.losses(hidden, labels)
        if not any(wanted):
            continue
        gradient = run.gradient(labels, normaliser, sums)
        if scales_T is not None:
            gradient.mul_(scales_T[chunk].unsqueeze(1))
        if by_bias_V is not None:
            by_bias_V += gradient.sum(dim=0)
        gradient = run.products(gradient)
        if by_hidden_TD is not None and precise == run.dtype:
            torch.mm(gradient, weight_VD, out=by_hidden_TD[chunk])
        elif by_hidden_TD is not None:
            by_hidden_TD[chunk] = gradient @ weight_VD
        if by_weight_VD is not None and precise == run.dtype:
            by_weight_VD.addmm_(gradient.t(), hidden)
        elif by_weight_VD is not None:
            by_weight_VD += gradient.t() @ hidden
    return losses_T, correct_T, (by_hidden_TD, by_weight_VD, by_bias_V)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_T: Tensor,
        options: _Options,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.wanted = tuple(wants_gradients and wanted for wanted in ctx.needs_input_grad[:3])
        ctx.options, ctx.dtype = options, _product_dtype(hidden_TD)
        with _without_autocast(hidden_TD.device):
            run = _Pass(weight_VD, bias_V, options, ctx.dtype)
            losses_T, correct_T, ctx.gradients = _losses_and_gradients(hidden_TD, labels_T, run, ctx.wanted)
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, labels_T)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden_TD, weight_VD, bias_V)]
        correct = correct_T.sum()
        ctx.mark_non_differentiable(correct)
        return losses_T.sum(), correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # The gradients are scaled where they lie and given away, since a copy of the weight's is large. Who asks for
        # them once more, of a graph that was retained, has them computed anew.
        gradients, ctx.gradients = ctx.gradients, None
        with _without_autocast(scale.device):
            if gradients is None:
                hidden_TD, weight_VD, bias_V, labels_T = ctx.saved_tensors
                run = _Pass(weight_VD, bias_V, ctx.options, ctx.dtype)
                gradients = _losses_and_gradients(hidden_TD, labels_T, run, ctx.wanted)[2]
            scaled = [
                None if gradient is None else gradient.mul_(scale).to(dtype)
                for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
            ]
        return *scaled, None, None, None


class _TokenLosses(torch.autograd.Function):
    """The losses one by one. What each counts is known only in the backward pass, which makes the logits once more."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_T: Tensor,
        options: _Options,
    ) -> tuple[Tensor, Tensor]:
        ctx.options, ctx.dtype = options, _product_dtype(hidden_TD)
        with _without_autocast(hidden_TD.device):
            run = _Pass(weight_VD, bias_V, options, ctx.dtype)
            losses_T, correct_T, _ = _losses_and_gradients(hidden_TD, labels_T, run, (False, False, False))
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, labels_T)
        ctx.mark_non_differentiable(correct_T)
        return losses_T, correct_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales_T: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, bias_V, labels_T = ctx.saved_tensors
        with _without_autocast(scales_T.device):
            run = _Pass(weight_VD, bias_V, ctx.options, ctx.dtype)
            wanted = tuple(ctx.needs_input_grad[:3])
            gradients = _losses_and_gradients(hidden_TD, labels_T, run, wanted, scales_T)[2]
        given = zip(gradients, (hidden_TD, weight_VD, bias_V), strict=True)
        return *(None if gradient is None else gradient.to(tensor.dtype) for gradient, tensor in given), None, None


def _supervised(
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    labels_BT: Tensor,
    bias_V: Tensor | None,
    share: VocabularyShare | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The hidden states and labels of the supervised tokens alone, and their places among all tokens."""
    vocabulary, width = weight_VD.shape
    if hidden_BTD.shape != (*labels_BT.shape, width):
        raise ValueError(
            f"hidden states of shape {tuple(hidden_BTD.shape)} do not fit labels of shape {tuple(labels_BT.shape)} "
            f"and an output layer of {vocabulary} x {width}"
        )
    if bias_V is not None and bias_V.shape != (vocabulary,):
        raise ValueError(f"a bias of shape {tuple(bias_V.shape)} does not fit a vocabulary of {vocabulary}")
    vocabulary = vocabulary if share is None else share.size
    labels_T = labels_BT.reshape(-1)
    hidden_TD = hidden_BTD.reshape(-1, width)
    places_T = (labels_T != IGNORED).nonzero().squeeze(1)
    if places_T.shape[0] < labels_T.shape[0]:
        hidden_TD, labels_T = hidden_TD.index_select(0, places_T), labels_T.index_select(0, places_T)
    if labels_T.shape[0]:
        lowest, highest = (int(label) for label in labels_T.aminmax())
        if lowest < 0 or highest >= vocabulary:
            raise ValueError(
                f"label {lowest if lowest < 0 else highest} is not in a vocabulary of {vocabulary}: labels are from 0 "
                f"to {vocabulary - 1}, or {IGNORED} for a token that is not supervised"
            )
    return hidden_TD if share is None else share.enter(hidden_TD), labels_T, places_T


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # torch.compile would unroll the chunks, and it follows their shared buffers wrongly. To decorate the functions
    # instead would import the compiler, seconds of work, wherever this module is.
    return torch.compiler.disable(function)  # type: ignore[no-any-return,no-untyped-call]


def cross_entropy_sum(
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    labels_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    vocabulary: VocabularyShare | None = None,
) -> tuple[Tensor, Tensor, int]:
    """The summed loss in nats, the number of supervised tokens whose likeliest next token is right, and their count.

    Only supervised tokens are computed at all. ``softcap`` bends logits into (-softcap, softcap) by a tanh;
    ``label_smoothing`` is the share of the target spread evenly over the vocabulary; ``z_loss`` weighs the square of
    each token's log-normaliser, which is added to the loss. The loss is in float32, or in float64 if the hidden
    states are. Gradients are of first order only. ``vocabulary`` is the part of the vocabulary that weights and bias
    are of. Within a compiled function the loss runs as written: the graph ends before it and begins anew after it.

    Raises:
        ValueError: if a label is not in the vocabulary, shapes do not fit, or an option is out of its range.
    """
    if torch.compiler.is_compiling():
        return _uncompiled(cross_entropy_sum)(  # type: ignore[no-any-return]
            hidden_BTD,
            weight_VD,
            labels_BT,
            bias_V=bias_V,
            softcap=softcap,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            vocabulary=vocabulary,
        )
    options = _Options(softcap, label_smoothing, z_loss, vocabulary)
    hidden_TD, labels_T, _ = _supervised(hidden_BTD, weight_VD, labels_BT, bias_V, vocabulary)
    loss, correct = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_TD, weight_VD, bias_V, labels_T, options, torch.is_grad_enabled()
    )
    return loss, correct, int(labels_T.shape[0])


def losses_one_by_one(
    hidden_MD: Tensor,
    weight_VD: Tensor,
    labels_M: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    vocabulary: VocabularyShare | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss in nats of each token, with its gradient, and whether it was the likeliest, both M.

    For losses that are no plain sum over tokens. The backward pass makes the logits once more, chunk by chunk.

    Raises:
        ValueError: if a label is not in the vocabulary or ignored, shapes do not fit, or ``softcap`` is not above 0.
    """
    if torch.compiler.is_compiling():
        disabled = _uncompiled(losses_one_by_one)
        return disabled(hidden_MD, weight_VD, labels_M, bias_V=bias_V, softcap=softcap, vocabulary=vocabulary)  # type: ignore[no-any-return]
    hidden_TD, labels_T, _ = _supervised(hidden_MD, weight_VD, labels_M, bias_V, vocabulary)
    if len(labels_T) != len(labels_M):
        raise ValueError("a token whose loss is wanted has no label")
    return _TokenLosses.apply(  # type: ignore[no-any-return,no-untyped-call]
        hidden_TD, weight_VD, bias_V, labels_T, _Options(softcap, vocabulary=vocabulary)
    )


@torch.no_grad()
def token_losses(
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    labels_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    vocabulary: VocabularyShare | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss in nats of each token and whether it was the likeliest, both B T; 0 and False where not supervised.

    Raises:
        ValueError: if a label is not in the vocabulary, shapes do not fit, or ``softcap`` is not above 0.
    """
    if torch.compiler.is_compiling():
        disabled = _uncompiled(token_losses)
        return disabled(hidden_BTD, weight_VD, labels_BT, bias_V=bias_V, softcap=softcap, vocabulary=vocabulary)  # type: ignore[no-any-return]
    options = _Options(softcap, vocabulary=vocabulary)
    hidden_TD, labels_T, places_T = _supervised(hidden_BTD, weight_VD, labels_BT, bias_V, vocabulary)
    dtype = _product_dtype(hidden_TD)
    with _without_autocast(hidden_TD.device):
        run = _Pass(weight_VD, bias_V, options, dtype)
        losses_T, correct_T, _ = _losses_and_gradients(hidden_TD, labels_T, run, (False, False, False))
    losses_BT = losses_T.new_zeros(labels_BT.numel()).index_copy_(0, places_T, losses_T)
    correct_BT = correct_T.new_zeros(labels_BT.numel()).index_copy_(0, places_T, correct_T)
    return losses_BT.view(labels_BT.shape), correct_BT.view(labels_BT.shape)
