"""The PyTorchJob that is built, and what is read from one."""

from typing import Any

import pytest

from internvl_operator.domain.actions import CreateJob
from internvl_operator.domain.state import JobPhase
from internvl_operator.jobs.base import JobKind, MalformedChildError, Platform, ProgressEndpoint
from internvl_operator.jobs.pytorchjob import PyTorchJob
from internvl_trainer.contract import environment
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.progress import TOKEN_AUDIENCE
from tests.property.world import RUN, World, training_spec

pytestmark = pytest.mark.unit

KIND: JobKind = PyTorchJob()
ENDPOINT = ProgressEndpoint("https://operator.example/v1/progress", "-----BEGIN CERTIFICATE-----")
PLATFORM = Platform(progress=ENDPOINT)


def create(**changes: Any) -> CreateJob:
    """The creation of a run's first attempt."""
    world = World(training_spec(1, **changes))
    world.settle()
    return world.jobs[0].create


def built(platform: Platform = PLATFORM, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    config_map, job = KIND.build(create(**changes), platform)
    return config_map, job


def template(platform: Platform = PLATFORM, **changes: Any) -> dict[str, Any]:
    return built(platform, **changes)[1]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]


def container(platform: Platform = PLATFORM, **changes: Any) -> dict[str, Any]:
    return template(platform, **changes)["spec"]["containers"][0]


def variables(**changes: Any) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(**changes)["env"]}


# ---- build ---------------------------------------------------------------------------------------------------------


def test_there_are_workers_alone_and_nobody_restarts_them() -> None:
    _, job = built()

    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (2, "Never")
    assert job["spec"]["runPolicy"] == {"cleanPodPolicy": "Running"}
    assert job["spec"]["nprocPerNode"] == "2"


def test_both_objects_belong_to_the_run_and_carry_its_labels() -> None:
    for child in built():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (RUN.uid, True, True)
        assert child["metadata"]["name"] == "demo-stage0-a1"
        assert child["metadata"]["namespace"] == "team-a"
        assert child["metadata"]["labels"] == {
            "app.kubernetes.io/managed-by": "internvl-operator",
            "training.internvl.dev/run": RUN.uid,
            "training.internvl.dev/name": "demo",
            "training.internvl.dev/stage": "stage0",
            "training.internvl.dev/attempt": "1",
        }
    assert template()["metadata"]["labels"] == built()[0]["metadata"]["labels"]


def test_the_config_map_holds_the_job_config_with_the_pods_own_paths() -> None:
    config_map, _ = built()

    config = JobConfig.from_bytes(config_map["data"]["job.json"].encode())
    assert config.progress
    assert config.progress.url == ENDPOINT.url
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    assert config.progress.ca_file == "/etc/internvl/progress-ca.crt"
    assert config_map["data"]["progress-ca.crt"] == ENDPOINT.ca_certificate
    assert mounts["/etc/internvl"] == "config"
    assert config.progress.token_file
    assert mounts[config.progress.token_file.removesuffix("/token")] == "progress-token"


def test_the_token_is_made_for_our_audience_and_no_other_is_mounted() -> None:
    spec = template()["spec"]

    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "progress-token"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == TOKEN_AUDIENCE
    assert spec["automountServiceAccountToken"] is False


def test_without_an_endpoint_there_is_neither_token_nor_certificate() -> None:
    config_map, job = built(Platform())

    assert list(config_map["data"]) == ["job.json"]
    assert JobConfig.from_bytes(config_map["data"]["job.json"].encode()).progress is None
    assert "progress-token" not in str(job)


def test_the_launcher_is_told_its_place_in_the_job() -> None:
    assert container()["command"] == ["python3", "-m", "internvl_trainer.launch", "--config", "/etc/internvl/job.json"]
    told = variables()
    rank = told[environment.NODE_RANK]["fieldRef"]["fieldPath"]
    assert rank == "metadata.labels['training.kubeflow.org/replica-index']"
    assert told[environment.NODES] == "2"
    assert told[environment.PROCESSES_PER_NODE] == "2"
    assert told[environment.MASTER_ADDR] == "demo-stage0-a1-worker-0"
    assert told[environment.MASTER_PORT] == "23456"
    assert told[environment.SCRATCH] in {mount["mountPath"] for mount in container()["volumeMounts"]}


