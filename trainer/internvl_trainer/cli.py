"""The trainer's part of the `internvl` command. Cheap to import: torch is loaded by what needs it, when it runs."""

import socket
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import CONFIG_FILE, JobConfig
from internvl_trainer.launch.plan import LaunchPlan, LaunchPlanError


@click.command()
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="The job: YAML, or JSON. docs/tasks/train-locally.md says what it may leave out.",
)  # fmt: skip
@click.option(
    "--set", "changes", multiple=True, metavar="FIELD=VALUE",
    help="Replace a value of the job, such as optimization.steps=10. Can be given several times.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(min=1),
    help="Workers, one per accelerator; the default, as many as the layout needs, is the only number that can run.",
)  # fmt: skip
@click.option(
    "--scratch", type=click.Path(path_type=Path),
    help="Folder for checkpoints on their way and cached data; default: one that is removed at the end.",
)  # fmt: skip
def train(config: Path, changes: tuple[str, ...], processes: int | None, scratch: Path | None) -> None:
    """Train one stage on this machine, with or without accelerators.

    The exit code says how it ended: 0 done, 2 wrong job or data, 30 interrupted, others in
    docs/reference/exit-codes.md.

    Examples:

    \b
      internvl train --config trainer/examples/tiny.yaml
      internvl train --config trainer/examples/tiny.yaml --set layout.tensor=2 --set layout.pipeline=2
    """
    from internvl_trainer.launch.job_file import JobFileError, read_job
    from internvl_trainer.launch.process_grid import check_grid

    with tempfile.TemporaryDirectory(prefix="internvl-") as folder:
        try:
            job = read_job(config, changes, now=datetime.now(UTC))
            check_grid(job, processes)
            document = Path(folder) / CONFIG_FILE
            document.write_bytes(job.to_bytes())
            plan = LaunchPlan(
                config=document,
                nodes=1,
                node_rank=0,
                processes=job.layout.world,
                master_addr="127.0.0.1",
                master_port=_free_port(),
                scratch=scratch or Path(folder),
                grace_seconds=60,
                live=sys.stdout.isatty(),
            )
        except (JobFileError, LaunchPlanError) as error:
            click.echo(f"cannot launch: {error}", err=True)
            sys.exit(ExitCode.INVALID_CONFIG)
        click.echo(_summary(job))
        code = _launch(plan)
    sys.exit(code)


def _launch(plan: LaunchPlan) -> int:
    from internvl_trainer.launch.__main__ import launch
    from internvl_trainer.launch.output import PlainOutput
    from internvl_trainer.launch.terminal import on_terminal

    if not plan.live:
        return launch(plan, PlainOutput(sys.stdout.buffer))
    with on_terminal(Console()) as output:
        return launch(plan, output)


def _summary(job: JobConfig) -> str:
    layout, optimization = job.layout, job.optimization
    return (
        f"{job.model.name}: {optimization.steps} steps of {optimization.global_batch} packs, "
        f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}; "
        f"checkpoints below {job.storage.uri}/{job.run.uid}"
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
