"""Benchmarks of the data path: python -m bench.data COMMAND."""

from importlib import import_module

import click

COMMANDS = ("images", "index", "loader", "packing", "resume")
"""Each is a module of this package with a command of the same name."""


class Benchmarks(click.Group):
    """Imports a benchmark when it is asked for: what one needs should not lie in the memory that another measures."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all benchmarks."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one benchmark; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"bench.data.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command), f"bench.data.{cmd_name} has no command of its name"
        return command


@click.command(cls=Benchmarks)
def main() -> None:
    """The data path against its peers, side by side in one run."""


if __name__ == "__main__":
    main()
