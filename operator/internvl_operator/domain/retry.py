"""Why an attempt failed, whether another may follow, and when.

The trainer's exit code decides (`contract.exit_codes`). Of several failed pods one is the cause: when a process dies,
the others lose their peer or are told to stop, and what they say is a consequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from internvl_operator.api.base import cut
from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import BackoffSpec, RetrySpec
from internvl_operator.api.status import Failure, StageStatus
from internvl_operator.domain.attempts import MAX_ATTEMPTS
from internvl_operator.domain.state import AttemptKey, ChildJob, PodFailure
from internvl_trainer.contract.exit_codes import DO_NOT_RETRY, ExitCode, explain

_SIGTERM = 128 + 15
_OWN_LIMIT = ("local ephemeral storage limit", "ephemeral local storage usage", "Usage of EmptyDir volume")
"""What the kubelet says of an evicted pod that used more than it may; of a node under pressure it says otherwise."""
_LATEST = datetime.max.replace(tzinfo=UTC)


class EndingKind(StrEnum):
    """What an attempt's end means for the next."""

    INTERRUPTED = "interrupted"
    """It was told to stop: the next is free."""
    RETRYABLE = "retryable"
    """It counts as a failure, and another may go better."""
    FATAL = "fatal"
    """Another would fail in the same way."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended without success."""

    kind: EndingKind
    failure: Failure | None
    """None where it is no news: the user has suspended the run."""


SUSPENDED = Ending(EndingKind.INTERRUPTED, None)
"""The end of an attempt that a suspension has stopped, however its pods took it."""


def judge(key: AttemptKey, job: ChildJob | None, pods: Sequence[PodFailure], now: datetime) -> Ending:
    """How an attempt ended whose job failed, or is gone though the operator did not delete it (`job` is None)."""
    if job is None:
        return _ending(EndingKind.RETRYABLE, key, now, Reason.JOB_VANISHED, "its job was deleted by someone else")
    if not pods:
        text = job.message or "the job failed, and none of its pods is left to say why"
        return _ending(EndingKind.RETRYABLE, key, now, Reason.TRAINER_FAILED, text)
    cause = root_cause(pods)
    kind = _kind(cause)
    reason = Reason.INTERRUPTED if kind is EndingKind.INTERRUPTED else Reason.TRAINER_FAILED
    return _ending(kind, key, cause.finished_at or now, reason, describe(cause), cause)


def overdue(key: AttemptKey, message: str, now: datetime) -> Ending:
    """How an attempt ended that the operator itself has stopped at its deadline."""
    return _ending(EndingKind.RETRYABLE, key, now, Reason.DEADLINE_EXCEEDED, message)


def root_cause(pods: Sequence[PodFailure]) -> PodFailure:
    """The pod whose end explains the others': the earliest of the most telling kind."""
    return min(pods, key=lambda pod: (_telling(pod), pod.finished_at or _LATEST, pod.pod))


def describe(cause: PodFailure) -> str:
    """How a pod ended, in one line."""
    ended = explain(cause.exit_code) if cause.exit_code is not None else "ended before its container ran"
    return ": ".join(part for part in (ended, cause.reason, cause.message) if part)


def is_exhausted(stage: StageStatus, retry: RetrySpec) -> bool:
    """Whether the stage has failed too often for another attempt."""
    return stage.restarts.failures > retry.limit or stage.attempt >= MAX_ATTEMPTS


def not_before(stage: StageStatus, backoff: BackoffSpec) -> datetime | None:
    """When the next attempt may be opened at the earliest; None: at once."""
    if stage.last_failure is None or stage.last_failure.attempt != stage.attempt:
        return None
    doublings = min(max(stage.restarts.failures - 1, 0), 30)
    return stage.last_failure.time + timedelta(seconds=min(backoff.initial * 2**doublings, backoff.max))


def _telling(pod: PodFailure) -> int:
    if pod.exit_code in DO_NOT_RETRY:
        return 0
    if pod.disrupted or _broke_own_limit(pod):
        return 1
    return {ExitCode.INTERRUPTED: 3, _SIGTERM: 3, ExitCode.PEER_LOST: 4}.get(pod.exit_code or 0, 2)


def _kind(cause: PodFailure) -> EndingKind:
    if cause.exit_code in DO_NOT_RETRY:
        return EndingKind.FATAL
    if _broke_own_limit(cause):
        # However well it took the SIGTERM: the next one fills its volumes just as fast.
        return EndingKind.RETRYABLE
    if cause.disrupted or cause.exit_code == ExitCode.INTERRUPTED:
        return EndingKind.INTERRUPTED
    return EndingKind.RETRYABLE


def _broke_own_limit(pod: PodFailure) -> bool:
    return pod.reason == "Evicted" and any(words in pod.message for words in _OWN_LIMIT)


def _ending(
    kind: EndingKind, key: AttemptKey, time: datetime, reason: Reason, message: str, cause: PodFailure | None = None
) -> Ending:
    failure = Failure(
        time=time.replace(microsecond=0),
        stage=key.stage,
        attempt=key.attempt,
        reason=reason,
        exit_code=cause.exit_code if cause else None,
        message=cut(message),
        pod=cause.pod if cause else None,
    )
    return Ending(kind, failure)
