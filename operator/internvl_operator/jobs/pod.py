"""The trainer's pod template: what every kind of job runs, clean by Pod Security's `restricted` profile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from internvl_operator.domain.stages import STORAGE_CA_FILE, STORAGE_CA_FOLDER, StagePlan
from internvl_operator.jobs.base import JsonObject, Platform
from internvl_operator.jobs.overlay import lay_over
from internvl_trainer.contract import environment
from internvl_trainer.contract.job import CONFIG_FOLDER
from internvl_trainer.contract.progress import TOKEN_AUDIENCE

CONTAINER = "pytorch"
"""Name of the trainer's container; the training-operator asks for this very name."""

GRACE_SECONDS = 120
"""Default time from SIGTERM to SIGKILL: long enough to commit a checkpoint of the last whole step."""

USER_ID = 1000
SCRATCH_FOLDER = "/scratch"
TOKEN_FOLDER = "/var/run/secrets/internvl"
TOKEN_FILE = "token"
TOKEN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Duty:
    """What pods of a stage do, where those of one kind differ from those of another."""

    config_map: str
    """Name of the ConfigMap with the job config."""
    labels: Mapping[str, str]
    """By which the operator finds the pods; no overlay can replace them."""
    command: Sequence[str]
    resources: Mapping[str, Mapping[str, str]]
    """Requests and limits of the container."""
    environment: Sequence[JsonObject] = ()
    """Beyond scratch folder and credentials."""
    ports: Sequence[JsonObject] = ()
    reports: bool = False
    """Whether the pods need a token for the progress endpoint."""
    enforced: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the PodSpec that no overlay can replace."""


def pod_template(stage: StagePlan, duty: Duty, platform: Platform) -> JsonObject:
    """The template of every pod of a kind: ours, the platform's overlay over it, the run's over that.

    Raises:
        OverlayError: an overlay cannot be merged.
    """
    template: JsonObject = {"metadata": {}, "spec": _spec(stage, duty)}
    template = lay_over(template, platform.pod_template, "trainer.podTemplate")
    template = lay_over(template, stage.pod_template.to_dict(), "spec.podTemplate")
    # What the operator itself relies on comes last.
    template = lay_over(template, {"metadata": {"labels": duty.labels}, "spec": duty.enforced})
    grace = template["spec"].get("terminationGracePeriodSeconds", GRACE_SECONDS)
    told = {"name": CONTAINER, "env": [variable(environment.GRACE_SECONDS, grace)]}
    return lay_over(template, {"spec": {"containers": [told]}})


def compute(stage: StagePlan) -> dict[str, dict[str, str]]:
    """What each pod asks for of spec.resources.container, as written."""
    asked = stage.resources.container
    return {
        name: {resource: str(amount) for resource, amount in amounts.items()}
        for name, amounts in (("requests", asked.requests), ("limits", asked.limits))
    }


def variable(name: str, value: object) -> JsonObject:
    """An environment variable of a container."""
    return {"name": name, "value": str(value)}


def _spec(stage: StagePlan, duty: Duty) -> JsonObject:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "imagePullSecrets": [{"name": secret.name} for secret in stage.image.pull_secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": _volumes(stage, duty),
        "containers": [_container(stage, duty)],
    }


def _container(stage: StagePlan, duty: Duty) -> JsonObject:
    mounts = [
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "scratch", "mountPath": SCRATCH_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if duty.reports:
        mounts.append({"name": "progress-token", "mountPath": TOKEN_FOLDER, "readOnly": True})
    if stage.storage_ca is not None:
        mounts.append({"name": "storage-ca", "mountPath": STORAGE_CA_FOLDER, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": stage.image.ref,
        "imagePullPolicy": stage.image.pull_policy,
        "command": list(duty.command),
        "env": [*duty.environment, *_environment(stage)],
        "ports": list(duty.ports),
        "resources": {name: dict(amounts) for name, amounts in duty.resources.items() if amounts},
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The end of the log explains a crash that could not write its own termination message.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _environment(stage: StagePlan) -> list[JsonObject]:
    variables: list[JsonObject] = [
        variable(environment.SCRATCH, SCRATCH_FOLDER),
        # The root file system is read-only: caches of compilers and libraries go where the pod may write.
        variable("HOME", SCRATCH_FOLDER),
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


def _volumes(stage: StagePlan, duty: Duty) -> list[JsonObject]:
    resources = stage.resources
    volumes: list[JsonObject] = [
        {"name": "config", "configMap": {"name": duty.config_map}},
        {"name": "scratch", "emptyDir": {"sizeLimit": str(resources.scratch)} if resources.scratch else {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(resources.shared_memory)}},
    ]
    if duty.reports:
        token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_FILE}
        volumes.append({"name": "progress-token", "projected": {"sources": [{"serviceAccountToken": token}]}})
    if stage.storage_ca is not None:
        items = [{"key": stage.storage_ca.key, "path": STORAGE_CA_FILE}]
        volumes.append({"name": "storage-ca", "configMap": {"name": stage.storage_ca.name, "items": items}})
    return volumes
