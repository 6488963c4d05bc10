"""The plain Kubernetes Job that indexes a stage's data before anything trains on it: one pod, no accelerator."""

from internvl_operator.api import labels
from internvl_operator.domain.actions import CreateIndexJob
from internvl_operator.domain.state import IndexJob, JobPhase
from internvl_operator.jobs.base import JsonObject, Platform
from internvl_operator.jobs.objects import config_map, metadata, run_labels
from internvl_operator.jobs.pod import CONTAINER, Duty, compute, pod_template
from internvl_trainer.contract.exit_codes import DO_NOT_RETRY
from internvl_trainer.contract.job import CONFIG_FILE, CONFIG_FOLDER

API_VERSION = "batch/v1"
KIND = "Job"

GRACE_SECONDS = 5
"""From SIGTERM to SIGKILL. A pod that indexes has nothing to commit, and Python as a container's first process hears
no SIGTERM unless it has asked for it."""

_HOPELESS = "PodFailurePolicy"
"""The Job controller's reason for a failure that our rule about exit codes has decided."""


def build(create: CreateIndexJob, platform: Platform) -> tuple[JsonObject, ...]:
    """The ConfigMap with the stage's config, then the Job.

    Raises:
        OverlayError: an overlay cannot be merged.
    """
    described = metadata(create.run, create.name, _labels(create))
    template = pod_template(create.stage, _duty(create), platform)
    job = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": described,
        "spec": {
            "backoffLimit": create.retries,
            "podFailurePolicy": {"rules": _rules()},
            "template": template,
        },
    }
    return config_map(described, {CONFIG_FILE: create.config.to_bytes().decode()}), job


def observe(job: JsonObject) -> IndexJob:
    """What a Job's conditions say. Those that only announce its end (FailureTarget, SuccessCriteriaMet) do not count:
    until its last pod has ended it is not over."""
    meta, status = job["metadata"], job.get("status", {})
    true = {
        condition["type"]: condition
        for condition in status.get("conditions") or ()
        if condition.get("status") == "True"
    }
    ended = true.get("Failed") or true.get("Complete") or {}
    return IndexJob(
        name=meta["name"],
        uid=meta["uid"],
        phase=_phase(set(true), ready=status.get("ready") or 0),
        message=ended.get("message", ""),
        is_hopeless=ended.get("reason") == _HOPELESS,
        deleting="deletionTimestamp" in meta,
    )


def _phase(true: set[str], *, ready: int) -> JobPhase:
    if "Failed" in true:
        return JobPhase.FAILED
    if "Complete" in true:
        return JobPhase.SUCCEEDED
    return JobPhase.RUNNING if ready else JobPhase.CREATED


def _labels(create: CreateIndexJob) -> dict[str, str]:
    return run_labels(create.run, {labels.INDEX: create.name})


def _rules() -> list[JsonObject]:
    """As an attempt is judged: what no retry cures ends it at once, and being told to stop is free."""
    codes = {"containerName": CONTAINER, "operator": "In", "values": sorted(DO_NOT_RETRY)}
    return [
        {"action": "FailJob", "onExitCodes": codes},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _duty(create: CreateIndexJob) -> Duty:
    limit = {"activeDeadlineSeconds": create.timeout_seconds} if create.timeout_seconds else {}
    return Duty(
        config_map=create.name,
        labels=_labels(create),
        command=("python3", "-m", "internvl_trainer.curation", "index", "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"),
        # Names with a slash are devices: accelerators and network cards are for training.
        resources={
            name: {resource: amount for resource, amount in amounts.items() if "/" not in resource}
            for name, amounts in compute(create.stage).items()
        },
        enforced={"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS, **limit},
    )
