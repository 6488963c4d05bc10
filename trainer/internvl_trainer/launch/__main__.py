"""`python -m internvl_trainer.launch --config /etc/internvl/job.json`: what a trainer pod runs."""

import os
import sys
from functools import partial
from pathlib import Path

import click

from internvl_trainer.contract import environment
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.launch.output import Output, PlainOutput
from internvl_trainer.launch.plan import LaunchPlan, LaunchPlanError
from internvl_trainer.launch.supervisor import Supervisor
from internvl_trainer.launch.workers import Worker, fork_worker, spawn_worker


def launch(plan: LaunchPlan, output: Output) -> int:
    """Run one node's workers to their end; what they say goes to `output`.

    Returns:
        the exit code that stands for the node, by contract/exit_codes.py where a worker chose it.
    """
    supervisor = Supervisor(output, plan.shutdown_seconds)
    return supervisor.run([partial(_start_worker, plan, local_rank) for local_rank in range(plan.processes)])


def _start_worker(plan: LaunchPlan, local_rank: int) -> Worker:
    worker_environment = plan.worker_environment(local_rank, os.environ)
    rank = plan.rank(local_rank)
    if _has_accelerators():
        command = [sys.executable, "-m", "internvl_trainer.train", "--config", str(plan.config)]
        return spawn_worker(rank, worker_environment, command)
    from internvl_trainer.train.main import preload, run

    preload()
    return fork_worker(rank, worker_environment, partial(run, plan.config))


def _has_accelerators() -> bool:
    """Whether workers will use CUDA, which a fork would break. Loads torch, and nothing of it that starts threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    return torch.cuda.is_available()


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True, help="The job config, a JSON file.")
@click.option("--nodes", envvar=environment.NODES, default=1, show_default=True, help="Nodes of the job.")
@click.option("--node-rank", envvar=environment.NODE_RANK, default=0, show_default=True, help="This node, from 0.")
@click.option(
    "--processes", envvar=environment.PROCESSES_PER_NODE, default=1, show_default=True, help="Workers per node."
)
@click.option("--master-addr", envvar=environment.MASTER_ADDR, default="127.0.0.1", show_default=True)
@click.option("--master-port", envvar=environment.MASTER_PORT, default=29500, show_default=True)
@click.option(
    "--scratch", envvar=environment.SCRATCH, default="/tmp/internvl", show_default=True,
    type=click.Path(path_type=Path), help="Node-local folder for checkpoints on their way and cached data.",
)  # fmt: skip
@click.option(
    "--grace-seconds", envvar=environment.GRACE_SECONDS, default=30.0, show_default=True,
    help="Time from SIGTERM to SIGKILL.",
)  # fmt: skip
def main(**options: object) -> None:
    """Start this node's workers and wait for them. The exit code is that of the first worker that failed."""
    try:
        plan = LaunchPlan(**options)  # type: ignore[arg-type]
    except LaunchPlanError as error:
        click.echo(f"cannot launch: {error}", err=True)
        sys.exit(ExitCode.INVALID_CONFIG)
    sys.exit(launch(plan, PlainOutput(sys.stdout.buffer)))


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing is left to do, and taking the interpreter down with torch in it takes a second of CPU and more.
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
