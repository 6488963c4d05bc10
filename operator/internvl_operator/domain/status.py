"""The whole status that a run ought to have, given what is seen: built anew in every pass, written where it differs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import (
    MAX_FAILURES,
    Condition,
    ConditionType,
    Failure,
    Phase,
    Progress,
    StageState,
    StageStatus,
    TrainingStatus,
)
from internvl_operator.domain import conditions, progress
from internvl_operator.domain.advance import StageView, advance
from internvl_operator.domain.problems import SpecProblem
from internvl_operator.domain.situation import Situation
from internvl_operator.domain.stages import Expansion
from internvl_operator.domain.state import AttemptKey, Observed

_GOING_ON = frozenset(
    {
        Reason.INDEXING_DATA,
        Reason.STAGE_STARTING,
        Reason.STAGE_RUNNING,
        Reason.RESTARTING,
        Reason.WAITING_FOR_PODS,
        Reason.WAITING_FOR_CHECKPOINT,
        Reason.SUSPENDING,
    }
)
"""Reasons under which Progressing is True: the run moves, or moves on without anybody's help."""

_DONE = Situation(Reason.ALL_STAGES_DONE, "every stage ended with a verified checkpoint")


def desired(
    spec: TrainingSpec, expansion: Expansion, observed: Observed, now: datetime
) -> tuple[TrainingStatus, Situation]:
    """What the status ought to be, and the situation that it tells of.

    Args:
        spec: as applied.
        expansion: what `stages.expand` made of it; while it has problems, no stage moves.
        observed: what this pass has seen.
        now: UTC, whole seconds.
    """
    recorded = observed.status
    if recorded.is_finished:
        ended = recorded.model_copy(update={"observed_generation": observed.generation})
        return ended, Situation(Reason.FINISHED, "the run has ended")
    if expansion.problems:
        return refused(expansion.problems, observed, now)
    stages, situation = _advance_all(spec, expansion, observed, now)
    return _derive(recorded, stages, situation, observed, now, accepted=True), situation


def refused(
    problems: Sequence[SpecProblem], observed: Observed, now: datetime
) -> tuple[TrainingStatus, Situation]:  # fmt: skip
    """The status of a run whose spec cannot be run or not even be read: no stage moves.

    Args:
        problems: at least one.
        observed: what this pass has seen; of it, run, generation and status count.
        now: UTC, whole seconds.
    """
    situation = Situation(problems[0].reason, "; ".join(map(str, problems)))
    recorded = observed.status
    return _derive(recorded, recorded.stages, situation, observed, now, accepted=False), situation


def _advance_all(
    spec: TrainingSpec, expansion: Expansion, observed: Observed, now: datetime
) -> tuple[tuple[StageStatus, ...], Situation]:  # fmt: skip
    """Advance the stage whose turn it is; those before it are done, those after it are left alone."""
    stages: list[StageStatus] = []
    situation: Situation | None = None
    for stage in spec.stages:
        status = observed.status.stage(stage.name)
        if situation is None and status.state is not StageState.SUCCEEDED:
            previous = stages[-1] if stages else None
            if status.is_open:
                status = progress.fold_stage(status, observed.progress.get(AttemptKey(stage.name, status.attempt)))
            status, situation = advance(StageView(spec, expansion.stage(stage.name), previous, observed, now), status)
        stages.append(status)
    return tuple(stages), situation or _DONE


def _derive(
    recorded: TrainingStatus,
    stages: tuple[StageStatus, ...],
    situation: Situation,
    observed: Observed,
    now: datetime,
    *,
    accepted: bool,
) -> TrainingStatus:
    current = next(
        (stage for stage in stages if stage.state is not StageState.SUCCEEDED), stages[-1] if stages else None
    )
    return TrainingStatus(
        observed_generation=observed.generation,
        phase=_phase(stages, current, situation),
        conditions=_conditions(recorded, stages, situation, observed.generation, now, accepted),
        current_stage=current.name if current else None,
        attempt=current.attempt if current else 0,
        stages_summary=f"{sum(stage.state is StageState.SUCCEEDED for stage in stages)}/{len(stages)}"
        if stages
        else "",
        progress=_progress(recorded, current, observed),
        stages=stages,
        failures=_ring(recorded, stages),
    )


