"""The trainer's part of the `internvl` command. Cheap to import: torch is loaded by what needs it, when it runs."""

import socket
import sys
import tempfile
from pathlib import Path

import click

from internvl_trainer.contract.exit_codes import ExitCode


@click.command()
@click.option("--config", type=click.Path(exists=True, path_type=Path), required=True, help="The job config, as JSON.")
@click.option(
    "--processes", default=1, show_default=True, help="Workers, one per accelerator: tensor x pipeline x data."
)
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Folder for checkpoints on their way and cached data; own one."
)
def train(config: Path, processes: int, scratch: Path | None) -> None:
    """Train one stage on this machine, with or without accelerators.

    Example: internvl train --config trainer/examples/tiny.json --processes 4
    """
    from internvl_trainer.launch.__main__ import launch
    from internvl_trainer.launch.plan import LaunchPlan, LaunchPlanError

    with tempfile.TemporaryDirectory(prefix="internvl-") as folder:
        try:
            plan = LaunchPlan(
                config=config,
                nodes=1,
                node_rank=0,
                processes=processes,
                master_addr="127.0.0.1",
                master_port=_free_port(),
                scratch=scratch or Path(folder),
                grace_seconds=60,
            )
        except LaunchPlanError as error:
            click.echo(f"cannot launch: {error}", err=True)
            sys.exit(ExitCode.INVALID_CONFIG)
        code = launch(plan)
    sys.exit(code)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
