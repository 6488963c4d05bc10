"""`internvl data`: a group whose subcommands are imported one by one, when they run."""

import click

from internvl_trainer.checkpoint.lazy_group import LazyGroup, Subcommand

SUBCOMMANDS = {
    "index": Subcommand("internvl_trainer.curation.commands.index:index", "Measure every sample and keep the result."),
    "check": Subcommand("internvl_trainer.curation.commands.check:check", "Read everything once, report bad samples."),
    "report": Subcommand("internvl_trainer.curation.commands.report:report", "Show what a mixture consists of."),
    "filter": Subcommand("internvl_trainer.curation.commands.filter:filter_", "Sort out samples of low quality."),
}


@click.command(cls=LazyGroup, subcommands=SUBCOMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Prepare, check and filter the data that stages train on."""
