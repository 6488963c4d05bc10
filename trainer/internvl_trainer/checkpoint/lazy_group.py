"""Command groups that import a subcommand's module when it runs, and none of them to list what there is."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Subcommand(NamedTuple):
    """Where a subcommand is, as `module:attribute`, and what a list of subcommands says of it."""

    place: str
    summary: str


class LazyGroup(click.Group):
    """A group of subcommands that are imported one by one.

    Args:
        subcommands: by name, in the order in which they are listed.
    """

    def __init__(self, *arguments: Any, subcommands: Mapping[str, Subcommand], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._subcommands = subcommands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all subcommands."""
        return list(self._subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand; None for an unknown name."""
        if cmd_name not in self._subcommands:
            return None
        module, _, attribute = self._subcommands[cmd_name].place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), f"{self._subcommands[cmd_name].place} is no click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands by their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.summary) for name, subcommand in self._subcommands.items()])