def test_credentials_come_by_reference_and_never_by_value() -> None:
    storage = {"uri": "s3://runs/demo", "secretRef": {"name": "s3-cred"}}

    told = variables(storage=storage)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert told[name] == {"secretKeyRef": {"name": "s3-cred", "key": name}}
    assert "AWS_ACCESS_KEY_ID" not in variables()


def test_temporary_credentials_bring_their_session_token_and_lasting_ones_need_none() -> None:
    told = variables(storage={"uri": "s3://runs/demo", "secretRef": {"name": "s3-cred"}})

    token = {"name": "s3-cred", "key": "AWS_SESSION_TOKEN", "optional": True}
    assert told["AWS_SESSION_TOKEN"] == {"secretKeyRef": token}
    assert "AWS_SESSION_TOKEN" not in variables()


def test_the_stores_authority_is_mounted_where_the_config_says() -> None:
    reference = {"name": "corp-ca", "key": "bundle.pem"}
    storage = {"uri": "s3://runs/demo", "endpointUrl": "https://s3.corp", "caConfigMap": reference}

    config_map, _ = built(storage=storage)

    config = JobConfig.from_bytes(config_map["data"]["job.json"].encode())
    (mount,) = [mount for mount in container(storage=storage)["volumeMounts"] if mount["name"] == "storage-ca"]
    assert mount == {"name": "storage-ca", "mountPath": "/etc/internvl-storage-ca", "readOnly": True}
    assert config.storage.ca_file == f"{mount['mountPath']}/ca.crt"
    volumes = template(storage=storage)["spec"]["volumes"]
    items = [{"key": "bundle.pem", "path": "ca.crt"}]
    assert {"name": "storage-ca", "configMap": {"name": "corp-ca", "items": items}} in volumes


def test_no_volume_is_mounted_inside_another_which_a_read_only_one_would_not_bear() -> None:
    storage = {"uri": "s3://runs/demo", "caConfigMap": {"name": "corp-ca"}}
    paths = [f"{mount['mountPath']}/" for mount in container(storage=storage)["volumeMounts"]]

    assert not [(one, other) for one in paths for other in paths if one != other and other.startswith(one)]


def test_without_an_authority_of_its_own_the_pod_has_no_volume_for_one() -> None:
    assert "storage-ca" not in str(template())


def test_accelerators_are_asked_for_by_name() -> None:
    resources = {"nodes": 2, "processesPerNode": 2, "gpuResource": "nvidia.com/gpu"}
    compute = {"requests": {"cpu": 8}, "limits": {"memory": "64Gi"}}

    asked = container(resources={**resources, "container": compute})["resources"]

    assert asked == {"requests": {"cpu": "8"}, "limits": {"memory": "64Gi", "nvidia.com/gpu": "2"}}
    assert container()["resources"] == {}


