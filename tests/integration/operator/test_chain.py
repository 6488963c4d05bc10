"""From `kubectl apply` to Succeeded, against a real API server and a real object store."""

from pathlib import Path

import pytest

from internvl_trainer.contract.base import Component
from internvl_trainer.storage import ObjectStore
from tests.integration.operator.conftest import Make
from tests.integration.operator.harness import Cluster, OperatorProcess, commit_checkpoint, digest, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_two_stages_follow_each_other_through_a_verified_checkpoint(
    cluster: Cluster, operator: OperatorProcess, make_training: Make, store: ObjectStore, tmp_path: Path
) -> None:
    uid = cluster.submit(make_training())

    job = cluster.job("run-warmup-a1")
    assert job["metadata"]["ownerReferences"][0]["uid"] == uid
    assert cluster.condition("run", "Accepted")["status"] == "True"

    pod = cluster.start_pod(job)
    cluster.settle_job("run-warmup-a1", "Running")
    eventually("the stage runs", lambda: cluster.status("run")["stages"][0]["state"] == "Running")

    cluster.end_pod(pod, 0)
    cluster.settle_job("run-warmup-a1", "Succeeded")
    eventually(
        "the operator waits for the checkpoint",
        lambda: cluster.reason("run", "Progressing") == "WaitingForCheckpoint",
    )
    assert list(cluster.jobs()) == ["run-warmup-a1"]

    manifest = commit_checkpoint(cluster.config("run-warmup-a1"), store, tmp_path)
    cluster.job("run-full-a1")
    handed_on = cluster.config("run-full-a1").init
    assert {ref.sha256 for ref in handed_on.values()} == {digest(manifest)}
    assert cluster.reason("run", "CheckpointReady") == "ManifestVerified"

    commit_checkpoint(cluster.config("run-full-a1"), store, tmp_path)
    cluster.settle_job("run-full-a1", "Succeeded")
    eventually("the run succeeds", lambda: cluster.condition("run", "Succeeded").get("status") == "True")
    status = cluster.status("run")
    assert status["phase"] == "Succeeded"
    assert status["stagesSummary"] == "2/2"
    assert [offer["component"] for offer in status["stages"][0]["published"]] == ["vision"]
    assert {reason for reason, _ in cluster.events()} >= {"StageStarting", "ManifestVerified", "AllStagesDone"}


def test_a_deleted_run_takes_its_children_along(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    assert "finalizers" not in cluster.training("run")["metadata"]
    cluster.delete("run")
    eventually("the garbage collector took the job", lambda: not cluster.jobs())
    again = cluster.submit(make_training())
    assert cluster.job("run-warmup-a1")["metadata"]["ownerReferences"][0]["uid"] == again


def test_a_crashed_attempt_is_followed_by_the_next(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    pod = cluster.start_pod(cluster.job("run-warmup-a1"))
    cluster.settle_job("run-warmup-a1", "Running")
    cluster.end_pod(pod, 21, "collective timed out")
    cluster.settle_job("run-warmup-a1", "Failed")
    cluster.job("run-warmup-a2")
    (failure,) = cluster.status("run")["failures"]
    assert (failure["exitCode"], failure["pod"], failure["attempt"]) == (21, pod, 1)
    assert cluster.config("run-warmup-a2").attempt == 2


def test_the_next_attempt_waits_until_the_last_pod_of_the_old_one_is_gone(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    job = cluster.job("run-warmup-a1")
    crashed, hanging = cluster.start_pod(job, 0), cluster.start_pod(job, 1)
    cluster.end_pod(crashed, 21)
    cluster.settle_job("run-warmup-a1", "Failed")
    eventually(
        "the operator waits for the pod",
        lambda: cluster.reason("run", "Progressing") == "WaitingForPods",
    )
    assert hanging in cluster.condition("run", "Progressing")["message"]
    assert "run-warmup-a2" not in cluster.jobs()
    cluster.end_pod(hanging, 143)
    cluster.job("run-warmup-a2")


def test_a_mistake_of_the_user_is_not_tried_again(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    pod = cluster.start_pod(cluster.job("run-warmup-a1"))
    cluster.end_pod(pod, 2, "meta.json: no such dataset")
    cluster.settle_job("run-warmup-a1", "Failed")
    eventually("the run fails", lambda: cluster.condition("run", "Failed").get("status") == "True")
    assert cluster.reason("run", "Failed") == "UserError"
    assert "meta.json: no such dataset" in cluster.condition("run", "Failed")["message"]
    assert list(cluster.jobs()) == ["run-warmup-a1"]


def test_a_suspended_run_stops_its_job_and_resumes_with_a_new_attempt(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    cluster.change("run", {"suspend": True})
    eventually("nothing runs", lambda: cluster.status("run")["phase"] == "Suspended")
    assert not cluster.jobs()
    cluster.change("run", {"suspend": False})
    cluster.job("run-warmup-a2")


def test_one_run_waits_for_another_ones_vision_encoder(
    cluster: Cluster, operator: OperatorProcess, make_training: Make, store: ObjectStore, tmp_path: Path
) -> None:
    reference = {"trainingRef": {"name": "first", "stage": "warmup"}}
    cluster.submit(make_training("second", vision={"from": reference}))
    cluster.index_data("second")
    eventually(
        "it looks for the other run",
        lambda: cluster.reason("second", "Progressing") == "VisionSourceNotFound",
    )

    cluster.submit(make_training("first"))
    cluster.job("first-warmup-a1")
    eventually(
        "it waits for the vision encoder",
        lambda: cluster.reason("second", "Progressing") == "WaitingForVision",
    )

    commit_checkpoint(cluster.config("first-warmup-a1"), store, tmp_path)
    cluster.settle_job("first-warmup-a1", "Succeeded")
    cluster.job("second-warmup-a1")
    start = cluster.config("second-warmup-a1").init[Component.VISION]
    assert start.uri.endswith("warmup/published/a1/vision.json")
    (origin,) = cluster.status("second")["stages"][0]["initialisedFrom"]
    assert origin["run"] == f"{cluster.namespace}/first"
