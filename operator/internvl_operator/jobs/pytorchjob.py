"""Kubeflow's PyTorchJob v1, Worker-only: no Master, so no init container, and Succeeded means that all workers did."""

from internvl_operator.api.base import API_VERSION as TRAINING_API_VERSION
from internvl_operator.api.base import KIND as TRAINING_KIND
from internvl_operator.domain.actions import CreateJob
from internvl_operator.domain.attempts import JOB_API_VERSION, JOB_KIND
from internvl_operator.domain.state import ChildJob, JobPhase
from internvl_operator.jobs.base import JsonObject, Platform
from internvl_operator.jobs.pod import job_config, object_labels, pod_template
from internvl_operator.jobs.pods import attempt_key, timestamp
from internvl_trainer.contract.job import CONFIG_FILE, PROGRESS_CA_FILE

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
        data = {CONFIG_FILE: job_config(create, platform).to_bytes().decode()}
        if platform.progress is not None:
            data[PROGRESS_CA_FILE] = platform.progress.ca_certificate
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(create),
            "immutable": True,
            "data": data,
        }

    def _job(self, create: CreateJob, platform: Platform) -> JsonObject:
        template = pod_template(
            create, platform, node_rank_label=REPLICA_INDEX_LABEL, master_address=f"{create.name}-worker-0"
        )
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
    owner = {
        "apiVersion": TRAINING_API_VERSION,
        "kind": TRAINING_KIND,
        "name": create.run.name,
        "uid": create.run.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": create.name,
        "namespace": create.run.namespace,
        "labels": object_labels(create),
        "ownerReferences": [owner],
    }
