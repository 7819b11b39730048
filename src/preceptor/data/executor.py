"""Who does the work: this process, a pool of processes, or a Ray cluster; with the same results in the same order."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from preceptor.core.errors import ConfigError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING_PER_WORKER = 2
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10
_TELL_SECONDS = 0.25
Tell = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionConfig:
    """Who does the work of the data stage. It changes how long that takes, and never a byte of what comes out."""

    kind: Literal["processes", "in-process", "ray"] = "processes"
    """processes: a pool on this machine; in-process: one after the other; ray: a Ray cluster whose machines share the
    output folder (needs the extra "ray")."""
    num_workers: int = 0
    """Processes or Ray tasks at a time; 0 for one on each core of the machine or cluster."""
    ray_address: str = ""
    """Address of a running Ray cluster, such as "auto"; empty starts one on this machine for the time of the work."""

    def __post_init__(self) -> None:
        """Refuse fewer workers than none."""
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {self.num_workers}")


class Executor(Protocol):
    """Something that applies a function to many items, each on its own."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results in the order of the items. Function, items and results can be pickled."""
        ...


def no_stop() -> None:
    """Never stop."""


def tell_nobody(num_bytes: int, num_records: int) -> None:
    """Pass over how far the work is."""


class Pulse:
    """How much the work of this process has done since it was told last: bytes and records."""

    def __init__(self, tell: Tell = tell_nobody) -> None:
        self.tell = tell
        self._bytes = self._records = 0
        self._told = 0.0

    def add(self, num_bytes: int, num_records: int = 0) -> None:
        """Count what was done, and tell of it a few times a second."""
        self._bytes += num_bytes
        self._records += num_records
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Tell of what was done since."""
        num_bytes, num_records = self._bytes, self._records
        self._bytes = self._records = 0
        self._told = time.monotonic()
        self.tell(num_bytes, num_records)


_pulse = Pulse()


def pulse() -> Pulse:
    """What work tells how far it is within its item; whom that reaches is the executor's affair."""
    return _pulse


def _beat(tell: Tell) -> None:
    global _pulse
    _pulse = Pulse(tell)


@contextmanager
def executor(
    config: ExecutionConfig, num_items: int, check: Callable[[], None] = no_stop, tell: Tell = tell_nobody
) -> Iterator[Executor]:
    """The executor for that many items; ``check`` is called while it waits, and raises to stop.

    ``tell`` hears some times a second how many bytes and records were done since, also within an item; not from Ray.
    Where the block ends by an error, so does the work in hand, within moments.

    Raises:
        ConfigError: Ray is asked for and not installed.
        DataError: a worker died, for example because the machine ran out of memory.
    """
    workers = min(config.num_workers or os.cpu_count() or 1, max(1, num_items))
    if config.kind == "ray":
        with _ray_cluster(config) as cluster:
            yield _Ray(cluster, config.num_workers, check)
    elif config.kind == "in-process" or workers == 1:
        with _told(check, tell):
            yield _InProcess(check)
    else:
        with _process_pool(workers, check, tell) as processes:
            yield processes


@contextmanager
def _told(check: Callable[[], None], tell: Tell) -> Iterator[None]:
    """A block in which the work of this process tells how far it is, and stops where it is asked to."""

    def tell_and_check(num_bytes: int, num_records: int) -> None:
        tell(num_bytes, num_records)
        check()

    before = _pulse.tell
    _beat(tell_and_check)
    try:
        yield
    finally:
        _beat(before)


@contextmanager
def _process_pool(workers: int, check: Callable[[], None], tell: Tell) -> Iterator["_Processes"]:
    # Spawned, not forked: a fork of a process with threads may hold their locks for ever.
    context = multiprocessing.get_context("spawn")
    done = context.Array("q", 2)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _prepare_worker, (done,))
    try:
        yield _Processes(pool, workers, check, tell, done)
    except BaseException:
        # A part may take long, and stands on the disk whole or not at all: nobody waits for the one in hand.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _InProcess:
    check: Callable[[], None]

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        for item in items:
            self.check()
            yield work(item)


