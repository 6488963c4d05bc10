"""Whether a job's processes can share its model: what workers would refuse, said once and before torch is loaded."""

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.layout import layout_problems
from internvl_trainer.contract.pipeline import job_balance_problem
from internvl_trainer.launch.plan import LaunchPlanError


def check_grid(job: JobConfig, processes: int | None = None) -> None:
    """Refuse a layout that the model cannot be cut to, or for which there are too many or too few processes.

    Args:
        job: whose model, layout and partition.
        processes: how many are to be started; None: as many as the layout needs.

    Raises:
        LaunchPlanError: names every count and its possible sizes.
    """
    layout = job.layout
    problems = layout_problems(job.model, layout, job.partition)
    if problems:
        raise LaunchPlanError(f"{job.model.name}: " + "; ".join(map(str, problems)))
    unbalanced = job_balance_problem(job)
    if unbalanced is not None:
        raise LaunchPlanError(f"{job.model.name}: {unbalanced}")
    if processes is not None and processes != layout.world:
        raise LaunchPlanError(
            f"--processes is {processes}, but the layout (tensor {layout.tensor} x pipeline {layout.pipeline} x data "
            f"{layout.data}) needs {layout.world}; leave --processes out, or change it by --set layout.data=... or "
            "another of the three"
        )
