"""The command that puts runs side by side."""

import json
from pathlib import Path

import click

_EPILOG = """\b
Examples
  preceptor compare runs/default runs/warm                what differs, what came out, and compare.png
  preceptor compare runs/a runs/b runs/c --plot abc.svg   more than two, drawn as SVG
  preceptor compare runs/a runs/b --json                  for programs
"""


@click.command(epilog=_EPILOG)
@click.argument("folders", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path),
    default="compare.png",
    show_default=True,
    help="The picture: a .png or .svg file.",
)
def compare(folders: tuple[Path, ...], as_json: bool, picture: Path) -> None:
    """Put runs side by side: the settings that differ, what came out, and the losses over steps, tokens and cost.

    RUN is the folder of a run, as given to --out. One that is still at work or was stopped is compared as far as it
    has come. The losses drawn are those of pre-training, or of fine-tuning where all runs share their base model.
    Nothing is run, and nothing is written but the picture.
    """
    from preceptor.recipes.compare import compare as read
    from preceptor.recipes.look import check_suffix

    check_suffix(picture)
    comparison = read(folders)

    from preceptor.recipes.compare_view import as_text, draw, stage_of

    stage = stage_of(comparison)
    if stage is not None:
        draw(comparison, stage, picture)
    if as_json:
        click.echo(json.dumps({**comparison.to_json(), "plot": str(picture) if stage else None}, indent=2))
        return
    click.echo(as_text(comparison))
    click.echo(f"\nthe losses are drawn in {picture}" if stage else "\nnone of them has trained yet: nothing is drawn")
