"""The ledger of attempts: never two live jobs of one stage.

An attempt is opened on record first, then its job is created under a name that is fixed by the attempt's number. It
is closed on record only when its job has finished or is gone and none of its pods is alive; only then may the next be
opened. The record is written under the resourceVersion that was read, so of two operators only one can open it.
"""

from internvl_operator.api.status import JobRef, StageState, StageStatus, TrainingStatus
from internvl_operator.domain.actions import job_name
from internvl_operator.domain.state import AttemptKey, ChildJob, Observed

KEPT_FINISHED_JOBS = 3
"""Finished jobs of a stage that are kept, with their failed pods' logs; older ones are deleted."""

MAX_ATTEMPTS = 999
"""Three digits of the attempt fit into a pod's name."""

JOB_API_VERSION = "kubeflow.org/v1"
JOB_KIND = "PyTorchJob"


def caught_up(stage: StageStatus, observed: Observed) -> StageStatus:
    """The record, made to cover every attempt that is to be seen.

    It always does, but after the status was lost (a backup restored, a hand slipped). Then nobody knows what those
    attempts started from: they are taken as closed, so their jobs are stopped, and the next number is above theirs.
    """
    seen = [job.attempt for job in observed.jobs if job.stage == stage.name]
    seen += [key.attempt for key in observed.live_pods if key.stage == stage.name]
    newest = max(seen, default=0)
    if newest <= stage.attempt:
        return stage
    return stage.model_copy(update={"attempt": newest, "closed_attempt": newest, "stopping": None})


def opened(stage: StageStatus, run: str) -> dict[str, object]:
    """The fields of a stage's status that change when the next attempt is opened."""
    attempt = stage.attempt + 1
    return {
        "attempt": attempt,
        "state": StageState.STARTING,
        "stopping": None,
        "job_ref": JobRef(
            api_version=JOB_API_VERSION, kind=JOB_KIND, name=job_name(run, stage.name, attempt)
        ),
    }  # fmt: skip


def blockers(stage: StageStatus, observed: Observed) -> tuple[str, ...]:
    """What still lives of a closed stage's attempts: names of unfinished jobs and of pods that have not ended."""
    jobs = [job.name for job in observed.jobs if job.stage == stage.name and not job.is_finished]
    return (*jobs, *observed.live_pods_of(stage.name))


def must_create(stage: StageStatus, observed: Observed) -> bool:
    """Whether the open attempt's job is still to be created: on record, wanted, not there, and nothing in its way."""
    return (
        stage.is_open
        and stage.stopping is None
        and stage.state != StageState.FAILED
        and observed.job(AttemptKey(stage.name, stage.attempt)) is None
        and not blockers(stage, observed)
    )


def unwanted(status: TrainingStatus, observed: Observed) -> tuple[ChildJob, ...]:
    """Jobs to delete: live ones of any but the open attempt, and the oldest of many finished ones."""
    live = [job for job in observed.jobs if not job.is_finished and not _is_wanted(status.stage(job.stage), job)]
    stages = {job.stage for job in observed.jobs}
    old = [job for stage in sorted(stages) for job in _superfluous(status.stage(stage), observed)]
    return tuple(job for job in (*live, *old) if not job.deleting)


def _is_wanted(stage: StageStatus, job: ChildJob) -> bool:
    return stage.is_open and job.attempt == stage.attempt and stage.stopping is None


def _superfluous(stage: StageStatus, observed: Observed) -> list[ChildJob]:
    closed = [
        job for job in observed.jobs
        if job.stage == stage.name and job.is_finished and job.attempt <= stage.closed_attempt
        and not observed.live_pods.get(job.key)
    ]  # fmt: skip
    return sorted(closed, key=lambda job: job.attempt)[:-KEPT_FINISHED_JOBS]
