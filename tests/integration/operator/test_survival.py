"""The operator may die or be cut off at any moment, and what it finds may be wrong: the runs come through it."""

import time
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiException, RbacAuthorizationV1Api

from internvl_trainer.contract import keys
from internvl_trainer.storage import ObjectStore
from tests.integration.operator.conftest import BUCKET, STAGE, Install, Make
from tests.integration.operator.harness import (
    Cluster,
    JsonObject,
    OperatorProcess,
    commit_checkpoint,
    digest,
    eventually,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def uids(cluster: Cluster) -> dict[str, str]:
    return {name: job["metadata"]["uid"] for name, job in cluster.jobs().items()}


def test_a_killed_operator_goes_on_where_it_was(
    cluster: Cluster, install: Install, make_training: Make, store: ObjectStore, tmp_path: Path
) -> None:
    operator = install().operator
    operator.start()
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    before = uids(cluster)

    operator.kill()
    commit_checkpoint(cluster.config("run-warmup-a1"), store, tmp_path)
    cluster.settle_job("run-warmup-a1", "Succeeded")
    operator.start()

    cluster.job("run-full-a1")
    assert uids(cluster)["run-warmup-a1"] == before["run-warmup-a1"]
    assert set(cluster.jobs()) == {"run-warmup-a1", "run-full-a1"}


def test_an_operator_that_is_killed_again_and_again_makes_each_job_once(
    cluster: Cluster, install: Install, make_training: Make
) -> None:
    operator = install().operator
    for name in ("one", "two", "three"):
        cluster.submit(make_training(name))
    for seconds in (1.2, 1.3, 1.4, 1.5, 1.6):
        operator.start()
        time.sleep(seconds)
        operator.kill()
    operator.start()
    for name in ("one", "two", "three"):
        cluster.job(f"{name}-warmup-a1")
        eventually("the job is on record", lambda name=name: job_uid(cluster, name))
        assert job_uid(cluster, name) == uids(cluster)[f"{name}-warmup-a1"]
    assert (len(cluster.jobs()), len(cluster.index_jobs())) == (3, 3)


def job_uid(cluster: Cluster, name: str) -> str | None:
    uid: str | None = cluster.status(name)["stages"][0].get("jobRef", {}).get("uid")
    return uid


def test_a_run_can_be_deleted_while_the_operator_is_down(
    cluster: Cluster, install: Install, make_training: Make
) -> None:
    operator = install().operator
    operator.start()
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    operator.kill()
    cluster.delete("run")
    with pytest.raises(ApiException, match="404"):
        cluster.training("run")
    eventually("the garbage collector took the job", lambda: not cluster.jobs())


def test_it_stops_cleanly_and_soon(install: Install, cluster: Cluster, make_training: Make) -> None:
    operator = install().operator
    operator.start()
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    began = time.monotonic()
    assert operator.stop() == 0
    assert time.monotonic() - began < 5
    assert '"message": "stopped"' in operator.lines()
    assert "Traceback" not in operator.lines()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"modle": "tiny-1b-like"}, "unknown field"),
        ({"model": "gpt-5"}, "Unsupported value"),
        ({"stages": []}, "should have at least 1 items"),
        ({"stages": [{"name": "Stage One", "trainable": ["projector"], **STAGE}]}, "should match"),
    ],
)
def test_what_cannot_be_a_run_is_refused_at_apply(
    cluster: Cluster, make_training: Make, spec: JsonObject, message: str
) -> None:
    group, version, plural = "training.internvl.dev", "v1alpha1", "internvltrainings"
    with pytest.raises(ApiException) as caught:
        cluster.custom.create_namespaced_custom_object(
            group, version, cluster.namespace, plural, make_training(**spec), field_validation="Strict"
        )
    assert message in caught.value.body


def test_a_run_without_an_image_is_not_accepted_and_told_why(
    cluster: Cluster, operator: OperatorProcess, make_training: Make
) -> None:
    cluster.submit(make_training(image={}))
    eventually("it is refused", lambda: cluster.condition("run", "Accepted").get("status") == "False")
    assert "spec.image.ref" in cluster.condition("run", "Accepted")["message"]
    assert not cluster.jobs()
    cluster.change("run", {"image": {"ref": "trainer:test"}})
    cluster.job("run-warmup-a1")


def test_a_foreign_object_in_the_way_is_named_and_not_touched(
    cluster: Cluster, install: Install, make_training: Make
) -> None:
    install().operator.start()
    foreign: dict[str, Any] = {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"mine": "yes"},
        "metadata": {"name": "run-warmup-a1", "namespace": cluster.namespace},
    }  # fmt: skip
    cluster.apply(foreign)
    cluster.submit(make_training())
    cluster.index_data("run")
    eventually("it is told", lambda: cluster.reason("run", "Progressing") == "JobRejected")
    assert "configmaps" in cluster.condition("run", "Progressing")["message"]
    assert cluster.core.read_namespaced_config_map("run-warmup-a1", cluster.namespace).data == {"mine": "yes"}
    cluster.core.delete_namespaced_config_map("run-warmup-a1", cluster.namespace)
    cluster.job("run-warmup-a1")