def _progress(recorded: TrainingStatus, current: StageStatus | None, observed: Observed) -> Progress | None:
    """The newest report of the current attempt, else the last one of its stage: another stage's would mislead."""
    if current is None:
        return recorded.progress
    report = observed.progress.get(AttemptKey(current.name, current.attempt))
    newest = progress.fold_run(recorded.progress, report)
    if newest is None or newest.stage != current.name:
        return None
    return progress.at_end(newest, current) if current.state is StageState.SUCCEEDED else newest


def _conditions(
    recorded: TrainingStatus,
    stages: tuple[StageStatus, ...],
    situation: Situation,
    generation: int,
    now: datetime,
    accepted: bool,
) -> tuple[Condition, ...]:
    result = recorded.conditions

    def put(kind: ConditionType, status: Literal["True", "False", "Unknown"], reason: Reason, message: str) -> None:
        nonlocal result
        result = conditions.put(result, kind, status, reason, message, generation=generation, now=now)

    reason, message = situation.reason, situation.message
    if not accepted:
        put(ConditionType.ACCEPTED, "False", reason, message)
        put(ConditionType.PROGRESSING, "False", reason, message)
        return result
    put(ConditionType.ACCEPTED, "True", Reason.SPEC_VALID, "")
    if situation.failed:
        put(ConditionType.FAILED, "True", reason, message)
        put(ConditionType.PROGRESSING, "False", Reason.FINISHED, "")
    elif situation is _DONE:
        put(ConditionType.SUCCEEDED, "True", reason, message)
        put(ConditionType.PROGRESSING, "False", Reason.FINISHED, "")
    else:
        put(ConditionType.PROGRESSING, "True" if reason in _GOING_ON else "False", reason, message)
    put(ConditionType.CHECKPOINT_READY, *_checkpoint(stages, situation))
    return result


def _checkpoint(
    stages: tuple[StageStatus, ...], situation: Situation
) -> tuple[Literal["True", "False", "Unknown"], Reason, str]:
    in_handoff = any(stage.state is StageState.HANDOFF for stage in stages)
    if situation.reason is Reason.HANDOFF_INVALID or (in_handoff and situation.reason is Reason.WAITING_FOR_CHECKPOINT):
        return "False", situation.reason, situation.message
    if in_handoff and situation.reason is Reason.STORE_UNAVAILABLE:
        return "Unknown", situation.reason, situation.message
    done = [stage for stage in stages if stage.state is StageState.SUCCEEDED and stage.last_checkpoint]
    if not done or done[-1].last_checkpoint is None:
        return "False", Reason.NO_CHECKPOINT_YET, ""
    checkpoint = done[-1].last_checkpoint
    return "True", Reason.MANIFEST_VERIFIED, f"stage {done[-1].name} step {checkpoint.step}: {checkpoint.uri}"


def _phase(stages: tuple[StageStatus, ...], current: StageStatus | None, situation: Situation) -> Phase:
    if situation.failed:
        return Phase.FAILED
    if situation is _DONE:
        return Phase.SUCCEEDED
    if situation.reason in (Reason.SUSPENDED, Reason.SUSPENDING):
        return Phase.SUSPENDED if situation.reason is Reason.SUSPENDED else Phase.RUNNING
    match current.state if current else StageState.PENDING:
        case StageState.RUNNING | StageState.HANDOFF:
            return Phase.RUNNING
        case StageState.RESTARTING:
            return Phase.RESTARTING
        case StageState.INDEXING:
            return Phase.INDEXING
        case StageState.WAITING_FOR_VISION:
            return Phase.WAITING
        case StageState.STARTING if current and current.attempt > 1:
            return Phase.RESTARTING
        case _:
            return Phase.RUNNING if any(stage.state is StageState.SUCCEEDED for stage in stages) else Phase.PENDING


def _ring(recorded: TrainingStatus, stages: tuple[StageStatus, ...]) -> tuple[Failure, ...]:
    """The failures on record and what this pass has added, the newest at the end; interruptions are no failures."""
    new = [
        stage.last_failure
        for stage in stages
        if stage.last_failure is not None
        and stage.last_failure != recorded.stage(stage.name).last_failure
        and stage.last_failure.reason != Reason.INTERRUPTED
    ]
    return (*recorded.failures, *new)[-MAX_FAILURES:]
