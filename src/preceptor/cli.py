"""The command line. Heavy parts are imported inside the commands, so that --help answers at once."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from preceptor import __version__
from preceptor.core.errors import ConfigError, Interrupted, PreceptorError

if TYPE_CHECKING:
    from preceptor.core.artifact import Artifact
    from preceptor.recipes.pipeline import Pipeline
    from preceptor.serve.chat import Responder

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_OUT = "runs/default"

_EPILOG = """\b
Examples
  preceptor run                                  the default, into runs/default
  preceptor run tiny --out runs/tiny             the whole path in well under a minute
  preceptor run data.sources='[{path="docs", licence="CC-BY-4.0"}]' --out runs/mine
  preceptor chat --out runs/default              ask the model you trained
"""


@click.group(
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


def _stage_options(command: Command) -> Command:
    """RECIPE [KEY=VALUE ...] --out DIR, as every stage has them."""
    command = click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")(command)
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=DEFAULT_OUT,
        show_default=True,
        help="Folder for artifacts and the report.",
    )(command)


def _parse(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """The recipe, which stands first and has no equals sign, and the overrides."""
    if words and "=" not in words[0]:
        return words[0], list(words[1:])
    return "default", list(words)


@contextlib.contextmanager
def _pipeline(words: tuple[str, ...], out: Path) -> Iterator["Pipeline"]:
    """The pipeline of a run in its folder, which no other run can use meanwhile; run.json is written first."""
    from preceptor.core.interrupt import grace
    from preceptor.core.lock import hold
    from preceptor.recipes.run import load_run

    recipe, overrides = _parse(words)
    run = load_run(recipe, overrides)
    with hold(out), grace() as stop:
        from preceptor.recipes.pipeline import Pipeline
        from preceptor.recipes.report import write_run_file

        pipeline = Pipeline(run, out, stop)
        write_run_file(run, out)
        try:
            yield pipeline
        except Exception as error:
            if not isinstance(error, PreceptorError | MemoryError | BrokenPipeError | click.exceptions.Abort):
                _keep_traceback(error, out / "logs")
            raise


def _say_artifact(artifact: "Artifact | None", nothing: str = "") -> None:
    """The facts of an artifact, as what a stage's command prints."""
    if artifact is None:
        click.echo(nothing)
        return
    for name, value in artifact.facts.items():
        click.echo(f"{name}: {value}")
    click.echo(f"in {artifact.path}")


@cli.command()
@_stage_options
def run(words: tuple[str, ...], out: Path) -> None:
    """Do everything: documents, tokenizer, pre-training, fine-tuning, evaluation, report.

    Ends with what each stage gave and cost, three answers, and what to type next. Run again, it uses what exists; after
    a change of settings it makes what follows from that change. A run that was killed goes on where it was saved.
    """
    from preceptor.recipes.report import write_report
    from preceptor.recipes.summary import summary

    with _pipeline(words, out) as pipeline:
        pipeline.evaluation()
        report = write_report(pipeline)
        click.echo(summary(pipeline, report))


@cli.command()
@_stage_options
def data(words: tuple[str, ...], out: Path) -> None:
    """Read, clean and de-duplicate documents into a corpus, and say what became of each."""
    with _pipeline(words, out) as pipeline:
        corpus = pipeline.corpus()
        click.echo(corpus.file("datasheet.json").read_text(encoding="utf-8").strip())
        click.echo(f"in {corpus.path}", err=True)


@cli.command()
@_stage_options
def tokenizer(words: tuple[str, ...], out: Path) -> None:
    """Train a tokenizer on the corpus, and encode the corpus with it."""
    with _pipeline(words, out) as pipeline:
        _say_artifact(pipeline.tokenizer())
        _say_artifact(pipeline.tokens())


@cli.command()
@_stage_options
def pretrain(words: tuple[str, ...], out: Path) -> None:
    """Train a model from its starting weights; goes on from the last checkpoint of a run that was stopped or killed."""
    with _pipeline(words, out) as pipeline:
        _say_artifact(pipeline.checkpoint())


@cli.command()
@_stage_options
def finetune(words: tuple[str, ...], out: Path) -> None:
    """Train a LoRA adapter on questions and answers (finetuning.examples: "python-docs" or a JSON file)."""
    with _pipeline(words, out) as pipeline:
        _say_artifact(pipeline.adapter(), nothing="finetuning.examples is empty: there is nothing to fine-tune on")