def test_a_missing_secret_is_named_and_the_run_goes_on_once_it_is_there(
    cluster: Cluster, operator: OperatorProcess, make_training: Make, store: ObjectStore, tmp_path: Path
) -> None:
    secret = cluster.core.read_namespaced_secret("s3-credentials", cluster.namespace)
    cluster.core.delete_namespaced_secret("s3-credentials", cluster.namespace)
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    commit_checkpoint(cluster.config("run-warmup-a1"), store, tmp_path)
    cluster.settle_job("run-warmup-a1", "Succeeded")
    eventually("it is told", lambda: cluster.reason("run", "Progressing") == "StoreUnavailable")
    assert "Secret s3-credentials" in cluster.condition("run", "Progressing")["message"]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s3-credentials", "namespace": cluster.namespace},
            "data": secret.data,
        }
    )
    cluster.job("run-full-a1")


def test_a_damaged_checkpoint_is_never_handed_on(
    cluster: Cluster, operator: OperatorProcess, make_training: Make, store: ObjectStore, tmp_path: Path
) -> None:
    cluster.submit(make_training())
    cluster.job("run-warmup-a1")
    config = cluster.config("run-warmup-a1")
    commit_checkpoint(config, store, tmp_path)
    prefix = keys.checkpoint_prefix(config.storage.uri, config.run.uid, config.stage, config.optimization.steps, 1)
    (tmp_path / "same-size").write_bytes(bytes(4096))
    store.upload(tmp_path / "same-size", f"{prefix}__0_0.distcp")
    cluster.settle_job("run-warmup-a1", "Succeeded")
    eventually("the run fails", lambda: cluster.reason("run", "Failed") == "HandoffInvalid")
    assert "__0_0.distcp" in cluster.condition("run", "Failed")["message"]
    assert list(cluster.jobs()) == ["run-warmup-a1"]


def test_what_a_replaced_attempt_commits_late_never_ends_the_stage(
    cluster: Cluster, operator: OperatorProcess, make_training: Make, store: ObjectStore, tmp_path: Path
) -> None:
    cluster.submit(make_training())
    pod = cluster.start_pod(cluster.job("run-warmup-a1"))
    cluster.end_pod(pod, 137)
    cluster.settle_job("run-warmup-a1", "Failed")
    cluster.job("run-warmup-a2")
    # Nobody saw that a process of attempt 1 lived on, and trained to the end.
    commit_checkpoint(cluster.config("run-warmup-a1"), store, tmp_path)

    cluster.settle_job("run-warmup-a2", "Succeeded")
    eventually("it waits", lambda: cluster.reason("run", "Progressing") == "WaitingForCheckpoint")
    waited_for = cluster.condition("run", "Progressing")["message"]
    assert "waiting for the final manifest of step 20 by attempt 2" in waited_for
    assert "that of attempt 1 was replaced and does not count" in waited_for
    assert "run-full-a1" not in cluster.jobs()

    manifest = commit_checkpoint(cluster.config("run-warmup-a2"), store, tmp_path)
    cluster.job("run-full-a1")
    handed_on = cluster.config("run-full-a1").init
    assert {ref.sha256 for ref in handed_on.values()} == {digest(manifest)}
    assert all("/a2/" in ref.uri for ref in handed_on.values())


def test_a_bucket_that_does_not_exist_is_told(cluster: Cluster, operator: OperatorProcess, make_training: Make) -> None:
    training = make_training()
    training["spec"]["storage"]["uri"] = f"s3://{BUCKET}-nowhere/x"
    cluster.submit(training)
    cluster.job("run-warmup-a1")
    cluster.settle_job("run-warmup-a1", "Succeeded")
    eventually("it is told", lambda: cluster.reason("run", "Progressing") == "StoreUnavailable")
    assert "no such bucket" in cluster.condition("run", "Progressing")["message"]


def test_an_operator_without_the_right_to_watch_ends_with_one_clear_line(install: Install, cluster: Cluster) -> None:
    installation = install()
    roles = RbacAuthorizationV1Api(cluster.api)
    roles.delete_namespaced_role_binding("release-internvl-operator", cluster.namespace)
    installation.operator.start()
    eventually("it ends", lambda: not installation.operator.running)
    last = installation.operator.lines().splitlines()[-1]
    assert last.startswith("internvl-operator: cannot serve:")
    assert "cannot list resource" in last


def test_without_an_api_server_to_speak_to_it_says_so(install: Install, tmp_path: Path) -> None:
    operator = install().operator
    (tmp_path / "operator-0" / "operator.kubeconfig").unlink()
    operator.start()
    eventually("it ends", lambda: not operator.running)
    assert operator.lines().splitlines()[-1].startswith("internvl-operator: cannot serve:")
