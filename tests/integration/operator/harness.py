"""What these tests do by hand, since there is no node: be the kubelet, be the trainer, and start the operator."""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, utils

from internvl_operator.api import labels
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import CONFIG_FILE, JobConfig
from internvl_trainer.contract.manifest import ComponentManifest, LossSummary, Manifest, ManifestRef
from internvl_trainer.storage import ObjectStore

JsonObject = dict[str, Any]

TRAININGS = ("training.internvl.dev", "v1alpha1", "internvltrainings")
JOBS = ("kubeflow.org", "v1", "pytorchjobs")
PATIENCE = 30.0


def eventually[Value](what: str, look: Callable[[], Value], *, seconds: float = PATIENCE) -> Value:
    """What `look` returns as soon as it is true; an answer of the API server in between is no reason to give up."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
            last = found
        except client.ApiException as error:
            last = f"{error.status} {error.reason}"
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {last}")


class Cluster:
    """One namespace of a real API server, as its administrator, its users and its missing kubelet see it."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.core = client.CoreV1Api(api)
        self.custom = client.CustomObjectsApi(api)

    def apply(self, *objects: JsonObject) -> None:
        """Create objects."""
        for body in objects:
            utils.create_from_dict(self.api, body)

    def submit(self, body: JsonObject) -> str:
        """Create an InternVLTraining, and tell its UID."""
        created = self.custom.create_namespaced_custom_object(*_in(TRAININGS, self.namespace), body)
        return str(created["metadata"]["uid"])

    def training(self, name: str) -> JsonObject:
        found: JsonObject = self.custom.get_namespaced_custom_object(*_in(TRAININGS, self.namespace), name)
        return found

    def status(self, name: str) -> JsonObject:
        found: JsonObject = self.training(name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> JsonObject:
        conditions = self.status(name).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def reason(self, name: str, kind: str) -> str | None:
        """Why a condition is as it is; None while it was never set."""
        return self.condition(name, kind).get("reason")

    def change(self, name: str, spec: JsonObject) -> None:
        """Merge fields into a spec."""
        self.custom.patch_namespaced_custom_object(*_in(TRAININGS, self.namespace), name, {"spec": spec})

    def delete(self, name: str) -> None:
        self.custom.delete_namespaced_custom_object(*_in(TRAININGS, self.namespace), name)

    def jobs(self) -> dict[str, JsonObject]:
        """All PyTorchJobs by name."""
        listed = self.custom.list_namespaced_custom_object(*_in(JOBS, self.namespace))["items"]
        return {job["metadata"]["name"]: job for job in listed}

    def job(self, name: str) -> JsonObject:
        """A PyTorchJob that is expected to come; what its data needs to be indexed before succeeds."""

        def look() -> JsonObject | None:
            for pod in self.index_pods():
                self.end_pod(pod, 0)
            return self.jobs().get(name)

        return eventually(f"job {name}", look)

    def index_pods(self, run: str | None = None) -> list[str]:
        """Names of the pods that index data and have not ended, of one run or of all."""
        selector = labels.INDEX if run is None else f"{labels.INDEX},{labels.RUN_NAME}={run}"
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return [pod.metadata.name for pod in listed if pod.status.phase not in ("Succeeded", "Failed")]

    def index_data(self, run: str, exit_code: int = 0, message: str = "") -> str:
        """End the pod that indexes a run's data, which is expected to come, and tell its name."""
        (pod,) = eventually(f"a pod that indexes the data of {run}", lambda: self.index_pods(run))
        self.end_pod(pod, exit_code, message)
        return pod

    def index_jobs(self) -> dict[str, JsonObject]:
        """All index Jobs by name."""
        listed = client.BatchV1Api(self.api).list_namespaced_job(self.namespace, label_selector=labels.INDEX)
        return {job["metadata"]["name"]: job for job in self.api.sanitize_for_serialization(listed)["items"]}

    def delete_index_job(self, name: str) -> None:
        """Delete an index Job and its pods, as a person would."""
        client.BatchV1Api(self.api).delete_namespaced_job(name, self.namespace, propagation_policy="Background")

    def config(self, job: str) -> JobConfig:
        """The job config that pods of a job would read."""
        data = self.core.read_namespaced_config_map(job, self.namespace).data
        return JobConfig.from_bytes(data[CONFIG_FILE].encode())

    def settle_job(self, name: str, kind: str, message: str = "") -> None:
        """Set a job's condition, as the training-operator would: Running, Succeeded or Failed."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {
            "type": kind, "status": "True", "reason": f"PyTorchJob{kind}", "message": message,
            "lastUpdateTime": moment, "lastTransitionTime": moment,
        }  # fmt: skip
        status = {"conditions": [condition], "replicaStatuses": {"Worker": {}}}
        if kind != "Running":
            status["completionTime"] = moment
        self.custom.patch_namespaced_custom_object_status(*_in(JOBS, self.namespace), name, {"status": status})

    def start_pod(self, job: JsonObject, index: int = 0) -> str:
        """Make a job's worker pod, as the training-operator would, and say that it runs, as a kubelet would."""
        name = f"{job['metadata']['name']}-worker-{index}"
        template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
        owner = {
            "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "controller": True,
            "name": job["metadata"]["name"], "uid": job["metadata"]["uid"],
        }  # fmt: skip
        index_label = {"training.kubeflow.org/replica-index": str(index)}
        pod_labels = {**template["metadata"]["labels"], **index_label}
        metadata = {"name": name, "labels": pod_labels, "ownerReferences": [owner]}
        # No node: what the pod would run does not matter here, and the API server fills the volumes' defaults.
        spec = {"containers": [{"name": "pytorch", "image": "none"}]}
        self.core.create_namespaced_pod(self.namespace, {"metadata": metadata, "spec": spec})
        self.core.patch_namespaced_pod_status(name, self.namespace, {"status": {"phase": "Running"}})
        return name

    def end_pod(self, name: str, exit_code: int, message: str = "") -> None:
        """Say that a pod's container ended, as a kubelet would."""
        ended = {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else "Error", "message": message}
        container = {
            "name": "pytorch", "image": "none", "imageID": "", "ready": False, "restartCount": 0,
            "state": {"terminated": ended},
        }  # fmt: skip
        status = {"phase": "Succeeded" if exit_code == 0 else "Failed", "containerStatuses": [container]}
        self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

    def pod_token(self, pod: str, audience: str) -> str:
        """The token that the kubelet would project into a pod."""
        uid = self.core.read_namespaced_pod(pod, self.namespace).metadata.uid
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        return self.token("default", audiences=[audience], boundObjectRef=bound)

    def token(self, account: str, **spec: Any) -> str:
        """A token of a service account."""
        request = {"spec": {"expirationSeconds": 3600, "audiences": [], **spec}}
        answer = eventually(
            f"service account {account}",
            lambda: self.core.create_namespaced_service_account_token(account, self.namespace, request),
        )
        return str(answer.status.token)

    def events(self) -> list[tuple[str, str]]:
        """(reason, note) of all Events in the namespace. As plain objects: the client's model refuses those of
        controllers that give no eventTime."""
        listed = self.custom.list_namespaced_custom_object("events.k8s.io", "v1", self.namespace, "events")["items"]
        return [(event["reason"], event["note"]) for event in listed]


def commit_checkpoint(config: JobConfig, store: ObjectStore, folder: Path, *, step: int | None = None) -> Manifest:
    """Do what a trainer does at the end of a stage: objects, then the manifest, then what it publishes."""
    step = config.optimization.steps if step is None else step
    prefix = keys.checkpoint_prefix(config.storage.uri, config.run.uid, config.stage, step, config.attempt)
    objects = []
    for name in ("__0_0.distcp", "__1_0.distcp", ".metadata"):
        path = folder / name
        path.write_bytes(os.urandom(4096))
        objects.append(store.upload(path, prefix + name))
    manifest = Manifest(
        run=config.run,
        stage=config.stage,
        attempt=config.attempt,
        step=step,
        total_steps=config.optimization.steps,
        tokens=step * 100,
        data=DataPosition(packs=step * config.optimization.global_batch),
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        config_sha256="0" * 64,
        model=config.model,
        layout=config.layout,
        components={name: (f"{name}.weight",) for name in ("vision", "projector", "language", "optimizer", "state")},
        objects=tuple(objects),
        loss=LossSummary(first=5.0, last=1.5, steps=step),
        parents=config.init,
    )
    store.put_if_absent(prefix + keys.MANIFEST_NAME, manifest.to_bytes())
    for component in config.checkpoint.publish:
        _publish(manifest, prefix + keys.MANIFEST_NAME, component, config, store)
    return manifest


def _publish(manifest: Manifest, uri: str, component: Component, config: JobConfig, store: ObjectStore) -> None:
    offer = ComponentManifest(
        component=component,
        source=ManifestRef(uri=uri, sha256=digest(manifest)),
        run=manifest.run,
        stage=manifest.stage,
        attempt=manifest.attempt,
        step=manifest.step,
        created_at=manifest.created_at,
        vision=manifest.model.vision,
        tensors=manifest.components[component],
    )
    place = keys.component_uri(config.storage.uri, manifest.run.uid, manifest.stage, manifest.attempt, component)
    store.put_if_absent(place, offer.to_bytes())


def digest(manifest: Manifest) -> str:
    """The digest by which others refer to a manifest."""
    import hashlib

    return hashlib.sha256(manifest.to_bytes()).hexdigest()


class OperatorProcess:
    """The operator, started as its container starts it, with the rights of its own service account."""

    def __init__(self, settings: Path, kubeconfig: Path, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self._command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "internvl_operator.main"]
        self._command += [f"--config={settings}"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._environment = clean | {"KUBECONFIG": str(kubeconfig), "POD_NAME": "operator-0"} | environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stderr=output, stdout=output, env=self._environment)

    def kill(self) -> None:
        """End it as a lost node would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        """End it as the kubelet would, and tell its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def lines(self) -> str:
        return self.log.read_text()


def write_kubeconfig(path: Path, *, server: str, authority: str, token: str) -> None:
    """A kubeconfig with a bearer token."""
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "operator",
                "contexts": [{"name": "operator", "context": {"cluster": "test", "user": "operator"}}],
                "clusters": [
                    {"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}},
                ],
                "users": [{"name": "operator", "user": {"token": token}}],
            }
        )
    )
    path.chmod(0o600)


def decoded(secret: JsonObject) -> Iterator[tuple[str, str]]:
    """Keys and plain values of a Secret's data."""
    for key, value in secret["data"].items():
        yield key, base64.b64decode(value).decode()


def run_of(child: JsonObject) -> tuple[str, str]:
    """Run UID and stage of a child, by its labels."""
    given = child["metadata"]["labels"]
    return given[labels.RUN_UID], given[labels.STAGE]


def _in(resource: tuple[str, str, str], namespace: str) -> tuple[str, str, str, str]:
    group, version, plural = resource
    return group, version, namespace, plural
