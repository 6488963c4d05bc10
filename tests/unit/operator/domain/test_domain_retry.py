"""Which pod tells why an attempt failed, and what follows from its exit code."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_operator.api.spec import BackoffSpec, RetrySpec
from internvl_operator.api.status import Restarts, StageStatus
from internvl_operator.domain import retry
from internvl_operator.domain.retry import EndingKind
from internvl_operator.domain.state import AttemptKey, ChildJob, JobPhase, PodFailure
from internvl_trainer.contract.exit_codes import DO_NOT_RETRY, ExitCode

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = AttemptKey("stage1", 2)
JOB = ChildJob("demo-stage1-a2", "uid", "stage1", 2, JobPhase.FAILED, NOW, NOW, message="PyTorchJob demo has failed")


def pod(name: str, code: int | None, *, after: float = 0, disrupted: bool = False, reason: str = "Error") -> PodFailure:
    return PodFailure(name, code, reason, "", NOW + timedelta(seconds=after), disrupted)


@pytest.mark.parametrize(
    ("pods", "cause", "kind"),
    [
        ([pod("w0", 21), pod("w1", 1, after=5)], "w1", EndingKind.RETRYABLE),
        ([pod("w0", 1, after=5), pod("w1", 1)], "w1", EndingKind.RETRYABLE),
        ([pod("w0", 143), pod("w1", 137, after=5, reason="OOMKilled")], "w1", EndingKind.RETRYABLE),
        ([pod("w0", 30), pod("w1", 21)], "w0", EndingKind.INTERRUPTED),
        ([pod("w0", 1), pod("w1", 137, after=1, disrupted=True)], "w1", EndingKind.INTERRUPTED),
        ([pod("w0", None, disrupted=True, reason="Evicted")], "w0", EndingKind.INTERRUPTED),
        ([pod("w0", 21), pod("w1", 2, after=9)], "w1", EndingKind.FATAL),
        ([pod("w0", 137, disrupted=True), pod("w1", 11, after=9)], "w1", EndingKind.FATAL),
        ([pod("w0", 21), pod("w1", 21, after=3)], "w0", EndingKind.RETRYABLE),
        ([pod("w0", 20)], "w0", EndingKind.RETRYABLE),
    ],
)
def test_one_pod_is_the_cause(pods: list[PodFailure], cause: str, kind: EndingKind) -> None:
    ending = retry.judge(KEY, JOB, pods, NOW)

    assert (ending.failure and ending.failure.pod, ending.kind) == (cause, kind)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ('Container pytorch exceeded its local ephemeral storage limit "1Gi". ', EndingKind.RETRYABLE),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ", EndingKind.RETRYABLE),
        ('Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ', EndingKind.RETRYABLE),
        ("The node was low on resource: ephemeral-storage. ", EndingKind.INTERRUPTED),
    ],
)
def test_an_eviction_is_free_unless_the_pod_broke_its_own_limit(words: str, kind: EndingKind) -> None:
    evicted = PodFailure("w0", ExitCode.INTERRUPTED, "Evicted", words, NOW)

    assert retry.judge(KEY, JOB, [evicted], NOW).kind is kind


def test_the_pod_that_broke_its_own_limit_is_the_cause_of_what_became_of_the_others() -> None:
    words = 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". '
    evicted = PodFailure("w0", ExitCode.INTERRUPTED, "Evicted", words, NOW)

    failure = retry.judge(KEY, JOB, [evicted, pod("w1", 1, after=5)], NOW).failure

    assert failure
    assert failure.pod == "w0"
    assert 'volume "scratch" exceeds' in failure.message


@given(st.lists(st.integers(1, 255), min_size=1, max_size=6))
def test_a_code_that_says_do_not_retry_always_prevails(codes: list[int]) -> None:
    ending = retry.judge(KEY, JOB, [pod(f"w{n}", code, after=n) for n, code in enumerate(codes)], NOW)

    assert (ending.kind is EndingKind.FATAL) == bool(DO_NOT_RETRY & set(codes))


def test_a_failed_job_without_pods_is_told_in_the_job_controllers_words() -> None:
    ending = retry.judge(KEY, JOB, [], NOW)

    assert ending.kind is EndingKind.RETRYABLE
    assert ending.failure
    assert ending.failure.message == "PyTorchJob demo has failed"


def test_a_job_deleted_by_a_stranger_counts_as_a_failure() -> None:
    ending = retry.judge(KEY, None, [], NOW)

    assert ending.kind is EndingKind.RETRYABLE
    assert ending.failure
    assert ending.failure.reason == "JobVanished"


def test_what_the_failure_says_is_code_reason_and_last_words() -> None:
    failed = PodFailure("w0", ExitCode.STORE_UNAVAILABLE, "Error", "no answer from the store", NOW)

    failure = retry.judge(KEY, JOB, [failed], NOW).failure

    assert failure
    assert failure.message == "store unavailable: Error: no answer from the store"
    assert (failure.exit_code, failure.time) == (20, NOW)


def test_a_very_long_message_is_cut_to_what_the_status_takes() -> None:
    failure = retry.judge(KEY, JOB, [PodFailure("w0", 1, "Error", "x" * 5000, NOW)], NOW).failure

    assert failure
    assert len(failure.message) == 1024


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (6, 300), (60, 300)])
def test_the_pause_doubles_up_to_its_limit(failures: int, seconds: int) -> None:
    last = retry.judge(KEY, JOB, [pod("w0", 1)], NOW).failure
    stage = StageStatus(
        name="stage1", attempt=2, closed_attempt=2, restarts=Restarts(failures=failures), last_failure=last
    )

    assert retry.not_before(stage, BackoffSpec()) == NOW + timedelta(seconds=seconds)


def test_after_a_suspension_there_is_no_pause() -> None:
    older = retry.judge(AttemptKey("stage1", 1), JOB, [pod("w0", 1)], NOW).failure
    stage = StageStatus(name="stage1", attempt=2, closed_attempt=2, last_failure=older)

    assert retry.not_before(stage, BackoffSpec()) is None


@pytest.mark.parametrize(
    ("failures", "attempt", "over"), [(2, 3, False), (3, 3, True), (0, 998, False), (0, 999, True)]
)
def test_a_stage_may_fail_as_often_as_the_limit_says(failures: int, attempt: int, over: bool) -> None:
    stage = StageStatus(name="stage1", attempt=attempt, restarts=Restarts(failures=failures))

    assert retry.is_exhausted(stage, RetrySpec(limit=2)) is over
