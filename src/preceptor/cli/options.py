"""What every command that makes something takes: a recipe, its overrides, and the folder of the run."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from preceptor import __version__
from preceptor.core.errors import PreceptorError

if TYPE_CHECKING:
    from preceptor.core.artifact import Artifact
    from preceptor.parallel.mesh_config import MeshConfig
    from preceptor.parallel.team import Team
    from preceptor.recipes.pipeline import Pipeline

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_OUT = "runs/default"


OUT_OPTION = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEFAULT_OUT,
    show_default=True,
    help="Folder of the run.",
)


_RESTART = "preceptor.restart"


def _remember_restart(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[_RESTART] = value


RESTART_OPTION = click.option(
    "--restart",
    is_flag=True,
    expose_value=False,
    callback=_remember_restart,
    help="Throw away a training that was stopped and whose settings or data have changed since.",
)


def stage_options(command: Command) -> Command:
    """RECIPE [KEY=VALUE ...] --out DIR, as every stage has them."""
    return RESTART_OPTION(OUT_OPTION(click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")(command)))


def parse_words(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """The recipe, which stands first and has no equals sign, and the overrides."""
    if words and "=" not in words[0]:
        return words[0], list(words[1:])
    return "default", list(words)


class StageGroup(click.Group):
    """A stage that is a command of its own and has commands about what it made.

    Whatever is not the name of one of these is for the command named ``make``: `data tiny` is `data make tiny`.
    """

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put ``make`` in front of words that name no command."""
        if not args or (args[0] not in self.commands and args[0] not in context.help_option_names):
            args = ["make", *args]
        return super().parse_args(context, args)


@contextmanager
def open_pipeline(
    words: tuple[str, ...], out: Path, *, of_folder: bool = False, is_trial: bool = False
) -> Iterator["Pipeline"]:
    """The pipeline of a run in its folder, which no other run can use meanwhile; run.json is written first.

    With ``of_folder`` it is the run that the folder holds, where no recipe is named. A trial leaves run.json alone.
    """
    from preceptor.core.interrupt import grace
    from preceptor.core.lock import hold
    from preceptor.parallel.mesh_config import require_processes
    from preceptor.recipes.run import load_run, stored_run

    recipe, overrides = parse_words(words)
    names_recipe = bool(words) and "=" not in words[0]
    run = stored_run(out, overrides) if of_folder and not names_recipe else load_run(recipe, overrides)
    require_processes(run.mesh)
    with _teamed(run.mesh, out / "logs") as team, hold(out) if team.is_first else nullcontext(), grace() as stop:
        from preceptor.recipes.pipeline import Pipeline
        from preceptor.recipes.report import write_run_file

        team.require_shared(out, stop.check)
        context = click.get_current_context(silent=True)
        pipeline = Pipeline(run, out, stop, context is not None and context.meta.get(_RESTART, False), team)
        if not is_trial and team.is_first:
            write_run_file(run, out)
        try:
            yield pipeline
        except Exception as error:
            is_known = isinstance(error, PreceptorError | MemoryError | BrokenPipeError | click.exceptions.Abort)
            if not is_known and not _is_loss(team, error):
                _keep_traceback(error, out / "logs")
            raise


@contextmanager
def _teamed(mesh: "MeshConfig", logs: Path) -> Iterator["Team"]:
    """The processes that were started together, for a block in which all fail when one does."""
    from preceptor.parallel.team import Team, was_started_together

    if not was_started_together():
        yield Team()
        return
    from preceptor.parallel.failure import Watch, end_with_launcher
    from preceptor.parallel.team import log_apart

    end_with_launcher()
    log_apart(logs)
    team = Team.join(mesh.timeout_seconds)
    watch = Watch(team, logs)
    with team.failing_together():
        try:
            watch.meet()
            yield team
        except Exception as error:
            if (loss := watch.loss(error)) is not None:
                raise loss from error
            raise
    team.leave()


def _is_loss(team: "Team", error: Exception) -> bool:
    """Whether an error says that other processes are lost, which is told with more than a traceback."""
    from preceptor.parallel.failure import is_loss

    return not team.is_alone and is_loss(error)


def hand_over(words: tuple[str, ...], out: Path) -> None:
    """Leave this command to several processes, where the recipe asks for them and nobody has started them yet.

    Raises:
        Exit: they have ended; with their exit code.
    """
    from preceptor.parallel.launch import is_to_launch, launch
    from preceptor.recipes.run import load_run

    recipe, overrides = parse_words(words)
    run = load_run(recipe, overrides)
    if not is_to_launch(run.mesh):
        return
    context = click.get_current_context()
    arguments = [context.info_name or "run", *words, "--out", str(out)]
    if context.meta.get(_RESTART, False):
        arguments.append("--restart")
    if (context.obj or {}).get("debug"):
        arguments.insert(0, "--debug")
    grace_seconds = max(run.pretraining.grace_seconds, run.finetuning.grace_seconds)
    raise click.exceptions.Exit(launch(arguments, run.mesh, out / "logs", grace_seconds))


def say_artifact(artifact: "Artifact | None", nothing: str = "") -> None:
    """The facts of an artifact, as what a stage's command prints."""
    if artifact is None:
        click.echo(nothing)
        return
    for name, value in artifact.facts.items():
        click.echo(f"{name}: {value}")
    click.echo(f"in {artifact.path}")


def _keep_traceback(error: Exception, folder: Path) -> None:
    """Write the traceback of an error nobody foresaw into the folder; the error says where, if it could be written."""
    text = "".join(traceback.format_exception(error))
    path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"preceptor {__version__} {sys.argv}\n{text}", encoding="utf-8")
    except OSError:
        # A full or read-only disk: without a note the traceback is told on stderr.
        return
    error.add_note(f"the traceback is in {path}")
