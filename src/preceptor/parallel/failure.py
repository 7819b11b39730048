"""What a process does when others of its run are gone or hang: all stacks into the logs, and an error that says who."""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from preceptor.core.errors import LostError
from preceptor.parallel.team import Team, log_file, until

STACKS_SIGNAL = signal.SIGUSR1
"""Whoever gets it writes the Python stacks of all its threads into its log, even from within a call that hangs."""
LAUNCHER = "PRECEPTOR_LAUNCHER"
"""The environment variable with the process id of the launcher."""
_PR_SET_PDEATHSIG = 1
_SECONDS_TO_ANSWER = 2.0
_SECONDS_TO_WRITE = 0.5
_OF_TRANSPORT = ("gloo", "NCCL", "onnection closed", "onnection reset", "Timed out waiting", "Broken pipe")


def end_with_launcher() -> None:
    """Have the system kill this process when what started it as one of several is killed, so that no orphan stays."""
    if sys.platform != "linux" or not ("TORCHELASTIC_RUN_ID" in os.environ or LAUNCHER in os.environ):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have been killed before that was set.
    if LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER]):
        os.kill(os.getpid(), signal.SIGKILL)


class Watch:
    """What a process knows of the others in case they are lost: where each is; and its own log for stacks."""

    def __init__(self, team: Team, logs: Path) -> None:
        self.team, self.logs = team, logs
        self.others: dict[int, dict[str, Any]] = {}
        self._file = log_file(logs, team.rank).open("a", encoding="utf-8", buffering=1)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.write(f"--- process {team.rank} of {team.world}, pid {os.getpid()}, start {attempt}, {now}\n")
        faulthandler.enable(self._file)
        faulthandler.register(STACKS_SIGNAL, self._file, all_threads=True)

    def meet(self) -> None:
        """Tell the others where this process is, and hear it of them."""
        self.team.tell(f"at/{self.team.rank}", json.dumps(_here()))
        ranks = [rank for rank in range(self.team.world) if rank != self.team.rank]
        self.others = {rank: json.loads(self.team.hear(f"at/{rank}")) for rank in ranks}

    def loss(self, error: Exception) -> LostError | None:
        """What an error says of the others, once all stacks are in the logs; None where it is of something else."""
        if self.team.is_alone or not is_loss(error):
            return None
        self._file.write(f"--- process {self.team.rank} has lost the others: {error}\n")
        traceback.print_exception(error, file=self._file)
        faulthandler.dump_traceback(self._file, all_threads=True)
        silent = self._silent()
        self._wake()
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return LostError(
            f"process {self.team.rank} of {self.team.world} cannot go on without the others: {silent} "
            f"({type(error).__name__}: {reason[:200]})",
            remedy=f"look at what each said last, and where it was, in {self.logs}/rank-*.log; what started the "
            "processes starts them again from the last checkpoint as often as it was told to, and so does the same "
            "command",
        )

    def _silent(self) -> str:
        """Who does not answer, in words."""
        team = self.team
        try:
            team.tell(f"noticed/{team.rank}", "")
            until(lambda: all(team.store.check([f"noticed/{rank}"]) for rank in self.others), _SECONDS_TO_ANSWER)
            lost = [rank for rank in self.others if not team.store.check([f"noticed/{rank}"])]
        except RuntimeError:
            return "the host by which they found each other does not answer"
        if not lost:
            return "the connection between them broke, and all still answer"
        where = [f"process {rank} (pid {self.others[rank]['pid']} on {self.others[rank]['host']})" for rank in lost]
        return f"{', '.join(where)} {'does' if len(where) == 1 else 'do'} not answer"

    def _wake(self) -> None:
        """Have the others on this host write their stacks, also where they were stopped."""
        for pid in self._pids_here():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, STACKS_SIGNAL)
        time.sleep(_SECONDS_TO_WRITE)

    def _pids_here(self) -> Iterator[int]:
        here = _here()
        for other in self.others.values():
            is_here = other["host"] == here["host"] and other["space"] == here["space"]
            # A number may have been given to somebody else since.
            if is_here and other["started"] == _started(other["pid"]):
                yield other["pid"]


def is_loss(error: BaseException) -> bool:
    """Whether an error comes from the connection to other processes, or from a device that failed."""
    import torch
    import torch.distributed as dist

    if isinstance(error, dist.DistError | torch.AcceleratorError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    places = traceback.extract_tb(error.__traceback__)
    in_collective = bool(places) and "/torch/distributed/" in places[-1].filename
    return in_collective or any(word in str(error) for word in _OF_TRANSPORT)


def _here() -> Mapping[str, Any]:
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    pid = os.getpid()
    return {"pid": pid, "started": _started(pid), "host": os.uname().nodename, "space": space}


def _started(pid: int) -> float | None:
    """When a process began; None where there is none of that number."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
