"""Activation checkpointing, and where activations are kept: applied from outside to a built model of any family."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from preceptor.train.activation_store import ActivationStore, DiskKeeper, HostKeeper
from preceptor.train.allocator import return_freed_memory
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.scratch_file import open_scratch

_EXPENSIVE = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("mm", "bmm", "addmm", "baddbmm"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"),
        *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
    )
    if hasattr(torch.ops.aten, name)
)
"""Operations whose results by-operation keeps."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model of any family, those of the encoder first where there are two stacks."""
    stacks = [module for name, module in model.named_modules() if name.split(".")[-1] == "layers"]
    blocks = [block for stack in stacks if isinstance(stack, nn.ModuleList) for block in stack]
    # Where the layers of another stage of a pipeline would be there is nothing to run.
    return [block for block in blocks if any(True for _ in block.parameters())]


@contextmanager
def saving_activations(model: nn.Module, config: MemoryConfig, folder: Path) -> Iterator[None]:
    """A block in which the model's forward pass keeps only what the settings say, and keeps it where they say.

    Gradients stay the same, bit for bit: what is made anew is made of the same numbers, dropout's included. ``folder``
    is taken where the settings name none.

    Raises:
        OutputError: the folder does not exist, or the disk is full.
    """
    if config.activation_checkpointing != "none" or config.keep_activations_in == "disk":
        return_freed_memory()
    with _store(model, config, folder) as store:
        changed: list[nn.Module] = []
        try:
            for number, block in enumerate(blocks_of(model)):
                contexts = _contexts(config, number)
                if contexts is not None:
                    for part in _parts(block, whole=store is None):
                        _set_forward(part, _made_anew(part.forward, contexts), changed)
                if store is not None:
                    _set_forward(block, _kept_in(store, block.forward), changed)
            yield
        finally:
            for module in changed:
                # What stands in the instance hides the method of the class, which is then seen again.
                module.__dict__.pop("forward", None)


def _set_forward(module: nn.Module, forward: Callable[..., Any], changed: list[nn.Module]) -> None:
    module.forward = forward
    changed.append(module)


def _parts(block: nn.Module, *, whole: bool) -> list[nn.Module]:
    """What of a block is made anew at once: all of it, or each layer that is made of layers.

    Where the inputs of attention and feed-forward cost no memory of the device, not both need to be there at once.
    """
    layers = [] if whole else [child for child in block.children() if any(True for _ in child.children())]
    return layers or [block]


@contextmanager
def _store(model: nn.Module, config: MemoryConfig, folder: Path) -> Iterator[ActivationStore | None]:
    """Where activations are kept, or none where they stay on the device."""
    is_on_host = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if config.keep_activations_in == "device" or (config.keep_activations_in == "host" and is_on_host):
        yield None
        return
    tensors = (*model.parameters(), *model.buffers())
    resident = frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)
    if config.keep_activations_in == "host":
        yield ActivationStore(HostKeeper(), resident)
        return
    with open_scratch(config, folder) as file:
        yield ActivationStore(DiskKeeper(file), resident)


_Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


def _plain() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), nullcontext()


def _selective() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-any-return,no-untyped-call]


def _contexts(config: MemoryConfig, number: int) -> _Contexts | None:
    """In which contexts a block is run and made anew; None where it is not made anew."""
    match config.activation_checkpointing:
        case "full":
            return _plain
        case "by-operation":
            return _selective
        case "every-nth":
            return _plain if (number + 1) % config.every_nth == 0 else None
    return None


def _made_anew(forward: Callable[..., Any], contexts: _Contexts) -> Callable[..., Any]:
    """A forward pass whose results are forgotten, and made anew when the backward pass needs them."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _kept_in(store: ActivationStore, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward pass that keeps what the backward pass needs in a store."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with store.hooks():
            return forward(*args, **kwargs)

    return run


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether the result of an operation is kept."""
    if operation not in _EXPENSIVE or _draws(operation, args, kwargs):
        return CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.MUST_SAVE


def _draws(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation draws random numbers: left out, it would leave others to those that follow."""
    for place, argument in enumerate(operation._schema.arguments):
        if argument.name == "dropout_p":
            found = args[place] if place < len(args) else kwargs.get("dropout_p", 0.0)
            return bool(found)
    return False
