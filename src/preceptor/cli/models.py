"""The commands that use a model: continue a text, answer a question, chat; and those that look into one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from preceptor.cli.options import DEFAULT_OUT, Command
from preceptor.core.errors import ConfigError

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


_DESCRIBE_EPILOG = """\b
Examples
  preceptor model describe gpt3-175b                 a published model, without its weights
  preceptor model describe tiny                      what a recipe would train
  preceptor model describe mine.toml --vocab-size 32000
  preceptor model describe runs/default --json       what a run has trained, for programs
  preceptor model describe llama-3-8b --mesh tensor=2,pipeline=4,shard=2    who would hold what
"""
_ATTENTION_EPILOG = """\b
Examples
  preceptor model attention runs/default "The cat sat." --out attention.png
  preceptor model attention runs/default "The cat sat." --layer 0 --head 0 --head 1 --out two.svg
"""
_NORMS_EPILOG = """\b
Examples
  preceptor model norms runs/default "The cat sat on the mat." --out norms.svg
"""
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))
_PICTURE = click.option(
    "--out", "picture", type=click.Path(path_type=Path), required=True, help="The picture: a .png or .svg file."
)
_TARGET = click.option("--target", default="", help="What an encoder-decoder says; TEXT itself when left out.")


@click.group()
def model() -> None:
    """Look into a model: its size and cost, what it attends to, how large everything in it is."""


@model.command(epilog=_DESCRIBE_EPILOG)
@click.argument("what")
@click.option("--vocab-size", type=click.IntRange(min=1), help="Another vocabulary than the one that is said there.")
@click.option("--context-length", type=click.IntRange(min=1), help="Another context at which to count.")
@click.option("--mesh", help="Which process of a mesh would hold what: tensor=2,shard=4. None is started.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def describe(what: str, vocab_size: int | None, context_length: int | None, mesh: str | None, as_json: bool) -> None:
    """Count a model: its tensors, parameters, operations for a token and bytes.

    WHAT is a named size (as gpt2, llama-3-8b or roberta-base), the name of a recipe or its .toml file, a folder with a
    model (its config.json is enough), or the folder of a run. A size and a recipe of one name: the size. No weights are
    read or made, so the largest model takes a second.
    """
    from preceptor.models.describe import describe as count
    from preceptor.recipes.model_lookup import find_config
    from preceptor.recipes.model_table import print_description

    config = find_config(what, vocab_size or 0)
    if mesh is not None:
        from preceptor.recipes.mesh_table import describe_mesh, mesh_of, print_mesh

        cut = describe_mesh(config, mesh_of(mesh))
        if as_json:
            click.echo(json.dumps(cut.to_json(), indent=2))
        else:
            print_mesh(cut, what)
        return
    described = count(config, context_length or 0)
    if as_json:
        click.echo(json.dumps(described.to_json(), indent=2))
    else:
        print_description(described, what)


@model.command(epilog=_ATTENTION_EPILOG)
@_FOLDER
@click.argument("text")
@_PICTURE
@click.option("--layer", "layers", type=int, multiple=True, help="Only this layer, from 0; may be given again.")
@click.option("--head", "heads", type=int, multiple=True, help="This head, from 0, in place of the mean of all.")
@click.option("--all-heads", is_flag=True, help="A panel for each head.")
@_TARGET
def attention(
    folder: Path,
    text: str,
    picture: Path,
    layers: tuple[int, ...],
    heads: tuple[int, ...],
    all_heads: bool,
    target: str,
) -> None:
    """Draw which tokens of TEXT the model of FOLDER attends to.

    FOLDER holds a model and its tokenizer, or is the folder of a run, whose pre-trained model is taken without adapter.
    """
    from preceptor.evaluate.inspection import attention_maps
    from preceptor.recipes.look import check_suffix
    from preceptor.recipes.model_lookup import find_model
    from preceptor.recipes.model_plots import chosen_panels, draw_attention

    check_suffix(picture)
    if heads and all_heads:
        raise ConfigError("--head and --all-heads exclude each other", remedy="give one of the two")
    maps = attention_maps(*find_model(folder), text, target)
    panels = chosen_panels(maps, layers, heads, all_heads=all_heads)
    draw_attention(panels, picture)
    click.echo(f"{len(panels)} {'map' if len(panels) == 1 else 'maps'} in {picture}")


@model.command(epilog=_NORMS_EPILOG)
@_FOLDER
@click.argument("text")
@_PICTURE
@_TARGET
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def norms(folder: Path, text: str, picture: Path, target: str, as_json: bool) -> None:
    """Draw how large activations, gradients and weights are in each part, and say what vanishes or explodes.

    The gradients are those of the loss that pre-training would have on TEXT. FOLDER holds a model and its tokenizer, or
    is the folder of a run, whose pre-trained model is taken without its adapter.
    """
    from preceptor.evaluate.inspection import norms as measure
    from preceptor.recipes.look import check_suffix
    from preceptor.recipes.model_lookup import find_model
    from preceptor.recipes.model_plots import draw_norms
    from preceptor.recipes.model_table import norms_json, print_norms

    check_suffix(picture)
    found = measure(*find_model(folder), text, target)
    draw_norms(found, picture)
    if as_json:
        click.echo(json.dumps(norms_json(found), indent=2))
    else:
        print_norms(found)
        click.echo(f"in {picture}")
