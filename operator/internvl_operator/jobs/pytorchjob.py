"""Kubeflow's PyTorchJob v1, Worker-only: no Master, so no init container, and Succeeded means that all workers did."""

from internvl_operator.api import labels
from internvl_operator.domain.actions import CreateJob
from internvl_operator.domain.attempts import JOB_API_VERSION, JOB_KIND
from internvl_operator.domain.stages import StagePlan
from internvl_operator.domain.state import ChildJob, JobPhase
from internvl_operator.jobs.base import JsonObject, Platform
from internvl_operator.jobs.objects import config_map, metadata, run_labels
from internvl_operator.jobs.pod import TOKEN_FILE, TOKEN_FOLDER, Duty, compute, pod_template, variable
from internvl_operator.jobs.pods import attempt_key, timestamp
from internvl_trainer.contract import environment
from internvl_trainer.contract.job import CONFIG_FILE, CONFIG_FOLDER, PROGRESS_CA_FILE, JobConfig, ProgressConfig

MASTER_PORT = 23456
REPLICA_INDEX_LABEL = "training.kubeflow.org/replica-index"
"""Set by the training-operator on every pod: its number among the workers."""

_PHASES = (
    ("Failed", JobPhase.FAILED),
    ("Succeeded", JobPhase.SUCCEEDED),
    ("Running", JobPhase.RUNNING),
)
"""Condition types in the order in which they win. Failed is sticky; a job that ended keeps no Running=True."""


class PyTorchJob:
    """The job kind `kubeflow.org/v1 PyTorchJob`."""

    api_version = JOB_API_VERSION
    kind = JOB_KIND

    def build(self, create: CreateJob, platform: Platform) -> tuple[JsonObject, ...]:
        """The attempt's ConfigMap, then its PyTorchJob."""
        return self._config_map(create, platform), self._job(create, platform)

    def observe(self, job: JsonObject) -> ChildJob:
        """What a PyTorchJob's conditions say. A condition counts where its status is True, wherever it stands: the
        last one of the list can be an old one (a resumed job ends with Suspended=False)."""
        metadata, status = job["metadata"], job.get("status", {})
        key = attempt_key(job, self.kind)
        true = {
            condition["type"]: condition
            for condition in status.get("conditions") or ()
            if condition.get("status") == "True"
        }
        name, phase = next(((name, phase) for name, phase in _PHASES if name in true), ("Created", JobPhase.CREATED))
        condition = true.get(name, {})
        finished = phase in (JobPhase.SUCCEEDED, JobPhase.FAILED)
        ended_at = status.get("completionTime") or condition.get("lastTransitionTime")
        created_at = timestamp(metadata["creationTimestamp"])
        assert created_at is not None
        return ChildJob(
            name=metadata["name"],
            uid=metadata["uid"],
            stage=key.stage,
            attempt=key.attempt,
            phase=phase,
            created_at=created_at,
            finished_at=timestamp(ended_at) if finished else None,
            message=condition.get("message", ""),
            deleting="deletionTimestamp" in metadata,
        )

    def _config_map(self, create: CreateJob, platform: Platform) -> JsonObject:
        data = {CONFIG_FILE: _job_config(create, platform).to_bytes().decode()}
        if platform.progress is not None:
            data[PROGRESS_CA_FILE] = platform.progress.ca_certificate
        return config_map(_metadata(create), data)

    def _job(self, create: CreateJob, platform: Platform) -> JsonObject:
        template = pod_template(create.stage, _duty(create, platform), platform)
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": _metadata(create),
            "spec": {
                "nprocPerNode": str(create.stage.processes_per_node),
                # Failed pods stay for their exit codes and logs, the others go and free their accelerators.
                "runPolicy": {"cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": {
                    "Worker": {"replicas": create.stage.nodes, "restartPolicy": "Never", "template": template}
                },
            },
        }


def _metadata(create: CreateJob) -> JsonObject:
    return metadata(create.run, create.name, _labels(create))


def _labels(create: CreateJob) -> dict[str, str]:
    return run_labels(create.run, {labels.STAGE: create.stage.name, labels.ATTEMPT: str(create.attempt)})


def _job_config(create: CreateJob, platform: Platform) -> JobConfig:
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


def _duty(create: CreateJob, platform: Platform) -> Duty:
    """To train: as one of several nodes, each with a launcher that knows its place in the job."""
    stage = create.stage
    rank_path = f"metadata.labels['{REPLICA_INDEX_LABEL}']"
    return Duty(
        config_map=create.name,
        labels=_labels(create),
        command=("python3", "-m", "internvl_trainer.launch", "--config", f"{CONFIG_FOLDER}/{CONFIG_FILE}"),
        resources=_resources(stage),
        environment=(
            {"name": environment.NODE_RANK, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": rank_path}}},
            variable(environment.NODES, stage.nodes),
            variable(environment.PROCESSES_PER_NODE, stage.processes_per_node),
            variable(environment.MASTER_ADDR, f"{create.name}-worker-0"),
            variable(environment.MASTER_PORT, MASTER_PORT),
        ),
        ports=({"name": "pytorchjob-port", "containerPort": MASTER_PORT},),
        reports=platform.progress is not None,
    )


def _resources(stage: StagePlan) -> dict[str, dict[str, str]]:
    asked = compute(stage)
    if stage.resources.gpu_resource:
        # Extended resources cannot be overcommitted: the request follows from the limit.
        asked["limits"][stage.resources.gpu_resource] = str(stage.processes_per_node)
    return asked
