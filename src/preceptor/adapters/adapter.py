"""What every adapter has in common: it takes a built model and returns one in which only the adapter trains."""

from collections.abc import Iterator

from torch import nn


def freeze(model: nn.Module) -> None:
    """Stop every weight of a model from training."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def train_heads(model: nn.Module) -> None:
    """Let the heads of a frozen model train, as what is new about it."""
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            parameter.requires_grad_(True)


def trainable(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def named_linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Linear]]:
    """Every linear layer as (parent, name in the parent, full name, layer)."""
    for parent_name, parent in model.named_modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, name, f"{parent_name}.{name}" if parent_name else name, child
