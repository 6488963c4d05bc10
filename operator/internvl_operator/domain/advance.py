"""One stage, one step on: what its record becomes, given what is seen. The heart of `plan`, and free of effects.

no attempt open --(data indexed, sources ready, pause over, nothing alive)--> attempt N on record --> job runs
job succeeded --(final checkpoint verified)--> stage done
job failed or gone, and no pod alive --> attempt N closed --> no attempt open, or the run has failed
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import Failure, Restarts, StageState, StageStatus
from internvl_operator.domain import attempts, gate, indexing, origins, queries, retry, stopping
from internvl_operator.domain.retry import Ending, EndingKind
from internvl_operator.domain.situation import Situation, failed
from internvl_operator.domain.stages import StagePlan
from internvl_operator.domain.state import AttemptKey, ChildJob, JobPhase, Observed
from internvl_trainer.contract.base import Component

_LOOK_FOR_PODS_SECONDS = 5.0


@dataclass(frozen=True)
class StageView:
    """One stage within what this pass sees."""

    spec: TrainingSpec
    plan: StagePlan
    previous: StageStatus | None
    """The stage before, which is done; None for the first."""
    observed: Observed
    now: datetime


class Step(NamedTuple):
    """A stage's new record, and how things stand; no situation: the stage is done."""

    status: StageStatus
    situation: Situation | None


def advance(view: StageView, stage: StageStatus) -> Step:
    """Take a stage that is not done as far as what is seen allows: close its attempt, open the next, or wait."""
    stage = attempts.caught_up(stage, view.observed)
    if stage.is_open:
        step = _follow(view, stage)
        if step.situation is None or step.situation.failed or step.status.is_open:
            return step
        stage = step.status
    return _open_next(view, stage)


# ---- an attempt is open --------------------------------------------------------------------------------------------


def _follow(view: StageView, stage: StageStatus) -> Step:
    key = AttemptKey(stage.name, stage.attempt)
    job = view.observed.job(key)
    if job is not None and job.phase is JobPhase.SUCCEEDED:
        return _pass_gate(view, _seen(stage, job), job)
    if job is not None and job.phase is not JobPhase.FAILED:
        return _watch(view, _seen(stage, job), job)
    if alive := view.observed.live_pods.get(key):
        return _wait_for(stage, alive)
    if job is not None:
        return _close(stage, _how_it_ended(view, stage, job))
    if stage.stopping is not None or (stage.job_ref is not None and stage.job_ref.uid is not None):
        return _close(stage, _how_it_ended(view, stage, None))
    if view.spec.suspend:
        # Opened on record, and suspended before its job was created.
        return _close(stage, retry.SUSPENDED)
    if blocked_by := attempts.blockers(stage, view.observed):
        return _wait_for(stage, blocked_by)
    if view.observed.rejection:
        return Step(stage, Situation(Reason.JOB_REJECTED, view.observed.rejection))
    return Step(stage, Situation(Reason.STAGE_STARTING, f"{_title(stage)}: its job is being created"))


def _seen(stage: StageStatus, job: ChildJob) -> StageStatus:
    reference = stage.job_ref and stage.job_ref.model_copy(update={"name": job.name, "uid": job.uid})
    return stage.model_copy(update={"job_ref": reference})


def _pass_gate(view: StageView, stage: StageStatus, job: ChildJob) -> Step:
    if alive := view.observed.live_pods.get(job.key):
        return _wait_for(stage, alive)
    result = view.observed.gates.get(job.key)
    return Step(
        *gate.judge(
            stage,
            result,
            succeeded_at=job.finished_at or view.now,
            patience_seconds=view.spec.run_policy.checkpoint_timeout_seconds,
            now=view.now,
        )
    )


def _watch(view: StageView, stage: StageStatus, job: ChildJob) -> Step:
    reason = stage.stopping or stopping.reason_to_stop(view.spec, job, view.now)
    if reason is not None:
        stage = stage.model_copy(update={"stopping": reason})
        said = Reason.SUSPENDING if reason is Reason.SUSPENDED else Reason.RESTARTING
        return Step(
            stage, Situation(said, f"{_title(stage)} is being stopped: {reason}", look_again=_LOOK_FOR_PODS_SECONDS)
        )
    look_again = stopping.seconds_left(view.spec, job, view.now)
    if job.phase is JobPhase.RUNNING:
        stage = stage.model_copy(update={"state": StageState.RUNNING})
        return Step(stage, Situation(Reason.STAGE_RUNNING, f"{_title(stage)} runs", look_again=look_again))
    text = f"{_title(stage)}: its job exists, not all of its pods run"
    return Step(stage, Situation(Reason.STAGE_STARTING, text, look_again=look_again))


