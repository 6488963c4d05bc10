"""When an attempt that runs has to be stopped by the operator itself: suspension and the attempt's deadline."""

from datetime import datetime

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.domain.state import ChildJob


def reason_to_stop(spec: TrainingSpec, job: ChildJob | None, now: datetime) -> Reason | None:
    """Why the open attempt must end now; None: it may go on."""
    if spec.suspend:
        return Reason.SUSPENDED
    left = seconds_left(spec, job, now)
    return Reason.DEADLINE_EXCEEDED if left is not None and left <= 0 else None


def seconds_left(spec: TrainingSpec, job: ChildJob | None, now: datetime) -> float | None:
    """Time until the attempt's deadline; None where it has none."""
    limit = spec.run_policy.attempt_timeout_seconds
    if not limit or job is None:
        return None
    return limit - (now - job.created_at).total_seconds()
