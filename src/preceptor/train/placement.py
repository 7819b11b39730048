"""A built model made ready to train: on its device, in its numbers, compiled where that pays."""

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from preceptor.adapters.sharding import sharding_of
from preceptor.core.errors import ConfigError
from preceptor.core.progress import say
from preceptor.core.units import Duration, human_bytes, human_count
from preceptor.models.config import ModelConfig
from preceptor.models.interchange import architecture_of
from preceptor.models.language_model import LanguageModel
from preceptor.nn.float8 import has_float8, to_float8
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import Engine, chosen_device, place
from preceptor.parallel.mesh import ALONE, Mesh
from preceptor.parallel.mesh_config import AXES, MeshConfig, MeshSizes, require_processes
from preceptor.parallel.plan import planned
from preceptor.parallel.tensor_limits import in_four_bits, sequence_refused
from preceptor.train.activations import blocks_of
from preceptor.train.optim import freeze
from preceptor.train.run import FinetuningConfig, TrainingConfig

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class _Expected:
    """What compiling is expected to cost and to give on a kind of device."""

    operations_per_second: float
    saved_share: float
    seconds_to_compile: float


# On two cores compiling saved 4 % of a GPT-2 step and nothing of a Llama step (docs/log.md). Of GPUs nothing was
# measured: a fifth is what is reported in the field.
_EXPECTED = {"cpu": _Expected(1e11, 0.02, 15.0), "cuda": _Expected(1e14, 0.2, 60.0)}
_SHARE_OF_MEMORY = 0.8
"""Of the free memory, what activations may take: the rest is for what a step needs for moments only."""


def require_machine(config: TrainingConfig, where: str = "") -> None:
    """Refuse settings of a stage that this machine cannot do; ``where`` is the table that holds them.

    Raises:
        ConfigError: names the setting and what to choose.
    """
    where = where and f"{where}."
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{where}device is cuda, but PyTorch finds no GPU",
            path=f"{where}device",
            remedy='set it to "auto" or "cpu"',
        )
    if config.precision.kind == "float8" and not has_float8(chosen_device(config.device)):
        raise ConfigError(
            f"{where}precision.kind is float8, which {chosen_device(config.device).type} here cannot compute with",
            path=f"{where}precision.kind",
            remedy="choose bfloat16; float8 needs a GPU of compute capability 8.9 or above, such as an H100",
        )
    if config.memory.optimizer_bits == 8 and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{where}memory.optimizer_bits = 8 needs bitsandbytes, which is not installed",
            path=f"{where}memory.optimizer_bits",
            remedy="pip install 'preceptor[quant]', or leave 32 bits",
        )


def require_whole_matrices(config: TrainingConfig, sizes: MeshSizes, where: str = "") -> None:
    """Refuse optimizers that look at whole matrices where processes hold parts of them.

    Raises:
        ConfigError: names the axis that cuts them up and what works.
    """
    cut = [axis for axis in ("shard", "tensor") if getattr(sizes, axis) > 1]
    kind = config.optimizer.kind
    if not cut or kind not in ("muon", "adafactor"):
        return
    needs = {
        "muon": "makes each update orthogonal, for which it needs the whole matrix",
        "adafactor": "keeps the means of whole rows and columns, and scales each update by its whole size",
    }
    where = where and f"{where}."
    raise ConfigError(
        f"{where}optimizer.kind is {kind}, which {needs[kind]}, and mesh.{cut[0]} = {getattr(sizes, cut[0])} leaves "
        "each process a part of every matrix",
        path=f"{where}optimizer.kind",
        remedy=f'choose "adamw", or keep matrices whole with {" and ".join(f"mesh.{axis} = 1" for axis in cut)}, where '
        "mesh.replicate takes the other processes",
    )


def require_groups(config: TrainingConfig, model_config: ModelConfig) -> None:
    """Refuse groups of weights that name none, by a model that is built without memory for its weights.

    Raises:
        ConfigError: names the pattern, and some of the names there are.
    """
    if not config.optimizer.groups:
        return
    with torch.device("meta"):
        model = architecture_of(model_config).family.module(replace(model_config, vocab_size=64))
    freeze(model, config.optimizer)


def require_mesh(config: TrainingConfig, model_config: ModelConfig, mesh: MeshConfig, where: str) -> None:
    """Refuse a mesh that cannot work for a model, which is built without memory for its weights, before any work.

    Raises:
        ConfigError: says why, and what works.
    """
    sizes = require_processes(mesh)
    if sizes.world == 1:
        return
    require_whole_matrices(config, sizes, where)
    rows = config.batch_tokens // config.context_length
    if rows < sizes.data:
        raise too_few_rows(rows, sizes.data)
    if isinstance(config, FinetuningConfig) and config.quantise != "none" and sizes.tensor > 1:
        raise in_four_bits()
    if mesh.sequence_parallel and config.context_length % sizes.tensor:
        raise sequence_refused(f"rows of {config.context_length} tokens are not {sizes.tensor} parts of one length")
    family = architecture_of(model_config).family
    with torch.device("meta"):
        model = family.module(replace(model_config, vocab_size=64 * sizes.world))
    planned(model, Mesh(sizes, 0, mesh), family.sharding)


