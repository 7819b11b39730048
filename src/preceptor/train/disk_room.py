"""Whether the disk has room for what a training will save, asked before its first step."""

from pathlib import Path

from torch import Tensor

from preceptor.core.errors import OutputError, free_bytes
from preceptor.models.language_model import LanguageModel, is_hidden_matrix
from preceptor.parallel.mesh import ALONE, Mesh
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.run import TrainingConfig


def checkpoint_bytes(model: LanguageModel, config: TrainingConfig) -> int:
    """About what the state of a training takes on the disk: weights that are trained, optimizer states, averages."""
    copies = 1 if config.averaging.kind == "none" else 2
    per_state = config.memory.optimizer_bits // 8
    return sum(
        weight.numel() * (copies * weight.element_size() + per_state * _states(config.optimizer, name, weight))
        for name, weight in model.named_parameters()
        if weight.requires_grad
    )


def _states(config: OptimizerConfig, name: str, weight: Tensor) -> int:
    """How many numbers a rule keeps for each number of a weight."""
    momentum = int(config.momentum > 0)
    match config.kind:
        case "sgd":
            return momentum
        case "rmsprop":
            return 1 + momentum
        case "adafactor":
            return 0  # Rows and columns, which are next to nothing beside their matrix.
        case "lion":
            return 1
        case "muon":
            return 1 if is_hidden_matrix(name, weight) else 2
    return 2


def require_room(folder: Path, num_bytes: int, mesh: Mesh = ALONE) -> None:
    """Refuse to train where checkpoints of so many bytes would not fit: the one that stands, and the next.

    Raises:
        OutputError: the disk has too little room; all processes raise it, by what the first one sees.
    """
    told = ""
    if mesh.is_first:
        missing = 1 if any(folder.glob("step-[0-9]*")) else 2
        free = free_bytes(folder)
        if free is not None and free < missing * num_bytes:
            told = (
                f"{folder} has {free / 1e6:,.1f} MB free, and a checkpoint takes about {num_bytes / 1e6:,.1f} MB: "
                f"{missing} of them must fit, as the old one stands until the next is whole"
            )
    if told := mesh.said_by_first(told):
        raise OutputError(told, remedy="free some space, or choose another folder with --out")