def _prepare_worker(done: Any) -> None:
    """In a worker: leave Ctrl-C, which reaches the whole group, to the parent; end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(num_bytes: int, num_records: int) -> None:
        # A worker that was killed in these lines keeps the lock for ever; then the count stays behind.
        if done.get_lock().acquire(timeout=_TELL_SECONDS):
            try:
                numbers = done.get_obj()
                numbers[0] += num_bytes
                numbers[1] += num_records
            finally:
                done.get_lock().release()

    _beat(tell)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A worker holds both ends of the pipe that brings its work, so the pipe does not tell it that nobody is left.
        parent.join()
        os._exit(1)


@dataclass(frozen=True)
class _Processes:
    pool: ProcessPoolExecutor
    workers: int
    check: Callable[[], None]
    tell: Tell
    done: Any
    told: list[int] = field(default_factory=lambda: [0, 0])

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(waiting) >= _WAITING_PER_WORKER * self.workers:
                    yield self._result(waiting.popleft())
                waiting.append(self.pool.submit(work, item))
            while waiting:
                yield self._result(waiting.popleft())
        except BrokenProcessPool as error:
            self.check()
            raise DataError(
                "a worker of the data stage was killed; the machine may have run out of memory",
                remedy="run the same command again, which goes on from the finished parts; set execution.num_workers=1 "
                "if it happens again",
            ) from error

    def _result(self, future: "Future[Result]") -> Result:
        while True:
            self.check()
            try:
                result = future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                self._tell()
            else:
                self._tell()
                return result

    def _tell(self) -> None:
        now = list(self.done.get_obj())
        num_bytes, num_records = (new - old for new, old in zip(now, self.told, strict=True))
        if num_bytes or num_records:
            self.told[:] = now
            self.tell(num_bytes, num_records)


@contextmanager
def _ray_cluster(config: ExecutionConfig) -> Iterator[Any]:
    # Ray reports its use to its makers unless told not to before it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            'execution.kind is "ray", and Ray is not installed',
            path="execution.kind",
            remedy="install it with `pip install 'preceptor[ray]'`, or choose \"processes\"",
        ) from error
    was_running = ray.is_initialized()
    if not was_running:
        where = {"address": config.ray_address} if config.ray_address else {"num_cpus": config.num_workers or None}
        try:
            _reach(config.ray_address)
            ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except OSError as error:
            raise ConfigError(
                f"execution.ray_address is {config.ray_address!r}, where no Ray cluster answers: {error}",
                path="execution.ray_address",
                remedy="start the cluster with `ray start --head`, or leave the address out to work on this machine",
            ) from error
    try:
        yield ray
    finally:
        if not was_running:
            ray.shutdown()


def _reach(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for many minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


@dataclass(frozen=True)
class _Ray:
    ray: Any
    num_workers: int
    check: Callable[[], None]

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        call = self.ray.remote(_call)
        # Stored once, since a function may carry much with it.
        shared = self.ray.put(work)
        workers = self.num_workers or int(self.ray.cluster_resources().get("CPU", 1))
        waiting: deque[Any] = deque()
        # Where this ends early, what is in hand is left to end with the job: a task that is cancelled while it comes
        # back makes Ray (2.60) abort the whole process.
        for item in items:
            if len(waiting) >= _WAITING_PER_WORKER * workers:
                yield self._result(waiting[0])
                waiting.popleft()
            waiting.append(call.remote(shared, item))
        while waiting:
            yield self._result(waiting[0])
            waiting.popleft()

    def _result(self, reference: Any) -> Any:
        while True:
            self.check()
            ready, _ = self.ray.wait([reference], timeout=_POLL_SECONDS)
            if ready:
                break
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            raise DataError(
                f"a Ray worker of the data stage died: {type(error).__name__}",
                remedy="run the same command again, which goes on from the finished parts",
            ) from error