def too_few_rows(rows: int, shares: int) -> ConfigError:
    """The error of steps that have not a row for each process."""
    return ConfigError(
        f"steps of {rows} rows cannot be dealt to {shares} processes",
        path="mesh.replicate",
        remedy="raise batch_tokens (or the first of batch_warmup), or give processes to tensor or pipeline instead",
    )


def prepared(model: LanguageModel, config: TrainingConfig, num_steps: int, mesh: Mesh = ALONE) -> Engine:
    """The engine of a model that is to be trained for so many steps.

    Raises:
        ConfigError: this machine has not what the settings ask for.
    """
    require_machine(config)
    require_whole_matrices(config, mesh.sizes)
    table = sharding_of(model, architecture_of(model.config).family.sharding) if mesh.sizes.tensor > 1 else {}
    engine = place(model, chosen_device(config.device), _DTYPES[config.precision.kind], mesh, table)
    if not mesh.is_alone:
        _tell_of_pieces(engine)
    if config.precision.kind == "float8":
        say(f"float8: {to_float8(blocks_of(engine.model))} matrices of the hidden layers")
    pays = not config.memory.moves_activations and pays_to_compile(config, model, num_steps)
    if config.compile == "on" or (config.compile == "auto" and pays):
        for layer in blocks_of(engine.model):
            layer.compile()
    return engine


def _tell_of_pieces(engine: Engine) -> None:
    """Say what each process holds, and which axes cut how many tensors."""
    mesh, pieces = engine.mesh, engine.pieces
    mine = sum(piece.numel for piece in pieces.values())
    counts = [mine if rank == mesh.rank else 0 for rank in range(mesh.sizes.world)]
    held = [int(count) for count in mesh.summed(counts)]
    axes = [axis for axis in AXES if getattr(mesh.sizes, axis) > 1]
    cut = [f"{axis} cuts {sum(axis not in piece.copies for piece in pieces.values())}" for axis in axes]
    say(
        f"mesh: {mesh.sizes}; a process holds {human_count(min(held))} to {human_count(max(held))} weights; "
        f"of the {len(pieces)} tensors of the first one {', '.join(cut)}"
    )


def pays_to_compile(config: TrainingConfig, model: nn.Module, num_steps: int) -> bool:
    """Whether a run is long enough for compiled layers to win back the time it takes to compile them.

    It follows from the run and the kind of device alone, so that the same run is computed in the same way each time.
    """
    device = "cuda" if next(model.parameters()).is_cuda else "cpu"
    if device == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return False
    expected = _EXPECTED[device]
    duration = Duration.parse(config.duration)
    if duration.kind == "seconds":
        seconds = duration.amount
    else:
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        # Six operations for each weight and token. Source: Kaplan et al. 2020, section 2.1.
        seconds = 6 * num_parameters * config.batch_tokens * num_steps / expected.operations_per_second
    return seconds * expected.saved_share > expected.seconds_to_compile


def rows_that_fit(engine: Engine, batches: Batches) -> int:
    """The most rows of a step that one forward pass can take with the memory that is free.

    What a row leaves for the backward pass is counted on the first rows of the run. Powers of two parts of a step are
    tried, the whole first.
    """
    one = _bytes_kept(engine, batches, 1)
    two = _bytes_kept(engine, batches, 2) if batches.rows_per_step > 1 else 2 * one
    per_row, fixed = max(1, two - one), max(0, 2 * one - two)
    # All processes take the same: that of the one with the least memory left for it.
    per_row, fixed, lacking = (int(n) for n in engine.mesh.highest([per_row, fixed, -free_memory(engine.device)]))
    free = -lacking
    rows = batches.rows_per_step
    while rows > 1 and fixed + rows * per_row > _SHARE_OF_MEMORY * free:
        rows = (rows + 1) // 2
    # Where several processes train together, all must take as many micro-batches.
    rows = -int(engine.mesh.highest([-float(rows)])[0])
    say(
        f"micro-batches of {rows} of the {batches.rows_per_step} rows of a step: a row keeps {human_bytes(per_row)}, "
        f"and {human_bytes(free)} are free"
    )
    return rows


def _bytes_kept(engine: Engine, batches: Batches, num_rows: int) -> int:
    """The bytes that a forward pass of so many rows keeps for the backward pass, apart from weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in engine.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = replace(batches, rows_per_microbatch=num_rows).at(0)[0]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        engine.forward_backward(batches.objective, [batch])
    engine.clear_gradients()
    return sum(kept.values())


def free_memory(device: torch.device) -> int:
    """The bytes that are free on a device, or in the host within the limits of this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_left_by_limits()]))


def _left_by_limits() -> Iterator[int]:
    """What the limits of this process leave to it: of its address space, and of its control group."""
    try:
        import resource
    except ImportError:  # Windows knows no such limits
        return
    import psutil

    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        yield soft - psutil.Process().memory_info().vms
    try:
        texts = [Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current")]
    except OSError:
        return
    if texts[0].strip().isdecimal():
        yield int(texts[0]) - int(texts[1])
