"""The command line. Heavy parts are imported inside the commands, so that --help answers at once."""

from preceptor.cli.app import cli, main

__all__ = ["cli", "main"]
