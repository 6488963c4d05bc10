"""What pods say about an attempt."""

from typing import Any

import pytest

from internvl_operator.domain.state import AttemptKey
from internvl_operator.jobs.base import MalformedChildError
from internvl_operator.jobs.pods import observe_pods

pytestmark = pytest.mark.unit

KEY = AttemptKey("stage1", 2)


def pod(name: str, phase: str, *, attempt: str = "2", **status: Any) -> dict[str, Any]:
    labels = {"training.internvl.dev/stage": "stage1", "training.internvl.dev/attempt": attempt}
    return {"metadata": {"name": name, "labels": labels}, "status": {"phase": phase, **status}}


def ended(code: int, **fields: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": "Error", "finishedAt": "2026-01-01T00:00:00Z", **fields}
    return {"containerStatuses": [{"name": "sidecar"}, {"name": "pytorch", "state": {"terminated": terminated}}]}


def test_pods_live_until_their_phase_says_that_they_ended() -> None:
    seen = observe_pods(
        [pod("w2", "Running"), pod("w0", "Pending"), pod("w1", "Unknown"), pod("w3", "Succeeded"), pod("w4", "Failed")]
    )

    assert seen.live == {KEY: ("w0", "w1", "w2")}


def test_attempts_are_told_apart() -> None:
    seen = observe_pods([pod("a", "Running", attempt="1"), pod("b", "Running")])

    assert set(seen.live) == {AttemptKey("stage1", 1), KEY}


def test_a_failure_is_told_by_the_trainers_container() -> None:
    (failure,) = observe_pods([pod("w0", "Failed", **ended(11, message="loss is nan"))]).failures[KEY]

    assert (failure.pod, failure.exit_code, failure.reason, failure.message) == ("w0", 11, "Error", "loss is nan")
    assert failure.finished_at
    assert not failure.disrupted


def test_of_a_long_log_the_end_is_kept() -> None:
    (failure,) = observe_pods([pod("w0", "Failed", **ended(1, message="x" * 2000 + "ValueError: bad\n"))]).failures[KEY]

    assert len(failure.message) == 512
    assert failure.message.endswith("ValueError: bad")


def test_an_evicted_pod_is_disrupted_and_has_no_exit_code() -> None:
    conditions = [{"type": "DisruptionTarget", "status": "True"}]
    evicted = pod("w0", "Failed", reason="Evicted", message="low on memory", conditions=conditions)

    (failure,) = observe_pods([evicted]).failures[KEY]

    assert (failure.exit_code, failure.reason, failure.message, failure.disrupted) == (
        None, "Evicted", "low on memory", True,
    )  # fmt: skip


def test_why_a_pod_was_evicted_is_told_by_the_pod_and_not_by_its_container() -> None:
    words = 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". '
    evicted = pod("w0", "Failed", reason="Evicted", message=words, **ended(30, message="told to stop"))

    (failure,) = observe_pods([evicted]).failures[KEY]

    assert (failure.exit_code, failure.reason, failure.message) == (30, "Evicted", words.strip())


def test_a_pod_without_a_stage_is_refused_by_name() -> None:
    stray = pod("w0", "Running")
    del stray["metadata"]["labels"]["training.internvl.dev/stage"]

    with pytest.raises(MalformedChildError, match=r"Pod w0 has label training\.internvl\.dev/stage=None"):
        observe_pods([stray])


def index_pod(name: str, phase: str, *, job_uid: str = "job-1", **status: Any) -> dict[str, Any]:
    owners = [{"kind": "Other", "uid": "other"}, {"kind": "Job", "uid": job_uid, "controller": True}]
    given = {"training.internvl.dev/index": "demo-index-0123456789"}
    return {
        "metadata": {"name": name, "labels": given, "ownerReferences": owners},
        "status": {"phase": phase, **status},
    }


def test_pods_that_index_data_belong_to_no_attempt() -> None:
    seen = observe_pods([pod("w0", "Running"), index_pod("i1", "Running"), index_pod("i0", "Pending")])

    assert (set(seen.live), seen.live_index) == ({KEY}, ("i0", "i1"))


def test_their_failures_are_told_by_the_job_that_they_belong_to() -> None:
    older, newer = (
        index_pod(f"i-{uid}", "Failed", job_uid=uid, **ended(2, message=f"of {uid}")) for uid in ("job-1", "job-2")
    )
    orphan = index_pod("i-3", "Failed", **ended(1))
    orphan["metadata"]["ownerReferences"] = []

    failures = observe_pods([older, newer, orphan]).index_failures

    assert {uid: [failure.message for failure in found] for uid, found in failures.items()} == {
        "job-1": ["of job-1"], "job-2": ["of job-2"], "": [""],
    }  # fmt: skip
