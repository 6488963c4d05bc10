"""The Job that indexes a stage's data, and what is read from one."""

from typing import Any

import pytest

from internvl_operator.domain.actions import CreateIndexJob
from internvl_operator.domain.state import JobPhase
from internvl_operator.jobs import index_job
from internvl_operator.jobs.base import Platform, ProgressEndpoint
from internvl_trainer.contract import environment
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from tests.property.world import RUN, World, training_spec

pytestmark = pytest.mark.unit

PLATFORM = Platform(progress=ProgressEndpoint("https://operator.example/v1/progress", "-----BEGIN CERTIFICATE-----"))


def create(**changes: Any) -> CreateIndexJob:
    """The creation of a run's first index Job."""
    world = World(training_spec(1, **changes), data_indexed=False)
    world.settle()
    return world.indexes[0].create


def built(platform: Platform = PLATFORM, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    config_map, job = index_job.build(create(**changes), platform)
    return config_map, job


def template(platform: Platform = PLATFORM, **changes: Any) -> dict[str, Any]:
    return built(platform, **changes)[1]["spec"]["template"]


def container(**changes: Any) -> dict[str, Any]:
    return template(**changes)["spec"]["containers"][0]


# ---- build ---------------------------------------------------------------------------------------------------------


def test_both_objects_belong_to_the_run_and_to_no_attempt() -> None:
    name = create().name
    for child in (*built(), template()):
        assert child["metadata"]["labels"] == {
            "app.kubernetes.io/managed-by": "internvl-operator",
            "training.internvl.dev/run": RUN.uid,
            "training.internvl.dev/name": "demo",
            "training.internvl.dev/index": name,
        }
    for child in built():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (RUN.uid, True)
        assert child["metadata"]["name"] == name


def test_the_pod_reads_the_stages_config_and_indexes_its_data() -> None:
    config_map, _ = built()

    assert container()["command"] == [
        "python3", "-m", "internvl_trainer.curation", "index", "--config", "/etc/internvl/job.json",
    ]  # fmt: skip
    config = JobConfig.from_bytes(config_map["data"]["job.json"].encode())
    assert config.data.meta == "s3://data/meta.json"
    assert config.data.index == "s3://runs/demo/data-index/"
    (volume,) = [volume for volume in template()["spec"]["volumes"] if volume["name"] == "config"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]


def test_it_reports_to_nobody_and_listens_to_nobody() -> None:
    assert "progress-token" not in str(built())
    assert container()["ports"] == []
    assert environment.MASTER_ADDR not in str(built())


def test_one_pod_is_followed_by_another_as_often_as_an_attempt_would_be() -> None:
    spec = built(runPolicy={"retry": {"limit": 7}, "attemptTimeoutSeconds": 600})[1]["spec"]

    assert spec["backoffLimit"] == 7
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 600, "a pod that hangs counts as failed, too"
    assert "activeDeadlineSeconds" not in template()["spec"]


def test_what_no_retry_cures_ends_it_at_once_and_a_disruption_is_free() -> None:
    fail, ignore = built()[1]["spec"]["podFailurePolicy"]["rules"]

    assert fail["action"] == "FailJob"
    assert ExitCode.INVALID_CONFIG in fail["onExitCodes"]["values"]
    assert ExitCode.STORE_UNAVAILABLE not in fail["onExitCodes"]["values"]
    assert fail["onExitCodes"]["containerName"] == container()["name"]
    assert (ignore["action"], ignore["onPodConditions"]) == (
        "Ignore", [{"type": "DisruptionTarget", "status": "True"}],
    )  # fmt: skip


def test_devices_are_left_to_training() -> None:
    compute = {"requests": {"cpu": 8}, "limits": {"memory": "64Gi", "rdma/ib": 1}}
    resources = {"nodes": 2, "processesPerNode": 2, "gpuResource": "nvidia.com/gpu", "container": compute}

    assert container(resources=resources)["resources"] == {"requests": {"cpu": "8"}, "limits": {"memory": "64Gi"}}


def test_it_has_the_images_the_credentials_the_authority_and_the_overlay_of_the_stages_pods() -> None:
    storage = {"uri": "s3://runs/demo", "secretRef": {"name": "s3-cred"}, "caConfigMap": {"name": "corp-ca"}}
    overlay = {
        "metadata": {"labels": {"team": "vision", "training.internvl.dev/index": "mine"}},
        "spec": {"serviceAccountName": "trainer", "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 600},
    }

    laid = template(storage=storage, podTemplate=overlay, image={"ref": "trainer:1", "pullSecrets": [{"name": "reg"}]})

    assert laid["spec"]["serviceAccountName"] == "trainer"
    assert laid["spec"]["imagePullSecrets"] == [{"name": "reg"}]
    assert laid["spec"]["restartPolicy"] == "Never", "the Job's retries rest on it"
    assert laid["spec"]["terminationGracePeriodSeconds"] == 5, "the grace period is for a checkpoint, and it has none"
    assert laid["metadata"]["labels"]["team"] == "vision"
    assert laid["metadata"]["labels"]["training.internvl.dev/index"] != "mine"
    (pod,) = laid["spec"]["containers"]
    assert pod["image"] == "trainer:1"
    assert {"name": "s3-cred", "key": "AWS_ACCESS_KEY_ID"} in [
        item["valueFrom"]["secretKeyRef"] for item in pod["env"] if "valueFrom" in item
    ]
    assert {"name": "storage-ca", "mountPath": "/etc/internvl-storage-ca", "readOnly": True} in pod["volumeMounts"]
    config = JobConfig.from_bytes(built(storage=storage)[0]["data"]["job.json"].encode())
    assert config.storage.ca_file == "/etc/internvl-storage-ca/ca.crt"


def test_how_a_stores_answers_are_verified_asks_for_no_other_index() -> None:
    verified = {"uri": "s3://runs/demo", "checksums": "none", "caConfigMap": {"name": "corp-ca"}}

    assert create(storage=verified).name == create(storage={"uri": "s3://runs/demo"}).name
    assert create(storage={"uri": "s3://runs/other"}).name != create(storage={"uri": "s3://runs/demo"}).name


def test_its_pod_passes_pod_securitys_restricted_profile() -> None:
    spec = template()["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    (pod,) = spec["containers"]
    assert pod["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    }  # fmt: skip
    assert pod["terminationMessagePolicy"] == "FallbackToLogsOnError"


# ---- observe -------------------------------------------------------------------------------------------------------


def seen(*conditions: tuple[str, str], **status: Any) -> dict[str, Any]:
    """A Job as the API server returns it, with these (type, reason) conditions, all True."""
    _, job = built()
    job["metadata"] |= {"uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    job["status"] = {
        "conditions": [
            {"type": kind, "status": "True", "reason": reason, "message": f"is {kind}"} for kind, reason in conditions
        ],
        **status,
    }
    return job


@pytest.mark.parametrize(
    ("conditions", "ready", "phase"),
    [
        ([], 0, JobPhase.CREATED),
        ([("Suspended", "")], 0, JobPhase.CREATED),
        ([], 1, JobPhase.RUNNING),
        ([("SuccessCriteriaMet", "")], 1, JobPhase.RUNNING),
        ([("FailureTarget", "PodFailurePolicy")], 0, JobPhase.CREATED),
        ([("SuccessCriteriaMet", ""), ("Complete", "")], 0, JobPhase.SUCCEEDED),
        ([("FailureTarget", ""), ("Failed", "BackoffLimitExceeded")], 0, JobPhase.FAILED),
    ],
)
def test_it_is_over_when_its_last_pod_is(conditions: list[tuple[str, str]], ready: int, phase: JobPhase) -> None:
    assert index_job.observe(seen(*conditions, ready=ready)).phase is phase


@pytest.mark.parametrize(("reason", "hopeless"), [("PodFailurePolicy", True), ("BackoffLimitExceeded", False)])
def test_a_failure_by_our_rule_is_told_from_one_by_the_limit(reason: str, hopeless: bool) -> None:
    job = index_job.observe(seen(("FailureTarget", reason), ("Failed", reason)))

    assert (job.is_hopeless, job.message) == (hopeless, "is Failed")


def test_a_job_that_nothing_was_said_about_yet_is_created() -> None:
    job = seen()
    del job["status"]

    assert (index_job.observe(job).phase, index_job.observe(job).deleting) == (JobPhase.CREATED, False)
