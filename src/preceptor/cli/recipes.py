"""The commands about recipes: which ship, what they say, and what can be set."""

import click

from preceptor.core.errors import ConfigError


@click.group(invoke_without_command=True)
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
