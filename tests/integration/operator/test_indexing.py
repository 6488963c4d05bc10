"""The Job that indexes a stage's data, under the real Job controller; only the kubelet is played."""

import pytest

from tests.integration.operator.conftest import Make
from tests.integration.operator.harness import Cluster, OperatorProcess, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def indexing(cluster: Cluster) -> bool:
    return cluster.reason("run", "Progressing") == "IndexingData"


def test_both_stages_share_one_job_which_runs_where_restricted_is_enforced(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.core.patch_namespace(cluster.namespace, {"metadata": {"labels": enforced}})
    uid = cluster.submit(make_training())
    eventually("the data is indexed", lambda: indexing(cluster))
    assert cluster.status("run")["phase"] == "Indexing"

    pod = cluster.index_data("run")
    cluster.job("run-warmup-a1")
    ((name, job),) = cluster.index_jobs().items()
    assert pod.startswith(f"{name}-")
    assert job["metadata"]["ownerReferences"][0]["uid"] == uid
    assert cluster.config(name).data.index == cluster.config("run-warmup-a1").data.index
    assert cluster.status("run")["stages"][0]["dataIndex"] == {"job": name, "state": "Indexed"}
    assert "IndexingData" in {reason for reason, _ in cluster.events()}


def test_data_that_cannot_be_used_ends_the_run_before_anything_trains(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    pod = cluster.index_data("run", 2, "chart_qa: 812 of 18317 samples cannot be used")
    eventually("the run fails", lambda: cluster.condition("run", "Failed").get("status") == "True")
    assert cluster.reason("run", "Failed") == "DataInvalid"
    message = cluster.condition("run", "Failed")["message"]
    assert pod in message
    assert "chart_qa: 812 of 18317 samples cannot be used" in message
    assert (cluster.jobs(), len(cluster.index_jobs())) == ({}, 1), "the Job is kept, with its pod's log"


def test_a_job_out_of_retries_ends_the_run_with_what_its_last_pod_said(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training(runPolicy={"retry": {"limit": 0}}))
    cluster.index_data("run", 20, "the object store does not answer")
    eventually("the run fails", lambda: cluster.reason("run", "Failed") == "RetryLimitExceeded")
    assert "store unavailable: Error: the object store does not answer" in cluster.condition("run", "Failed")["message"]


def test_suspending_stops_the_job_and_resuming_makes_it_again(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    eventually("a pod indexes the data", lambda: cluster.index_pods("run"))
    cluster.change("run", {"suspend": True})
    eventually("nothing runs", lambda: cluster.status("run")["phase"] == "Suspended")
    assert (cluster.index_jobs(), cluster.index_pods()) == ({}, [])
    cluster.change("run", {"suspend": False})
    cluster.job("run-warmup-a1")


def test_a_job_that_somebody_deletes_is_made_again(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    ((name, job),) = eventually("the Job", lambda: cluster.index_jobs().items())
    cluster.delete_index_job(name)

    def another() -> bool:
        found = cluster.index_jobs().get(name)
        return found is not None and found["metadata"]["uid"] != job["metadata"]["uid"]

    eventually("another Job of that name", another)
    cluster.job("run-warmup-a1")


def test_a_deleted_run_takes_the_job_along(cluster: Cluster, operator: OperatorProcess, make_training: Make) -> None:
    cluster.submit(make_training())
    eventually("a pod indexes the data", lambda: cluster.index_pods("run"))
    cluster.delete("run")
    eventually("the garbage collector took the Job", lambda: not cluster.index_jobs())
