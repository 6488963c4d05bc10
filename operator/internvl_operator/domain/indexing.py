"""Before a stage's first attempt its data is indexed, by one plain Job for all stages of a run with the same data.

nothing on record --> Indexing (on record, then the Job is created) --> Indexed: the first attempt may be opened
                                                                    \\-> Failed: so has the run

The Job's name is a digest of what it indexes, so there is nothing to remember about it: whoever looks finds it, one
that somebody deleted is made again, and one that indexes what no stage asks for any more is deleted. Its success is
kept on record, from where on the Job itself is not needed. Two Jobs that overlap do no harm: an index is written once
or not at all, under a name that is a digest again.

The Job controller retries pods, by the rules of `domain.retry` as far as a Job can say them.
"""

import hashlib
import json
from typing import NamedTuple

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import DataIndex, DataIndexState, StageState, StageStatus, TrainingStatus
from internvl_operator.domain import retry
from internvl_operator.domain.situation import Situation, failed
from internvl_operator.domain.stages import StagePlan
from internvl_operator.domain.state import IndexJob, JobPhase, Observed, PodFailure

_LOOK_FOR_PODS_SECONDS = 5.0
_NOT_INDEXED = {"seed", "workers", "repeat_mode"}
"""Settings of the data that say in which order or how fast it is read, and change nothing about a single sample."""
_NOT_STORED = {"ca_file", "checksums"}
"""Settings of the storage that say how its answers and uploads are verified, not which storage it is."""


class Step(NamedTuple):
    """A stage's new record, and how things stand; no situation: its data is indexed."""

    status: StageStatus
    situation: Situation | None


def job_name(run: str, plan: StagePlan) -> str:
    """`<run>-index-<digest>`, at most 47 characters: the same for stages with the same data, and at every look."""
    indexed = {
        "data": plan.data.model_dump(mode="json", exclude=_NOT_INDEXED),
        "model": plan.model.model_dump(mode="json"),
        "storage": plan.storage.model_dump(mode="json", exclude=_NOT_STORED),
    }
    digest = hashlib.sha256(json.dumps(indexed, sort_keys=True).encode()).hexdigest()
    return f"{run}-index-{digest[:10]}"


def advance(stage: StageStatus, plan: StagePlan, observed: Observed) -> Step:
    """Take the index of a stage's data as far as what is seen allows."""
    name = job_name(observed.run.name, plan)
    if _is_indexed(name, observed.status):
        return Step(_recorded(stage, name, DataIndexState.INDEXED), None)
    job = observed.index_job(name)
    if job is not None and job.phase is JobPhase.SUCCEEDED:
        return Step(_recorded(stage, name, DataIndexState.INDEXED), None)
    if job is not None and job.phase is JobPhase.FAILED:
        status = _recorded(stage, name, DataIndexState.FAILED).model_copy(update={"state": StageState.FAILED})
        return Step(status, _how_it_failed(stage, job, observed.index_failures.get(job.uid, ())))
    status = _recorded(stage, name, DataIndexState.INDEXING).model_copy(update={"state": StageState.INDEXING})
    if job is None and observed.rejection:
        return Step(status, Situation(Reason.JOB_REJECTED, observed.rejection))
    return Step(status, Situation(Reason.INDEXING_DATA, _how_it_goes(stage, name, job, observed)))


def given_up(stage: StageStatus) -> StageStatus:
    """The record of a stage whose run is suspended: an index that is not finished is made anew when it resumes."""
    if stage.data_index is None or stage.data_index.state is DataIndexState.INDEXED:
        return stage
    return stage.model_copy(update={"data_index": None})


def alive(observed: Observed) -> tuple[str, ...]:
    """Names of index Jobs that have not ended, and of pods of any."""
    return (*(job.name for job in observed.index_jobs if not job.is_finished), *observed.live_index_pods)


def must_create(stage: StageStatus, observed: Observed) -> bool:
    """Whether the Job that is on record is still to be created."""
    return _is_wanted(stage) and stage.data_index is not None and observed.index_job(stage.data_index.job) is None


def unwanted(status: TrainingStatus, observed: Observed) -> tuple[IndexJob, ...]:
    """Jobs to delete: live ones that no stage waits for. Finished ones stay, for their logs."""
    wanted = {stage.data_index.job for stage in status.stages if stage.data_index is not None and _is_wanted(stage)}
    return tuple(
        job for job in observed.index_jobs if not job.is_finished and not job.deleting and job.name not in wanted
    )


def _is_wanted(stage: StageStatus) -> bool:
    return (
        stage.state is StageState.INDEXING
        and stage.data_index is not None
        and stage.data_index.state is DataIndexState.INDEXING
    )


def _is_indexed(name: str, status: TrainingStatus) -> bool:
    return any(stage.data_index == DataIndex(job=name, state=DataIndexState.INDEXED) for stage in status.stages)


def _recorded(stage: StageStatus, name: str, state: DataIndexState) -> StageStatus:
    return stage.model_copy(update={"data_index": DataIndex(job=name, state=state)})


def _how_it_failed(stage: StageStatus, job: IndexJob, pods: tuple[PodFailure, ...]) -> Situation:
    title = f"stage {stage.name}: Job {job.name} could not index the data"
    reason = Reason.DATA_INVALID if job.is_hopeless else Reason.RETRY_LIMIT_EXCEEDED
    if not pods:
        return failed(reason, f"{title}: {job.message or 'none of its pods is left to say why'}")
    return failed(reason, f"{title}: {_told(pods)}")


def _how_it_goes(stage: StageStatus, name: str, job: IndexJob | None, observed: Observed) -> str:
    title = f"stage {stage.name}: Job {name}"
    if job is None:
        return f"{title} is being created"
    if job.deleting:
        return f"{title} is being deleted; it is made again then"
    goes = "indexes the data" if job.phase is JobPhase.RUNNING else "is there, no pod of it runs yet"
    pods = observed.index_failures.get(job.uid, ())
    return f"{title} {goes}; {_told(pods)}" if pods else f"{title} {goes}"


def _told(pods: tuple[PodFailure, ...]) -> str:
    """How the last of them ended: there is one at a time, and a failure that no retry cures is the last."""
    last = max(pods, key=lambda pod: (pod.finished_at is not None, pod.finished_at, pod.pod))
    count = f"{len(pods)} pods failed, the last: " if len(pods) > 1 else ""
    return f"{count}pod {last.pod}: {retry.describe(last)}"
