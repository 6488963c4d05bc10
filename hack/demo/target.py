"""Where the demo runs: the local cluster of hack/cluster, or the cluster of the current kubeconfig.

Both give the same few facts, and nothing after this file asks which of the two it is.
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml

from hack.cluster import python_environment
from hack.cluster.paths import REPOSITORY, State
from hack.demo.errors import DemoError
from hack.demo.kubectl import Kubectl, KubectlError
from hack.demo.preflight import CREDENTIALS, SESSION, problems


@dataclass(frozen=True)
class Storage:
    """The object store, as this machine and the pods both reach it.

    `environment` holds the credentials for boto3's standard chain; it goes into a Secret and nowhere else.
    """

    uri: str
    endpoint_url: str | None
    region: str | None
    environment: Mapping[str, str] = field(repr=False)

    def spec(self, secret: str) -> dict[str, Any]:
        """The `storage` section of an InternVLTraining."""
        spec: dict[str, Any] = {"uri": f"{self.uri}/runs", "secretRef": {"name": secret}}
        if self.endpoint_url:
            spec["endpointUrl"] = self.endpoint_url
        if self.region:
            spec["region"] = self.region
        return spec


@dataclass(frozen=True)
class Target:
    """A cluster with an object store, ready for `helm install`.

    Attributes:
        kind: local or current.
        namespace: where operator and runs go; it enforces Pod Security `restricted`.
        kubeconfig: None for the user's own.
        values: helm values that make our images run here.
    """

    kind: str
    namespace: str
    kubeconfig: Path | None
    storage: Storage
    values: Mapping[str, Any]

    @property
    def kubectl(self) -> Kubectl:
        """kubectl on this target."""
        return Kubectl(Path(sys.executable).with_name("kubectl"), self.kubeconfig, self.namespace)


def local(namespace: str, state: State | None = None) -> Target:
    """The local cluster, which must be up (`make cluster-up`)."""
    state = state or State()
    if not state.kubeconfig.exists() or not state.s3_env.exists():
        raise DemoError("the local cluster is not up: run make cluster-up")
    variables = dict(line.split("=", 1) for line in shlex.split(state.s3_env.read_text(), comments=True) if "=" in line)
    storage = Storage(
        uri="s3://internvl",
        endpoint_url=variables["AWS_ENDPOINT_URL_S3"],
        region=variables["AWS_REGION"],
        environment={name: variables[name] for name in CREDENTIALS},
    )
    _make_bucket(storage)
    python_environment.mount(state, namespace)
    return Target("local", namespace, state.kubeconfig, storage, mounted_environment_values())


def _make_bucket(storage: Storage) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=storage.endpoint_url,
        region_name=storage.region,
        aws_access_key_id=storage.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=storage.environment["AWS_SECRET_ACCESS_KEY"],
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=storage.uri.removeprefix("s3://").partition("/")[0])


def mounted_environment_values() -> dict[str, Any]:
    """Helm values for a cluster whose nodes offer this machine's Python environment instead of images."""
    overlay: dict[str, Any] = python_environment.overlay()
    repository, _, tag = str(overlay["image"]).rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "command": [overlay["python"], "-m", "internvl_operator.main"],
        "extraEnv": overlay["env"],
        # The chart brings a /tmp of its own.
        "extraVolumes": [volume for volume in overlay["volumes"] if volume["name"] != "tmp"],
        "extraVolumeMounts": [mount for mount in overlay["volumeMounts"] if mount["name"] != "tmp"],
        "trainer": {
            "image": overlay["image"],
            "podTemplate": {
                "spec": {
                    "volumes": overlay["volumes"],
                    "containers": [{"name": "pytorch", "env": overlay["env"], "volumeMounts": overlay["volumeMounts"]}],
                }
            },
        },
    }


def current(namespace: str) -> Target:
    """The cluster of the current kubeconfig. Images, object store and credentials come from the environment.

    Raises:
        DemoError: a variable is missing, or the cluster lacks the PyTorchJob API.
    """
    missing = problems(os.environ)
    if missing:
        raise DemoError("\n".join(missing))
    images = {name: os.environ.get(name, "") for name in ("DEMO_OPERATOR_IMAGE", "DEMO_TRAINER_IMAGE")}
    extra = os.environ.get("DEMO_VALUES")
    storage = Storage(
        uri=os.environ["DEMO_STORAGE_URI"].rstrip("/"),
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"),
        region=os.environ.get("AWS_REGION"),
        environment={name: os.environ[name] for name in (*CREDENTIALS, SESSION) if os.environ.get(name)},
    )
    values: dict[str, Any] = {}
    if images["DEMO_OPERATOR_IMAGE"]:
        repository, _, tag = images["DEMO_OPERATOR_IMAGE"].rpartition(":")
        values["image"] = {"repository": repository, "tag": tag}
    if images["DEMO_TRAINER_IMAGE"]:
        values["trainer"] = {"image": images["DEMO_TRAINER_IMAGE"]}
    if extra:
        values |= _read_values(Path(extra))
    target = Target("current", namespace, None, storage, values)
    try:
        target.kubectl.run("get", "customresourcedefinition", "pytorchjobs.kubeflow.org", "-o", "name")
    except KubectlError as error:
        raise DemoError(
            f"the current cluster does not offer PyTorchJobs ({error}); install Kubeflow training-operator v1.9 there"
        ) from None
    return target


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DemoError(f"DEMO_VALUES: {path} cannot be used: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise DemoError(f"DEMO_VALUES: {path} holds a {type(values).__name__}, expected a mapping of helm values")
    return values


CHART = REPOSITORY / "charts" / "internvl-operator"