@cli.command()
@_stage_options
def evaluate(words: tuple[str, ...], out: Path) -> None:
    """Measure the model: bits per byte beside two rulers, questions before and after, memorisation. Prints JSON."""
    with _pipeline(words, out) as pipeline:
        artifact = pipeline.evaluation()
        click.echo(artifact.file("evaluation.json").read_text(encoding="utf-8").strip())


@cli.command()
@_stage_options
def report(words: tuple[str, ...], out: Path) -> None:
    """Write report.html and report.json from what the stages have left."""
    from preceptor.recipes.report import write_report

    with _pipeline(words, out) as pipeline:
        pipeline.evaluation()
        write_report(pipeline)
        click.echo(out / "report.html")
        click.echo(out / "report.json")


_SAMPLING_OPTIONS = (
    click.option("--temperature", type=float, help="0 for the likeliest answer; the run's own setting when left out."),
    click.option("--seed", type=int, help="Seed of the draws."),
    click.option("--base", is_flag=True, help="The pre-trained model without its adapter."),
    click.option(
        "--out", type=click.Path(path_type=Path), default=DEFAULT_OUT, show_default=True, help="Folder of a run."
    ),
)


def _sampling_options(command: Command) -> Command:
    for option in _SAMPLING_OPTIONS:
        command = option(command)
    return command


def _responder(out: Path, base: bool, temperature: float | None, seed: int | None) -> "Responder":
    """The newest model of a folder, ready to answer."""
    from preceptor.recipes.answering import load_responder

    return load_responder(out, with_adapter=not base, temperature=temperature, seed=seed)


@cli.command()
@click.argument("prompt")
@click.option("--ask", is_flag=True, help="Treat PROMPT as a question and answer it, as chat does.")
@_sampling_options
def generate(prompt: str, ask: bool, out: Path, base: bool, temperature: float | None, seed: int | None) -> None:
    """Continue PROMPT with the newest model of a run, or answer it with --ask."""
    responder = _responder(out, base, temperature, seed)
    pieces = responder.answer(prompt) if ask else responder.continue_text(prompt)
    if not ask:
        click.echo(prompt, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
        sys.stdout.flush()
    click.echo()


@cli.command()
@_sampling_options
def chat(out: Path, base: bool, temperature: float | None, seed: int | None) -> None:
    """Ask the newest model of a run questions at the terminal; /help inside lists what else it understands."""
    from preceptor.serve.chat import chat as converse
    from preceptor.serve.chat import terminal_lines

    responder = _responder(out, base, temperature, seed)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        click.echo("Every question stands alone. /help lists commands, Ctrl-D leaves.", err=True)

    def prompt() -> None:
        if is_terminal:
            click.echo("> ", nl=False)
            sys.stdout.flush()

    converse(responder, terminal_lines(), sys.stdout, prompt)


@cli.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """The recipes that ship, one a line; `show NAME` prints one, `settings` lists what a recipe can set."""
    if context.invoked_subcommand is None:
        context.invoke(list_recipes)


@recipes.command("list")
def list_recipes() -> None:
    """Name and purpose of each recipe."""
    from preceptor.recipes.run import summaries

    for name, line in summaries():
        click.echo(f"{name:14s} {line}")


@recipes.command("show")
@click.argument("name")
def show_recipe(name: str) -> None:
    """Print a recipe, to save and change: preceptor recipes show default > mine.toml."""
    from preceptor.recipes.run import shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise ConfigError(f"there is no recipe {name!r}", remedy=f"choose from {', '.join(shipped)}")
    click.echo(shipped[name].read_text(encoding="utf-8"), nl=False)


@recipes.command("settings")
@click.option("--json-schema", is_flag=True, help="As JSON Schema.")
def settings(json_schema: bool) -> None:
    """Every setting with what it accepts, its default and what it is for."""
    import json

    from preceptor.core import config
    from preceptor.recipes.run import Run

    if json_schema:
        click.echo(json.dumps(config.json_schema(Run), indent=2))
        return
    for field in config.describe(Run):
        click.echo(f"{field.path} ({field.type}, default {json.dumps(field.default)})\n    {field.help}")


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


def _fail(message: str, exit_code: int) -> int:
    label = (
        click.style("error:", fg="red", bold=True)
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        else "error:"
    )
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
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return None


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
        if "--debug" in sys.argv:
            raise
        stopped = _stopped(error)
        code = _failed(error) if stopped is None else stopped
    except KeyboardInterrupt as error:
        code = _stopped(error)
    sys.exit(code if isinstance(code, int) else 0)
