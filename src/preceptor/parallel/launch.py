"""Several processes started on this host by one command, with torch's elastic agent; lost ones are started again."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preceptor.core.errors import LostError
from preceptor.core.progress import say
from preceptor.parallel.failure import LAUNCHER
from preceptor.parallel.mesh_config import MeshConfig, require_processes
from preceptor.parallel.team import was_started_together

if TYPE_CHECKING:
    from preceptor.parallel.agent import Agent

_SECONDS_BEYOND_GRACE = 15


def is_to_launch(mesh: MeshConfig) -> bool:
    """Whether this process is to start others, and is not itself one that was started so.

    Raises:
        ConfigError: there can be no such mesh.
    """
    require_processes(mesh)
    return mesh.processes > 1 and not was_started_together()


def launch(arguments: Sequence[str], mesh: MeshConfig, logs: Path, grace_seconds: float) -> int:
    """The exit code of a command that was run by several processes of this host together.

    They are those of ``mesh``; the first one's output is this process's, that of the others goes to files in ``logs``.
    A signal to stop reaches all of them. Lost processes are started again together, ``mesh.max_restarts`` times.

    Raises:
        LostError: they were lost more often than that.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    from preceptor.parallel.agent import Agent

    os.environ[LAUNCHER] = str(os.getpid())
    # Else each process would take all cores for itself.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // mesh.processes)))
    say(f"{mesh.processes} processes train together; what all but the first say is in {logs}")
    command = ["-m", "preceptor", *arguments]
    agent = Agent(command, mesh.processes, mesh.max_restarts, int(grace_seconds) + _SECONDS_BEYOND_GRACE)
    try:
        agent.run()
    except SignalException as asked:
        return 128 + int(asked.sigval)
    return _exit_code(agent, mesh, logs)


def _exit_code(agent: "Agent", mesh: MeshConfig, logs: Path) -> int:
    if agent.lost is None:
        return agent.exit_code
    raise LostError(
        f"{agent.lost}, and {mesh.max_restarts} restarts are used up",
        remedy=f"look at what each process said last, and where it was, in {logs}/rank-*.log; the same command goes on "
        "from the last checkpoint",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
