"""Those who are told of every step: TensorBoard files, and Weights & Biases, MLflow and trackio where they are named.

None of them can stop the training or keep it waiting: each is told by a thread of its own, and one that fails is told
of once and dropped.
"""

import io
import logging
import math
import os
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from preceptor.core.progress import say
from preceptor.train.tracking_config import TrackingConfig

_SECONDS_BETWEEN_FLUSHES = 1.0
"""What a kill takes from TensorBoard's files."""
_SECONDS_BETWEEN_BATCHES = 10.0
_SECONDS_TO_CLOSE = 60.0
_MAX_WAITING = 10_000
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")
"""Environment variables by which trackio would send what it is told away; only a recipe may say that."""
_MAX_BATCH = 500
"""MLflow takes at most a thousand figures at once."""


class Tracker(Protocol):
    """Someone who is told the measures of every step."""

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Take the measures of a step."""
        ...

    def close(self) -> None:
        """Write out what is still held; there are no more steps."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """What a tracker is told of the training before its first step."""

    name: str
    """Such as pretrain-0123456789ab: the stage, and the first digits of its key."""
    folder: Path
    """The folder of the run's metrics."""
    settings: Mapping[str, Any]
    resumed_step: int = 0
    """The last step that counts of earlier sessions."""


class TensorBoard:
    """TensorBoard's event files. Steps behind the one a run is resumed from are marked as not to be drawn."""

    def __init__(self, config: TrackingConfig, stage: Stage) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        folder = stage.folder / "tensorboard" / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = Event, Summary
        # Files are read in the order of their names, which have the second: within one, in that of the steps.
        self._writer = EventsWriter(str(folder / "events"), f".{stage.resumed_step:012d}.{secrets.token_hex(3)}")
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=stage.resumed_step + 1, session_log=started))
        self._writer.flush()
        self._flushed = time.monotonic()

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Take the measures of a step."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in measures.items()]
        self._writer.write_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)),
        )
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write out what is still held."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, kept on this machine unless the settings say otherwise."""

    def __init__(self, config: TrackingConfig, stage: Stage) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        stage.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=config.project,
            name=config.name or stage.name,
            id=stage.name,
            resume="allow" if config.online else None,
            dir=str(stage.folder),
            mode="online" if config.online else "offline",
            config=dict(stage.settings),
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        )
        # By a step of ours, since theirs would refuse the steps that a resumed run does again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Take the measures of a step."""
        self._run.log({"step": step, **measures})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in a database in the run's folder unless the settings name a server."""

    def __init__(self, config: TrackingConfig, stage: Stage) -> None:
        # Its own switches for what it would otherwise report of its use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        with _quiet():
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient

            # Importing it sets these levels, so it comes first.
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            stage.folder.mkdir(parents=True, exist_ok=True)
            self._metric = Metric
            here = stage.folder.resolve()
            self._client = MlflowClient(tracking_uri=config.mlflow_uri or f"sqlite:///{here / 'mlflow.db'}")
            found = self._client.get_experiment_by_name(config.project)
            files = None if config.mlflow_uri else (here / "mlflow").as_uri()
            experiment = found.experiment_id if found else self._client.create_experiment(config.project, files)
            self._id = self._client.create_run(experiment, run_name=config.name or stage.name).info.run_id
            for name, value in _flat(stage.settings):
                self._client.log_param(self._id, name, value)
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Take the measures of a step; they are handed on together with those of others."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name, value, now, step) for name, value in measures.items()]
        if len(self._waiting) >= _MAX_BATCH or time.monotonic() - self._sent > _SECONDS_BETWEEN_BATCHES:
            self._send()

    def _send(self) -> None:
        for start in range(0, len(self._waiting), _MAX_BATCH):
            self._client.log_batch(self._id, metrics=self._waiting[start : start + _MAX_BATCH])
        self._waiting = []
        self._sent = time.monotonic()

    def close(self) -> None:
        """Hand on what waits, and end the run."""
        self._send()
        self._client.set_terminated(self._id)


class Trackio:
    """A run of trackio, on this machine."""

    def __init__(self, config: TrackingConfig, stage: Stage) -> None:
        os.environ["TRACKIO_DIR"] = str((stage.folder / "trackio").resolve())
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        for elsewhere in _ELSEWHERE:
            os.environ.pop(elsewhere, None)
        with _quiet():
            import trackio

            self._run = trackio.init(
                project=config.project,
                name=config.name or stage.name,
                config=dict(stage.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        with suppress(ImportError, AttributeError):
            # trackio would end the run once more when Python ends, in words among our own output.
            from trackio import context_vars

            context_vars.current_run.set(None)

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Take the measures of a step."""
        self._run.log(dict(measures), step=step)

    def close(self) -> None:
        """End the run."""
        with _quiet():
            self._run.finish()


_TRACKERS: Mapping[str, Callable[[TrackingConfig, Stage], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Guarded:
    """A tracker that is dropped when it fails, of which one line tells."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name = name
        self._tracker: Tracker | None = tracker

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Tell the tracker, if it is still there."""
        if self._tracker is not None:
            self._try(lambda tracker: tracker.log(step, measures))

    def close(self) -> None:
        """End the tracker, if it is still there."""
        self._try(lambda tracker: tracker.close())

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:  # what is told of the work is never worth more than the work
            self._tracker = None
            _say_dropped(self.name, error)


class Aside:
    """A tracker that is told by a thread of its own, so that nobody waits for it."""

    def __init__(self, tracker: Guarded) -> None:
        self._tracker = tracker
        self._queue: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._tell, name=f"preceptor-{tracker.name}", daemon=True)
        self._missed = 0
        self._thread.start()

    def log(self, step: int, measures: Mapping[str, float]) -> None:
        """Leave the measures for the thread; a step is left out where the tracker is that far behind."""
        try:
            self._queue.put_nowait((step, measures))
        except queue.Full:
            self._missed += 1

    def close(self) -> None:
        """Wait until the tracker has been told everything, but not forever."""
        ended = time.monotonic() + _SECONDS_TO_CLOSE
        try:
            self._queue.put(None, timeout=_SECONDS_TO_CLOSE)
        except queue.Full:
            self._missed += self._queue.qsize()
        self._thread.join(max(0.0, ended - time.monotonic()))
        if self._thread.is_alive():
            self._missed += self._queue.qsize()
        if self._missed or self._thread.is_alive():
            say(f"warning: {self._tracker.name} was too slow; it lacks {self._missed:,} steps")

    def _tell(self) -> None:
        while (item := self._queue.get()) is not None:
            self._tracker.log(*item)
        self._tracker.close()


@contextmanager
def open_trackers(config: TrackingConfig, stage: Stage) -> Iterator[list[Tracker]]:
    """The trackers that the settings name, which are closed at the end of the block.

    After a second signal, which stops at once, nobody waits for them.
    """
    opened: list[Tracker] = []
    for name in config.loggers:
        try:
            tracker = Guarded(name, _TRACKERS[name](config, stage))
        except Exception as error:  # as above
            _say_dropped(name, error)
            continue
        opened.append(Aside(tracker))
    try:
        yield opened
    except Exception:
        _close(opened)
        raise
    _close(opened)


def _close(opened: Iterable[Tracker]) -> None:
    for each in opened:
        each.close()


def numbers(measures: Mapping[str, Any]) -> dict[str, float]:
    """The measures that are finite numbers, which is what all trackers take."""
    return {
        name: float(value)
        for name, value in measures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _say_dropped(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:200]
    say(f"warning: {name} failed and is told no more; training goes on ({type(error).__name__}: {reason})")


def _flat(settings: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted path."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and the greetings of a library."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