def _how_it_ended(view: StageView, stage: StageStatus, job: ChildJob | None) -> Ending:
    key = AttemptKey(stage.name, stage.attempt)
    if stage.stopping is Reason.SUSPENDED:
        return retry.SUSPENDED
    if stage.stopping is not None:
        limit = view.spec.run_policy.attempt_timeout_seconds
        return retry.overdue(key, f"still running {limit} s after its job's creation", view.now)
    return retry.judge(key, job, view.observed.pod_failures.get(key, ()), view.now)


def _close(stage: StageStatus, ending: Ending) -> Step:
    counts, free = stage.restarts, ending.kind is EndingKind.INTERRUPTED
    closed = stage.model_copy(
        update={
            "state": StageState.RESTARTING,
            "closed_attempt": stage.attempt,
            "stopping": None,
            "restarts": Restarts(failures=counts.failures + (not free), interruptions=counts.interruptions + free),
            "last_failure": ending.failure or stage.last_failure,
        }
    )
    said = _text(ending.failure) if ending.failure else f"{_title(stage)} was suspended"
    if ending.kind is EndingKind.FATAL:
        return _failed(closed, Reason.USER_ERROR, said)
    return Step(closed, Situation(Reason.RESTARTING, said))


# ---- no attempt is open --------------------------------------------------------------------------------------------


def _open_next(view: StageView, stage: StageStatus) -> Step:
    if retry.is_exhausted(stage, view.spec.run_policy.retry):
        return _failed(stage, Reason.RETRY_LIMIT_EXCEEDED, _exhausted(view, stage))
    if view.spec.suspend:
        return _suspended(view, stage)
    if blocked_by := attempts.blockers(stage, view.observed):
        return _wait_for(stage, blocked_by)
    start = _start(view, stage)
    if start.situation is not None and start.situation.failed:
        return _failed(stage, start.situation.reason, start.situation.message)
    # What a stage starts from may take days to appear, and its data can be indexed meanwhile.
    if not stage.has_begun:
        stage, situation = indexing.advance(stage, view.plan, view.observed)
        if situation is not None:
            return Step(stage, situation)
    if start.situation is not None:
        return _lacking(stage, start.situation, start.lacking)
    not_before = retry.not_before(stage, view.spec.run_policy.retry.backoff_seconds)
    if not_before is not None and view.now < not_before:
        pause = (not_before - view.now).total_seconds()
        last = _text(stage.last_failure) if stage.last_failure else "stopped"
        return Step(stage, Situation(Reason.RESTARTING, f"{last}; the next attempt follows", look_again=pause))
    stage = stage.model_copy(
        update={
            **attempts.opened(stage, view.observed.run.name),
            "initialised_from": start.origins,
            "start_time": stage.start_time or view.now,
        }
    )
    return Step(stage, Situation(Reason.STAGE_STARTING, f"{_title(stage)}: its job is being created"))


def _suspended(view: StageView, stage: StageStatus) -> Step:
    stage = indexing.given_up(stage).model_copy(update={"state": StageState.PENDING})
    if alive := indexing.alive(view.observed):
        text = f"stage {stage.name}: waiting for {_named(alive)} to end"
        return Step(stage, Situation(Reason.SUSPENDING, text, look_again=_LOOK_FOR_PODS_SECONDS))
    return Step(stage, Situation(Reason.SUSPENDED, f"suspended at stage {stage.name}; nothing runs"))


def _start(view: StageView, stage: StageStatus) -> origins.Start:
    if stage.has_begun:
        return origins.Start(stage.initialised_from)
    if view.previous is not None:
        return origins.from_stage(view.previous, view.observed.run)
    return origins.from_sources(queries.run_sources(view.spec), view.observed.sources)


def _lacking(stage: StageStatus, situation: Situation, component: Component | None) -> Step:
    state = StageState.WAITING_FOR_VISION if component is Component.VISION else StageState.PENDING
    return Step(stage.model_copy(update={"state": state}), situation)


# ---- words ---------------------------------------------------------------------------------------------------------


def _failed(stage: StageStatus, reason: Reason, message: str) -> Step:
    return Step(stage.model_copy(update={"state": StageState.FAILED}), failed(reason, message))


def _wait_for(stage: StageStatus, names: tuple[str, ...]) -> Step:
    text = f"stage {stage.name}: waiting for {_named(names)} to end"
    return Step(stage, Situation(Reason.WAITING_FOR_PODS, text, look_again=_LOOK_FOR_PODS_SECONDS))


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _exhausted(view: StageView, stage: StageStatus) -> str:
    counted = f"{stage.restarts.failures} failures in {stage.attempt} attempts"
    last = f"; the last: {_text(stage.last_failure)}" if stage.last_failure else ""
    return f"stage {stage.name}: {counted}, retry.limit is {view.spec.run_policy.retry.limit}{last}"


def _title(stage: StageStatus) -> str:
    return f"stage {stage.name} attempt {stage.attempt}"


def _text(failure: Failure) -> str:
    where = f" in pod {failure.pod}" if failure.pod else ""
    return f"stage {failure.stage} attempt {failure.attempt} ended{where}: {failure.message}"
