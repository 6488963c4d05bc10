"""The trainer's pod template: what every kind of job runs, clean by Pod Security's `restricted` profile."""

from typing import Any

from internvl_operator.api import labels
from internvl_operator.domain.actions import CreateJob
from internvl_operator.domain.stages import StagePlan
from internvl_operator.jobs.base import JsonObject, Platform
from internvl_operator.jobs.overlay import lay_over
from internvl_trainer.contract import environment
from internvl_trainer.contract.job import CONFIG_FILE, CONFIG_FOLDER, PROGRESS_CA_FILE, JobConfig, ProgressConfig
from internvl_trainer.contract.progress import TOKEN_AUDIENCE

CONTAINER = "pytorch"
"""Name of the trainer's container; the training-operator asks for this very name."""

MASTER_PORT = 23456
GRACE_SECONDS = 120
"""Default time from SIGTERM to SIGKILL: long enough to commit a checkpoint of the last whole step."""

USER_ID = 1000
SCRATCH_FOLDER = "/scratch"
TOKEN_FOLDER = "/var/run/secrets/internvl"
TOKEN_FILE = "token"
TOKEN_SECONDS = 3600


def object_labels(create: CreateJob) -> dict[str, str]:
    """The labels of everything that belongs to an attempt."""
    return {
        labels.MANAGED_BY: labels.MANAGER,
        labels.RUN_UID: create.run.uid,
        labels.RUN_NAME: create.run.name,
        labels.STAGE: create.stage.name,
        labels.ATTEMPT: str(create.attempt),
    }


def job_config(create: CreateJob, platform: Platform) -> JobConfig:
    """The attempt's config as the pod reads it: with the progress endpoint and the pod's own paths."""
    if platform.progress is None:
        return create.config
    progress = ProgressConfig(
        url=platform.progress.url,
        ca_file=f"{CONFIG_FOLDER}/{PROGRESS_CA_FILE}",
        token_file=f"{TOKEN_FOLDER}/{TOKEN_FILE}",
        interval_seconds=platform.progress.interval_seconds,
    )
    return create.config.model_copy(update={"progress": progress})


def pod_template(create: CreateJob, platform: Platform, *, node_rank_label: str, master_address: str) -> JsonObject:
    """The template of every pod of an attempt: ours, the platform's overlay over it, the run's over that.

    Args:
        node_rank_label: pod label by which the job kind numbers its pods from 0.
        master_address: DNS name of pod 0.

    Raises:
        OverlayError: an overlay cannot be merged.
    """
    template: JsonObject = {"metadata": {}, "spec": _spec(create, platform, node_rank_label, master_address)}
    template = lay_over(template, platform.pod_template, "trainer.podTemplate")
    template = lay_over(template, create.stage.pod_template.to_dict(), "spec.podTemplate")
    # What the operator itself relies on comes last.
    grace = template["spec"].get("terminationGracePeriodSeconds", GRACE_SECONDS)
    enforced = {
        "metadata": {"labels": object_labels(create)},
        "spec": {
            "containers": [{"name": CONTAINER, "env": [_variable(environment.GRACE_SECONDS, grace)]}],
        },
    }
    return lay_over(template, enforced)


def _spec(create: CreateJob, platform: Platform, node_rank_label: str, master_address: str) -> JsonObject:
    image = create.stage.image
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "imagePullSecrets": [{"name": secret.name} for secret in image.pull_secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": _volumes(create, platform),
        "containers": [_container(create, platform, node_rank_label, master_address)],
    }


def _container(create: CreateJob, platform: Platform, node_rank_label: str, master_address: str) -> JsonObject:
    stage = create.stage
    mounts = [
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "scratch", "mountPath": SCRATCH_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if platform.progress is not None:
        mounts.append({"name": "progress-token", "mountPath": TOKEN_FOLDER, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": stage.image.ref,
        "imagePullPolicy": stage.image.pull_policy,
        "command": ["python3", "-m", "internvl_trainer.launch", "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "env": _environment(stage, node_rank_label, master_address),
        "ports": [{"name": "pytorchjob-port", "containerPort": MASTER_PORT}],
        "resources": _resources(stage),
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The end of the log explains a crash that could not write its own termination message.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _environment(stage: StagePlan, node_rank_label: str, master_address: str) -> list[JsonObject]:
    rank_path = f"metadata.labels['{node_rank_label}']"
    variables: list[JsonObject] = [
        {"name": environment.NODE_RANK, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": rank_path}}},
        _variable(environment.NODES, stage.nodes),
        _variable(environment.PROCESSES_PER_NODE, stage.processes_per_node),
        _variable(environment.MASTER_ADDR, master_address),
        _variable(environment.MASTER_PORT, MASTER_PORT),
        _variable(environment.SCRATCH, SCRATCH_FOLDER),
        # The root file system is read-only: caches of compilers and libraries go where the pod may write.
        _variable("HOME", SCRATCH_FOLDER),
    ]
    if stage.secret is not None:
        variables += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": stage.secret, "key": name}}}
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]
        # Only temporary credentials have one.
        token = {"name": stage.secret, "key": "AWS_SESSION_TOKEN", "optional": True}
        variables.append({"name": "AWS_SESSION_TOKEN", "valueFrom": {"secretKeyRef": token}})
    return variables


def _volumes(create: CreateJob, platform: Platform) -> list[JsonObject]:
    resources = create.stage.resources
    volumes: list[JsonObject] = [
        {"name": "config", "configMap": {"name": create.name}},
        {"name": "scratch", "emptyDir": {"sizeLimit": str(resources.scratch)} if resources.scratch else {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(resources.shared_memory)}},
    ]
    if platform.progress is not None:
        token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_FILE}
        volumes.append({"name": "progress-token", "projected": {"sources": [{"serviceAccountToken": token}]}})
    return volumes


def _resources(stage: StagePlan) -> JsonObject:
    compute = stage.resources.container
    requests: dict[str, Any] = {name: str(amount) for name, amount in compute.requests.items()}
    limits: dict[str, Any] = {name: str(amount) for name, amount in compute.limits.items()}
    if stage.resources.gpu_resource:
        # Extended resources cannot be overcommitted: the request follows from the limit.
        limits[stage.resources.gpu_resource] = str(stage.processes_per_node)
    return {name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts}


def _variable(name: str, value: object) -> JsonObject:
    return {"name": name, "value": str(value)}
