"""`internvl checkpoint`: look at checkpoints where they lie, and hand them on. Needs neither torch nor a cluster."""

import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from internvl_trainer.checkpoint.lazy_group import LazyGroup, Subcommand
from internvl_trainer.contract import keys

PIPE_WIDTH = 1000
"""Columns of a table that no terminal bounds; more than an object key has."""

_COMMANDS = "internvl_trainer.checkpoint.commands"
SUBCOMMANDS = {
    "ls": Subcommand(f"{_COMMANDS}.ls:ls", "List the committed checkpoints of a run or a bucket."),
    "show": Subcommand(f"{_COMMANDS}.show:show", "Show what a checkpoint or a published component is."),
    "verify": Subcommand(f"{_COMMANDS}.verify:verify", "Read every byte and compare it with its digest."),
    "publish": Subcommand(f"{_COMMANDS}.publish:publish", "Offer a component, such as the ViT, to other runs."),
    "pin": Subcommand(f"{_COMMANDS}.pin:pin", "Keep a checkpoint from ever being removed."),
    "unpin": Subcommand(f"{_COMMANDS}.pin:unpin", "Let a pinned checkpoint go like any other."),
    "copy": Subcommand(f"{_COMMANDS}.copy:copy", "Copy a checkpoint, or parts of it, to another place."),
    "gc": Subcommand(f"{_COMMANDS}.gc:gc", "Find, and remove, what no run needs any more."),
}


def endpoint_options(prefix: str = "", of: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options by which a command finds an object store; credentials come from boto3's standard chain.

    Args:
        prefix: of the options' names.
        of: what their help says whose store it is.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(f"--{prefix}ca-file", help=f"PEM file that signs the endpoint's certificate{of}."),
            click.option(
                f"--{prefix}virtual-host-style",
                is_flag=True,
                help=f"Put the bucket into the host name, not the path{of}.",
            ),
            click.option(f"--{prefix}region", help=f"S3 region{of}; default: the environment's."),
            click.option(
                f"--{prefix}endpoint-url", help=f"S3-compatible endpoint{of}; default: the environment's, else AWS."
            ),
        ):
            command = option(command)
        return command

    return add


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command at an object store has: how to reach it, and the form of the output."""
    form = click.Choice(["table", "json"])
    output = click.option("--output", "-o", type=form, default="table", show_default=True)
    return endpoint_options()(output(command))


def manifest_uri(place: str) -> str:
    """The manifest of a checkpoint that is given by its folder or by its manifest."""
    return place if place.endswith(".json") else f"{place.rstrip('/')}/{keys.MANIFEST_NAME}"


def names_checkpoint(uri: str) -> bool:
    """Whether a manifest is called as those of checkpoints are; those of components have other names."""
    return uri.endswith(f"/{keys.MANIFEST_NAME}")


def table_console() -> Console:
    """Where tables are printed: as wide as the terminal; into a pipe or a file, lines are never broken."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


@click.command(cls=LazyGroup, subcommands=SUBCOMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def checkpoint() -> None:
    """Look at checkpoints in a bucket or in a folder, hand them on, and tidy up."""