def test_pods_pass_pod_securitys_restricted_profile() -> None:
    spec = template()["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] != 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for item in spec["containers"]:
        assert item["securityContext"]["allowPrivilegeEscalation"] is False
        assert item["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    allowed = {"configMap", "emptyDir", "projected"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])


def test_shared_memory_is_as_large_as_the_user_says() -> None:
    volumes = template(resources={"nodes": 2, "processesPerNode": 2, "sharedMemory": "8Gi"})["spec"]["volumes"]

    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in volumes


def test_the_users_overlay_lies_over_the_platforms_and_neither_over_our_labels() -> None:
    platform = Platform(
        pod_template={"spec": {"nodeSelector": {"zone": "a", "disk": "ssd"}, "priorityClassName": "low"}}
    )
    overlay = {
        "metadata": {"labels": {"team": "vision", "training.internvl.dev/attempt": "9"}},
        "spec": {"nodeSelector": {"zone": "b"}, "terminationGracePeriodSeconds": 600},
    }

    laid = template(platform, podTemplate=overlay)

    assert laid["spec"]["nodeSelector"] == {"zone": "b", "disk": "ssd"}
    assert laid["spec"]["priorityClassName"] == "low"
    assert laid["metadata"]["labels"]["team"] == "vision"
    assert laid["metadata"]["labels"]["training.internvl.dev/attempt"] == "1"
    (grace,) = [
        item["value"] for item in laid["spec"]["containers"][0]["env"] if item["name"] == environment.GRACE_SECONDS
    ]
    assert grace == "600"


def test_the_longest_names_fit_into_a_service_name() -> None:
    longest = f"{'r' * 30}-{'s' * 16}-a999"

    assert len(f"{longest}-worker-999") == 63


# ---- observe -------------------------------------------------------------------------------------------------------


def seen(*conditions: tuple[str, str], **status: Any) -> dict[str, Any]:
    """A PyTorchJob as the API server returns it, with these (type, status) conditions."""
    _, job = built()
    job["metadata"] |= {"uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    job["status"] = {
        "conditions": [
            {"type": kind, "status": value, "lastTransitionTime": "2026-01-01T00:10:00Z", "message": f"is {kind}"}
            for kind, value in conditions
        ],
        **status,
    }
    return job


@pytest.mark.parametrize(
    ("conditions", "phase"),
    [
        ([], JobPhase.CREATED),
        ([("Created", "True")], JobPhase.CREATED),
        ([("Created", "True"), ("Suspended", "True")], JobPhase.CREATED),
        ([("Created", "True"), ("Running", "True")], JobPhase.RUNNING),
        ([("Created", "True"), ("Running", "True"), ("Suspended", "False")], JobPhase.RUNNING),
        ([("Created", "True"), ("Restarting", "True")], JobPhase.CREATED),
        ([("Created", "True"), ("Running", "False"), ("Succeeded", "True")], JobPhase.SUCCEEDED),
        ([("Created", "True"), ("Succeeded", "True"), ("Running", "False")], JobPhase.SUCCEEDED),
        ([("Created", "True"), ("Running", "False"), ("Failed", "True")], JobPhase.FAILED),
        ([("Failed", "True"), ("Succeeded", "True")], JobPhase.FAILED),
    ],
)
def test_a_condition_counts_where_it_is_true_wherever_it_stands(
    conditions: list[tuple[str, str]], phase: JobPhase
) -> None:
    assert KIND.observe(seen(*conditions)).phase is phase


def test_what_is_read_is_what_was_built() -> None:
    child = KIND.observe(seen(("Succeeded", "True"), completionTime="2026-01-01T00:20:00Z"))

    assert (child.name, child.uid, child.key) == ("demo-stage0-a1", "u1", ("stage0", 1))
    assert child.finished_at
    assert child.finished_at.isoformat() == "2026-01-01T00:20:00+00:00"
    assert child.message == "is Succeeded"


def test_a_failed_job_without_a_completion_time_ended_when_it_became_failed() -> None:
    child = KIND.observe(seen(("Failed", "True")))

    assert child.finished_at
    assert child.finished_at.minute == 10


def test_a_job_that_nothing_was_said_about_yet_is_created() -> None:
    job = seen()
    del job["status"]

    child = KIND.observe(job)

    assert (child.phase, child.finished_at, child.deleting) == (JobPhase.CREATED, None, False)


def test_a_job_with_a_foreign_label_is_refused_by_name() -> None:
    job = seen()
    job["metadata"]["labels"]["training.internvl.dev/attempt"] = "two"

    with pytest.raises(
        MalformedChildError, match=r"PyTorchJob demo-stage0-a1 has label training\.internvl\.dev/attempt"
    ):
        KIND.observe(job)
