"""The command that all others belong to, and what is said when one of them fails."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from preceptor import __version__
from preceptor.cli.cluster import cluster
from preceptor.cli.compare import compare
from preceptor.cli.data import data
from preceptor.cli.distil import distil
from preceptor.cli.examples import examples
from preceptor.cli.export import export
from preceptor.cli.find_rate import find_rate
from preceptor.cli.models import chat, generate, model
from preceptor.cli.predict import predict
from preceptor.cli.recipes import recipes
from preceptor.cli.stages import evaluate, finetune, pretrain, report, run
from preceptor.cli.tokenizer import tokenizer
from preceptor.core.errors import Interrupted, PreceptorError

_READER_LEFT = 128 + 13
# As a shell tells of SIGPIPE, which is number 13 wherever there is one.
_EPILOG = """\b
Examples
  preceptor run                                  the default, into runs/default
  preceptor run tiny --out runs/tiny             the whole path in well under a minute
  preceptor run data.sources='[{path="docs", licence="CC-BY-4.0"}]' --out runs/mine
  preceptor chat --out runs/default              ask the model you trained
"""


class _ReaderLeftError(Exception):
    """Whoever read our output has gone. Not an OSError, which click would end with its own code and without a word."""


class _Cli(click.Group):
    """A group whose commands may print into a pipe that closes early."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the words, which may print a page of help."""
        with _left_readers():
            return super().make_context(*args, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that the words name."""
        with _left_readers():
            return super().invoke(context)


@contextlib.contextmanager
def _left_readers() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderLeftError from error


@click.group(
    cls=_Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="preceptor")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Train a language model from raw documents to a model that answers, and keep the evidence.

    `run` does everything. Each stage is also a command: data, tokenizer, pretrain, finetune, evaluate, report. What a
    stage needs is made first; what exists is used again. RECIPE is the name of a recipe that ships (`preceptor
    recipes`) or a TOML file; key=value changes one of its settings.
    """
    context.obj = {"debug": debug}


_STAGES = (run, data, tokenizer, pretrain, finetune, evaluate, report)
for command in (
    *_STAGES,
    examples,
    find_rate,
    compare,
    distil,
    export,
    generate,
    chat,
    predict,
    model,
    recipes,
    cluster,
):
    cli.add_command(command)


def _fail(message: str, exit_code: int) -> int:
    is_coloured = sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = click.style("error:", fg="red", bold=True) if is_coloured else "error:"
    click.echo(f"{label} {message}", err=True)
    return exit_code


def _stopped(error: BaseException) -> int | None:
    """The exit code where somebody stopped the command, who is told what that means; None for any other error."""
    if isinstance(error, Interrupted):
        name = signal.Signals(error.signal).name
        click.echo(f"stopped by {name}; what was done is saved, and the same command goes on from there", err=True)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.exceptions.Abort):
        return _fail("stopped at once; the same command goes on from the last checkpoint", 130)
    if isinstance(error, _ReaderLeftError | BrokenPipeError):
        return _READER_LEFT
    return None


def _flush() -> int:
    """Hand on what is still held back: 0, or the exit code where whoever read it has gone."""
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            # What cannot be handed on would be tried once more when Python ends, with a complaint.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = _READER_LEFT
    return code


def _failed(error: BaseException) -> int:
    """The exit code of an error, which is told in one clear message."""
    if isinstance(error, PreceptorError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, MemoryError):
        return _fail("out of memory; lower pretraining.micro_batch_tokens, or use a smaller model", 1)
    notes = getattr(error, "__notes__", None) or traceback.format_exception(error)
    return _fail(f"unexpected {type(error).__name__}: {error}\n  {''.join(notes)}", 1)


def main() -> None:
    """Run the command line: one clear message for each error, and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except Exception as error:
        stopped = _stopped(error)
        if stopped is None and "--debug" in sys.argv:
            raise
        code = _failed(error) if stopped is None else stopped
    except KeyboardInterrupt as error:
        code = _stopped(error)
    left = _flush()
    sys.exit(code if isinstance(code, int) and code else left)
