"""The `internvl` command: one group, joined from what the installed packages register as `internvl.commands`.

Each command is imported when it is asked for, so the operator's commands work where torch is not installed, and a
command whose packages are missing names the extra to install.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

ENTRY_POINT_GROUP = "internvl.commands"

DISTRIBUTION = "internvl-operator"
EXTRAS = {"internvl_operator": "operator", "internvl_trainer": "trainer"}
"""Which extra of our distribution holds the dependencies of a package's commands."""


class MissingExtraError(click.ClickException):
    """A command is registered, but a module that it needs is not installed."""

    exit_code = 3

    def __init__(self, command: str, module: str, extra: str | None) -> None:
        wanted = f"{DISTRIBUTION}[{extra}]" if extra else module
        super().__init__(
            f"`internvl {command}` needs the module {module}, which is not installed; run: pip install '{wanted}'"
        )


class JoinedCommands(click.Group):
    """A group whose commands are entry points, loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all registered commands."""
        return sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command.

        Raises:
            MissingExtraError: a module it imports is not installed.
        """
        entry = _entry(cmd_name)
        if entry is None:
            return None
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            raise _missing(entry, error) from error
        assert isinstance(command, click.Command), f"{entry.value} is no click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, also those that cannot be loaded here."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._short_help(ctx, name)) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a module that it misses only while it runs is reported in the same way.

        Raises:
            MissingExtraError: see `get_command`.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            entry = _entry(ctx.invoked_subcommand or "")
            if entry is None:
                raise
            raise _missing(entry, error) from error

    def _short_help(self, ctx: click.Context, name: str) -> str:
        try:
            command = self.get_command(ctx, name)
        except MissingExtraError as error:
            return f"(not available: {error.message})"
        return command.get_short_help_str(limit=100) if command else ""


def _entry(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)


def _missing(entry: EntryPoint, error: ModuleNotFoundError) -> Exception:
    """What to raise: a module of our own that is missing is a defect, anything else an extra that is not installed."""
    module = (error.name or "").partition(".")[0]
    if not module or module in EXTRAS or module == __name__.partition(".")[0]:
        return error
    return MissingExtraError(entry.name, module, EXTRAS.get(entry.module.partition(".")[0]))


@click.command(cls=JoinedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=DISTRIBUTION)
def main() -> None:
    """Train InternVL-2.5 on Kubernetes."""
