"""`internvl data`: a group whose subcommands are imported one by one, when they run."""

from importlib import import_module
from typing import NamedTuple

import click


class Subcommand(NamedTuple):
    """Where a subcommand is, as `module:attribute`, and what a list of subcommands says of it."""

    place: str
    summary: str


SUBCOMMANDS = {
    "index": Subcommand("internvl_trainer.curation.commands.index:index", "Measure every sample and keep the result."),
    "check": Subcommand("internvl_trainer.curation.commands.check:check", "Read everything once, report bad samples."),
    "report": Subcommand("internvl_trainer.curation.commands.report:report", "Show what a mixture consists of."),
    "filter": Subcommand("internvl_trainer.curation.commands.filter:filter_", "Sort out samples of low quality."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it runs, and none of them to list what there is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all subcommands."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand; None for an unknown name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, _, attribute = SUBCOMMANDS[cmd_name].place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), f"{SUBCOMMANDS[cmd_name].place} is no click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands by their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.summary) for name, subcommand in SUBCOMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Prepare, check and filter the data that stages train on."""
