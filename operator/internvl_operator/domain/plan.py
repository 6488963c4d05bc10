"""`plan`: all that decides what the operator does next. Pure; the handlers observe before it and apply after it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from internvl_operator.api.base import whole_second
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import Condition, ConditionType, TrainingStatus
from internvl_operator.domain import attempts, indexing, job_config, stages
from internvl_operator.domain import status as statuses
from internvl_operator.domain.actions import (
    Action,
    CreateIndexJob,
    CreateJob,
    DeleteIndexJob,
    DeleteJob,
    PostEvent,
    Requeue,
    UpdateStatus,
)
from internvl_operator.domain.problems import SpecProblem
from internvl_operator.domain.situation import Situation
from internvl_operator.domain.stages import Expansion
from internvl_operator.domain.state import Observed


def plan(
    spec: TrainingSpec, observed: Observed, now: datetime, *, default_image: str = "", progress_seconds: float = 5.0
) -> list[Action]:
    """What to do about one run, in order; nothing where all is as it should be.

    First what is to be on record and the news of it, then what follows from the record: a job for the open attempt or
    for the index that a stage waits for, no other live job.
    So a crash between any two actions loses nothing: the next pass finds the record and does the rest.

    Args:
        spec: the run as applied.
        observed: what this pass has seen, read in the order that `domain.state` asks for.
        now: aware.
        default_image: the platform's trainer image, for specs that name none.
        progress_seconds: least time between two status writes that bring nothing but newer progress.
    """
    if observed.deleting:
        return []
    moment = whole_second(now)
    expansion = stages.expand(spec, default_image=default_image)
    desired, situation = statuses.desired(spec, expansion, observed, moment)
    actions: list[Action] = []
    if _is_worth_writing(spec, expansion, observed, moment, desired, progress_seconds):
        actions.append(UpdateStatus(desired))
    # Events follow from the change of the record: told later than the first effect that fails, they would be lost.
    actions += _events(observed.status, desired)
    actions += _effects(spec, expansion, desired, observed)
    actions += _requeue(situation)
    return actions


def refuse(problems: Sequence[SpecProblem], observed: Observed, now: datetime) -> list[Action]:
    """What to do about a run whose spec cannot be read at all: say so, and leave alone what it may have begun.

    Args:
        problems: at least one; what is wrong with the spec.
        observed: run, generation and status are all that counts.
        now: aware.
    """
    refused, _ = statuses.refused(problems, observed, whole_second(now))
    if observed.deleting or refused == observed.status:
        return []
    return [UpdateStatus(refused), *_events(observed.status, refused)]


def _is_worth_writing(
    spec: TrainingSpec,
    expansion: Expansion,
    observed: Observed,
    now: datetime,
    desired: TrainingStatus,
    progress_seconds: float,
) -> bool:
    recorded = observed.status
    if desired == recorded:
        return False
    if recorded.progress is None or desired.progress is None:
        return True
    if (recorded.progress.stage, recorded.progress.attempt) != (desired.progress.stage, desired.progress.attempt):
        return True
    without_reports, _ = statuses.desired(spec, expansion, replace(observed, progress={}), now)
    since = desired.progress.last_report_time - recorded.progress.last_report_time
    return without_reports != recorded or since.total_seconds() >= progress_seconds


def _effects(
    spec: TrainingSpec, expansion: Expansion, desired: TrainingStatus, observed: Observed
) -> Iterator[Action]:  # fmt: skip
    for job in attempts.unwanted(desired, observed):
        yield DeleteJob(job.name, job.uid, job.stage, job.attempt)
    for index in indexing.unwanted(desired, observed):
        yield DeleteIndexJob(index.name, index.uid)
    if desired.is_finished or expansion.problems:
        return
    for stage in expansion.stages:
        status = desired.stage(stage.name)
        if attempts.must_create(status, observed):
            yield CreateJob(observed.run, stage, job_config.build(stage, status, observed.run))
        if indexing.must_create(status, observed):
            yield CreateIndexJob(
                observed.run,
                indexing.job_name(observed.run.name, stage),
                stage,
                job_config.before_its_first_attempt(stage, observed.run),
                retries=spec.run_policy.retry.limit,
                timeout_seconds=spec.run_policy.attempt_timeout_seconds or None,
            )


def _events(recorded: TrainingStatus, desired: TrainingStatus) -> Iterator[PostEvent]:
    """One Event for each condition that has a new reason, and one for each new failure."""
    for condition in desired.conditions:
        if condition.message and _is_news(recorded.condition(condition.type), condition):
            failed = condition.type is ConditionType.FAILED
            refused = condition.type is ConditionType.ACCEPTED and condition.status == "False"
            yield PostEvent(condition.reason, condition.message, warning=failed or refused)
    for stage in desired.stages:
        failure = stage.last_failure
        if failure is not None and failure != recorded.stage(stage.name).last_failure:
            text = f"stage {failure.stage} attempt {failure.attempt}: {failure.message}"
            yield PostEvent(failure.reason, text, warning=True)


def _is_news(before: Condition | None, after: Condition) -> bool:
    # One checkpoint after another is ready for the same reason; elsewhere a new wording is no news.
    is_other_checkpoint = after.type is ConditionType.CHECKPOINT_READY and before and before.message != after.message
    return before is None or before.reason != after.reason or bool(is_other_checkpoint)


def _requeue(situation: Situation) -> Iterator[Requeue]:
    if situation.look_again is not None:
        yield Requeue(max(situation.look_again, 0.0))
