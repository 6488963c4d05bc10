"""The trainer's part of the `internvl` command. Cheap to import: torch is loaded by what needs it, when it runs."""

import socket
import sys
from pathlib import Path

import click

from internvl_trainer.checkpoint.cli import checkpoint
from internvl_trainer.contract.exit_codes import ExitCode

__all__ = ["checkpoint", "train"]


@click.command()
@click.option("--config", type=click.Path(exists=True, path_type=Path), required=True, help="The job config, as JSON.")
@click.option("--processes", default=1, show_default=True, help="Workers: tensor x pipeline x data of the layout.")
@click.option("--scratch", type=click.Path(path_type=Path), default=Path("/tmp/internvl"), show_default=True)
def train(config: Path, processes: int, scratch: Path) -> None:
    """Train one stage on this machine, with or without accelerators."""
    from internvl_trainer.launch.__main__ import launch
    from internvl_trainer.launch.plan import LaunchPlan

    try:
        plan = LaunchPlan(
            config=config,
            nodes=1,
            node_rank=0,
            processes=processes,
            master_addr="127.0.0.1",
            master_port=_free_port(),
            scratch=scratch,
            grace_seconds=60,
        )
        sys.exit(launch(plan))
    except ImportError as error:
        click.echo(f"training needs the extra 'trainer' (pip install 'internvl-operator[trainer]'): {error}", err=True)
        sys.exit(ExitCode.INVALID_CONFIG)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
