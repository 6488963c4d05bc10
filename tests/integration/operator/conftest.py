"""A real API server and a real S3 server; the operator itself runs as its own process under the chart's role."""

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from kubernetes import client, config, utils

from hack.cluster import build, control_plane, network
from hack.cluster.control_plane import ControlPlane
from hack.cluster.object_store import ObjectStore as S3Server
from hack.cluster.paths import REPOSITORY, State
from internvl_trainer.storage import ObjectStore, open_store
from tests.integration.operator.harness import (
    Cluster,
    JsonObject,
    OperatorProcess,
    decoded,
    eventually,
    write_kubeconfig,
)

CHART = REPOSITORY / "charts" / "internvl-operator"
BUCKET = "checkpoints"


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with our CRD and the PyTorchJob's."""
    with control_plane.running(tmp_path_factory.mktemp("control-plane"), controllers=True) as plane:
        api = config.new_client_from_config(str(plane.kubeconfig))
        module = build.module_folder("training-operator", "github.com/kubeflow/training-operator")
        for path in (
            CHART / "crds" / "internvltrainings.yaml",
            module / "manifests" / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml",
        ):
            body = yaml.safe_load(path.read_text())
            utils.create_from_dict(api, body)
            name = body["metadata"]["name"]
            eventually(f"CRD {name}", lambda name=name: _established(api, name))
        yield plane


@pytest.fixture
def api(api_server: ControlPlane) -> Iterator[client.ApiClient]:
    api = config.new_client_from_config(str(api_server.kubeconfig))
    yield api
    api.close()


@pytest.fixture
def cluster(api: client.ApiClient, s3_server: S3Server) -> Cluster:
    """A fresh namespace with the object store's Secret."""
    namespace = f"team-{uuid4().hex[:8]}"
    cluster = Cluster(api, namespace)
    credentials = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s3-credentials", "namespace": namespace},
            "stringData": credentials,
        },
    )
    return cluster


@pytest.fixture
def store(s3_server: S3Server) -> ObjectStore:
    """The object store as a trainer sees it."""
    return open_store(endpoint_url=s3_server.endpoint)


Make = Callable[..., JsonObject]


@pytest.fixture
def make_training(cluster: Cluster, s3_server: S3Server) -> Make:
    """InternVLTrainings of two stages with one worker each."""

    def make(name: str = "run", **spec: Any) -> JsonObject:
        return {
            "apiVersion": "training.internvl.dev/v1alpha1",
            "kind": "InternVLTraining",
            "metadata": {"name": name, "namespace": cluster.namespace},
            "spec": {
                "model": "tiny-1b-like",
                "image": {"ref": "trainer:test"},
                "storage": {
                    "uri": f"s3://{BUCKET}/{cluster.namespace}",
                    "endpointUrl": s3_server.endpoint,
                    "secretRef": {"name": "s3-credentials"},
                },
                "data": {"meta": "s3://data/meta.json", "tokenizer": "s3://data/tokenizer"},
                "runPolicy": {"retry": {"limit": 2, "backoffSeconds": {"initial": 0, "max": 1}}},
                "stages": [
                    {"name": "warmup", "trainable": ["projector"], "publish": ["vision"], **STAGE},
                    {"name": "full", "trainable": ["vision", "projector", "language"], **STAGE},
                ],
                **spec,
            },
        }

    return make


STAGE: JsonObject = {"steps": 20, "globalBatch": 2, "optimizer": {"peakLr": "1e-3"}, "checkpoint": {"everySteps": 10}}


class Installation:
    """The chart, installed for one namespace, and the operator's process in place of its Deployment."""

    def __init__(self, folder: Path, cluster: Cluster, server: str, values: list[str]) -> None:
        self.health_port, self.progress_port = network.free_ports(2)
        self.progress_url = f"https://localhost:{self.progress_port}"
        self._folder = folder
        objects = _render(cluster.namespace, [f"progress.publicUrl={self.progress_url}", *values])
        cluster.apply(*(body for body in objects if body["kind"] not in ("Deployment", "Service")))
        self.authority = self._write_settings(objects)
        token = cluster.token("release-internvl-operator")
        kubeconfig = folder / "operator.kubeconfig"
        with Path(cluster.api.configuration.ssl_ca_cert).open("rb") as ca:
            authority = base64.b64encode(ca.read()).decode()
        write_kubeconfig(kubeconfig, server=server, authority=authority, token=token)
        self.operator = OperatorProcess(
            folder / "settings.yaml", kubeconfig, folder / "operator.log", self._environment()
        )

    def _write_settings(self, objects: list[JsonObject]) -> Path:
        for body in objects:
            if body["kind"] == "ConfigMap":
                (self._folder / "settings.yaml").write_text(body["data"]["settings.yaml"])
            elif body["kind"] == "Secret":
                for name, value in decoded(body):
                    (self._folder / name).write_text(value)
        return self._folder / "ca.crt"

    def _environment(self) -> dict[str, str]:
        prefix = "INTERNVL_OPERATOR__"
        return {
            f"{prefix}HEALTH__PORT": str(self.health_port),
            f"{prefix}PROGRESS__PORT": str(self.progress_port),
            f"{prefix}PROGRESS__CERTIFICATE_FILE": str(self._folder / "tls.crt"),
            f"{prefix}PROGRESS__KEY_FILE": str(self._folder / "tls.key"),
            f"{prefix}PROGRESS__CA_FILE": str(self.authority),
            f"{prefix}RECONCILE__PROGRESS_SECONDS": "0.5",
            f"{prefix}LOGGING__LEVEL": "DEBUG",
        }


Install = Callable[..., Installation]


@pytest.fixture
def install(tmp_path: Path, cluster: Cluster, api_server: ControlPlane) -> Iterator[Install]:
    """Installs the chart; the operator that is started from it ends with the test and must not have met a 403."""
    made: list[Installation] = []

    def install(*values: str) -> Installation:
        folder = tmp_path / f"operator-{len(made)}"
        folder.mkdir()
        made.append(Installation(folder, cluster, api_server.url, list(values)))
        return made[-1]

    yield install
    for installation in made:
        if installation.operator.running:
            installation.operator.stop()


@pytest.fixture
def operator(install: Install) -> Iterator[OperatorProcess]:
    """A running operator. Whatever it did in the test, its own role allowed it."""
    operator = install().operator
    operator.start()
    yield operator
    lines = operator.lines()
    assert "Forbidden" not in lines, lines
    assert "Traceback" not in lines, lines


def _render(namespace: str, values: list[str]) -> list[JsonObject]:
    state = State()
    if not state.binary("helm").exists():
        build.build_all(state, only=("helm",))
    command = [str(state.binary("helm")), "template", "release", str(CHART), f"--namespace={namespace}"]
    command += [f"--set={value}" for value in values]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert rendered.returncode == 0, rendered.stderr
    return [body for body in yaml.safe_load_all(rendered.stdout) if body]


def _established(api: client.ApiClient, name: str) -> bool:
    found = client.ApiextensionsV1Api(api).read_custom_resource_definition(name)
    conditions = found.status.conditions or []
    return any(condition.type == "Established" and condition.status == "True" for condition in conditions)
