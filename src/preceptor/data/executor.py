"""Who does the work: this process, a pool of processes, or a Ray cluster; with the same results in the same order."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from preceptor.core.errors import ConfigError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING_PER_WORKER = 2
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 10


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


@contextmanager
def executor(config: ExecutionConfig, num_items: int, check: Callable[[], None] = no_stop) -> Iterator[Executor]:
    """The executor for that many items; ``check`` is called while it waits, and raises to stop.

    Raises:
        ConfigError: Ray is asked for and not installed.
        DataError: a worker died, for example because the machine ran out of memory.
    """
    workers = min(config.num_workers or os.cpu_count() or 1, max(1, num_items))
    if config.kind == "ray":
        with _ray_cluster(config) as cluster:
            yield _Ray(cluster, config.num_workers, check)
    elif config.kind == "in-process" or workers == 1:
        yield _InProcess(check)
    else:
        # Spawned, not forked: a fork of a process with threads may hold their locks for ever.
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare_worker)
        try:
            yield _Processes(pool, workers, check)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _InProcess:
    check: Callable[[], None]

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        for item in items:
            self.check()
            yield work(item)


def _prepare_worker() -> None:
    """In a worker: leave Ctrl-C, which reaches the whole group, to the parent; end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
            raise DataError(
                "a worker of the data stage was killed; the machine may have run out of memory",
                remedy="run the same command again, which goes on from the finished parts; set execution.num_workers=1 "
                "if it happens again",
            ) from error

    def _result(self, future: "Future[Result]") -> Result:
        while True:
            self.check()
            try:
                return future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                if future.done():
                    raise


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
        for item in items:
            if len(waiting) >= _WAITING_PER_WORKER * workers:
                yield self._result(waiting.popleft())
            waiting.append(call.remote(shared, item))
        while waiting:
            yield self._result(waiting.popleft())

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
