"""The gate between stages: a job that succeeded is not a finished stage, a verified final checkpoint is."""

from datetime import datetime

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import CheckpointStatus, PublishedComponent, StageState, StageStatus
from internvl_operator.domain.situation import Situation, failed
from internvl_operator.domain.state import GateResult, Invalid, NotThere, Unavailable, Verified

_LOOK_FOR_MANIFEST_SECONDS = 2.0
_LOOK_FOR_STORE_SECONDS = 15.0


def judge(
    stage: StageStatus, result: GateResult | None, *, succeeded_at: datetime, patience_seconds: int, now: datetime
) -> tuple[StageStatus, Situation | None]:
    """What follows from the store's answer about a stage whose job succeeded at `succeeded_at`.

    Returns:
        the stage's status, and the situation; None: the stage is done and the next may begin.
    """
    match result:
        case Verified():
            return _done(stage, result, now), None
        case Invalid(problems=problems):
            return _refused(stage, f"stage {stage.name}: the final checkpoint is not usable: {'; '.join(problems)}")
        case NotThere(missing=missing):
            waited = (now - succeeded_at).total_seconds()
            if waited > patience_seconds:
                return _refused(
                    stage, f"stage {stage.name}: the job succeeded, but after {waited:.0f} s {missing} does not exist"
                )
            return _waiting(stage, Reason.WAITING_FOR_CHECKPOINT, f"waiting for {missing}", _LOOK_FOR_MANIFEST_SECONDS)
        case Unavailable(error=error):
            return _waiting(stage, Reason.STORE_UNAVAILABLE, error, _LOOK_FOR_STORE_SECONDS)
        case None:
            return _waiting(stage, Reason.WAITING_FOR_CHECKPOINT, "the final checkpoint is to be verified", 0.0)


def _done(stage: StageStatus, result: Verified, now: datetime) -> StageStatus:
    published = tuple(
        PublishedComponent(component=component, uri=ref.uri, sha256=ref.sha256)
        for component, ref in sorted(result.published.items())
    )
    return stage.model_copy(
        update={
            "state": StageState.SUCCEEDED,
            "closed_attempt": stage.attempt,
            "stopping": None,
            "completion_time": now,
            "steps": result.step,
            "first_loss": f"{result.loss.first:.4g}" if result.loss else stage.first_loss,
            "last_loss": f"{result.loss.last:.4g}" if result.loss else stage.last_loss,
            "last_checkpoint": CheckpointStatus(
                step=result.step, uri=result.ref.uri, manifest_sha256=result.ref.sha256, verified=True
            ),
            "published": published,
        }
    )


def _refused(stage: StageStatus, message: str) -> tuple[StageStatus, Situation]:
    status = stage.model_copy(update={"state": StageState.FAILED, "closed_attempt": stage.attempt})
    return status, failed(Reason.HANDOFF_INVALID, message)


def _waiting(stage: StageStatus, reason: Reason, message: str, look_again: float) -> tuple[StageStatus, Situation]:
    status = stage.model_copy(update={"state": StageState.HANDOFF})
    return status, Situation(reason, f"stage {stage.name}: {message}", look_again=look_again)
