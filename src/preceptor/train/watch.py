"""A training stage is watched: its steps measured, shown on the screen, and written to files and trackers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from preceptor.core.canonical import plain
from preceptor.core.progress import Progress, say
from preceptor.footprint.live import LiveMeter
from preceptor.footprint.peak import reached_flops
from preceptor.models.language_model import LanguageModel
from preceptor.models.step_flops import StepFlops, step_flops
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import Engine
from preceptor.train.hooks import Board, MetricsLog, StepMeter, Watcher, Workload
from preceptor.train.length import Length, joules_of
from preceptor.train.run import TrainingConfig
from preceptor.train.state import Hook, TrainState
from preceptor.train.trackers import Stage, open_trackers


@contextmanager
def watch(
    label: str,
    config: TrainingConfig,
    engine: Engine,
    batches: Batches,
    state: TrainState,
    length: Length,
    metrics: Path,
    read_cost: Callable[[], Mapping[str, Any]],
    flops: StepFlops,
) -> Iterator[tuple[Hook, ...]]:
    """The hooks of a stage that goes on from ``state``, and is shown as ``label``; they are closed after the block.

    Of several processes only the first is watched.

    Where ``read_cost`` can be read in the background, the joules so far are among the measures, with those of earlier
    sessions.
    """
    if not engine.mesh.is_first:
        yield ()
        return
    settings: Any = plain(config, where="tracking")
    stage = Stage(metrics.stem, metrics.parent, settings, state.step)
    spent = joules_of(state.cost)

    def joules() -> float | None:
        latest = read_cost.latest.joules if isinstance(read_cost, LiveMeter) else 0.0
        return latest + spent if latest else None

    workload = _workload(engine, batches, flops)
    with (
        read_cost if isinstance(read_cost, LiveMeter) else nullcontext(),
        Progress(label, total=length.steps or None, unit="steps") as progress,
        open_trackers(config.tracking, stage) as trackers,
    ):
        meter = StepMeter(workload, state.tokens, joules)
        board = Board(progress, state.step, lambda: length.num_steps(state))
        yield (Watcher(meter, MetricsLog(metrics, state.step), trackers, board),)


def step_flops_of(model: LanguageModel, batches: Batches) -> StepFlops:
    """The operations of a whole model for one row of these batches, forward and backward."""
    return step_flops(model, *_row_tokens(batches))


def _row_tokens(batches: Batches) -> tuple[int, int]:
    """The tokens of a row, and those of its source."""
    inputs = batches.objective.collate([0]).inputs
    return inputs.tokens_BT.shape[1], 0 if inputs.source is None else inputs.source.tokens_BT.shape[1]


def _workload(engine: Engine, batches: Batches, flops: StepFlops) -> Workload:
    """What a step of these batches is, a row of which takes so many operations, and what the device could do."""
    return Workload(
        rows=batches.sizes.rows,
        row_tokens=sum(_row_tokens(batches)),
        flops=flops,
        peak_flops=_peak_flops(engine),
        device=engine.device,
    )


def _peak_flops(engine: Engine) -> float | None:
    """What the devices of all processes reach at best with numbers of the run's type; None where it is not known."""
    try:
        return reached_flops(engine.device, engine.dtype) * engine.mesh.sizes.world
    except RuntimeError as error:  # such as too little memory left on the device; knowing is not worth the training
        say(f"warning: the share of the peak is not shown, as the peak cannot be measured: {error}")
        return None
