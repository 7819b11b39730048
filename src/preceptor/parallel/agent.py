"""torch's elastic agent for one host, which tells what was lost from what has failed, and restarts only the lost."""

import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from subprocess import Popen
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from preceptor.core.errors import LostError
from preceptor.core.progress import say
from preceptor.parallel.failure import STACKS_SIGNAL

LOST_CODE = LostError("").exit_code
_SECONDS_TO_WRITE = 0.5
_SECONDS_TO_END = 6.0
"""How long the others may take to notice by themselves, and to end, once one has failed."""


class _Screen(LogsSpecs):
    """No file is made for what processes say: each knows its own."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        none = dict.fromkeys(envs, "")
        return LogsDest(dict(none), dict(none), {}, {}, dict(none))

    @property
    def root_log_dir(self) -> str:
        return ""


class Agent(LocalElasticAgent):
    """The agent of some processes on this host: all end when one does, and start again if it was lost."""

    def __init__(self, command: Sequence[str], processes: int, max_restarts: int, shutdown_seconds: int) -> None:
        # What it logs is for those who look after clusters of agents; what users should know is told here.
        for name in logging.root.manager.loggerDict:
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        place = RendezvousParameters("c10d", "127.0.0.1:0", uuid.uuid4().hex, 1, 1, local_addr="127.0.0.1")
        spec = WorkerSpec(
            role="preceptor",
            local_world_size=processes,
            entrypoint=sys.executable,
            args=tuple(command),
            rdzv_handler=get_rendezvous_handler(place),
            max_restarts=max_restarts,
            local_addr="127.0.0.1",
        )
        super().__init__(spec, _Screen(), shutdown_timeout=shutdown_seconds)
        self.max_restarts = max_restarts
        self.exit_code = 0
        """That of the run, once it has ended."""
        self.lost: str | None = None
        """What was lost when the run ended, in words; None where nothing was."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """What has become of the processes; once one has failed all have ended, and what is next is decided."""
        workers = self._processes()
        failed = {rank: worker for rank, worker in workers.items() if worker.poll()}
        if failed:
            others = {rank: worker for rank, worker in workers.items() if worker.poll() is None}
            if any(worker.returncode < 0 or worker.returncode == LOST_CODE for worker in failed.values()):
                _ask_for_stacks(others)
            self._end(others, failed)
            self._decide({rank: worker.returncode for rank, worker in failed.items()}, workers)
        found: RunResult = super()._monitor_workers(worker_group)
        return found

    def _processes(self) -> dict[int, "Popen[bytes]"]:
        context: Any = self._pcontext
        assert isinstance(context, SubprocessContext)
        return {rank: handler.proc for rank, handler in context.subprocess_handlers.items()}

    def _end(self, others: Mapping[int, "Popen[bytes]"], failed: Mapping[int, "Popen[bytes]"]) -> None:
        """Let those who are left end by themselves, which they do once they notice; then kill them."""
        end = time.monotonic() + _SECONDS_TO_END
        while any(worker.poll() is None for worker in others.values()) and time.monotonic() < end:
            time.sleep(0.05)
        for worker in (*others.values(), *failed.values()):
            # With whatever they have started themselves.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def _decide(self, first: Mapping[int, int], workers: Mapping[int, "Popen[bytes]"]) -> None:
        """Restart what was lost; not what has failed by an error of its own, which would only come again."""
        codes = {rank: worker.returncode for rank, worker in workers.items()}
        if own := [code for code in codes.values() if code > 0 and code != LOST_CODE]:
            self.exit_code, self._remaining_restarts = own[0], 0
            return
        killed = {rank: -code for rank, code in first.items() if code < 0}
        self.lost = " and ".join(
            f"process {rank} (pid {workers[rank].pid}) was killed by {_name(number)}" for rank, number in killed.items()
        )
        if 9 in killed.values():
            self.lost += " (where nobody did that, the system did as memory had run out)"
        self.lost = self.lost or f"process {', '.join(map(str, first))} lost contact with the others"
        if self._remaining_restarts:
            number = self.max_restarts - self._remaining_restarts + 1
            say(f"{self.lost}; all start again from the last checkpoint ({number} of {self.max_restarts})")
            self.lost = None


def _ask_for_stacks(workers: Mapping[int, "Popen[bytes]"]) -> None:
    """Have processes write where they are into their logs, also those that were stopped."""
    for worker in workers.values():
        for number in (STACKS_SIGNAL, signal.SIGCONT):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(worker.pid, number)
    time.sleep(_SECONDS_TO_WRITE)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
