"""The commands that use a model: continue a text, answer a question, chat."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from preceptor.cli.options import DEFAULT_OUT, Command

if TYPE_CHECKING:
    from preceptor.serve.chat import Responder

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


@click.command()
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


@click.command()
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
