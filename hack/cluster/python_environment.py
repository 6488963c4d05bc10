"""This machine's Python environment inside pods, read-only and without building an image of five gigabytes.

Pod Security `restricted` forbids hostPath, but not claims: local PersistentVolumes bring the machine's /usr, the Python
installation, the virtual environment and the project's sources to the same paths in a pod.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from hack.cluster import images
from hack.cluster.kubectl import Kubectl
from hack.cluster.paths import REPOSITORY, State

# Never the whole repository: the state folder in it holds the cluster's secrets.
_SOURCE_ROOTS = ("operator", "trainer", "cli")
_LABEL = {"app.kubernetes.io/managed-by": "internvl-local-cluster"}


def sources() -> dict[str, Path]:
    """What pods may mount: a short name for each folder of this machine."""
    found = {"usr": Path("/usr")}
    installation = Path(sys.base_prefix).resolve()
    if not installation.is_relative_to("/usr"):
        found["python"] = installation
    environment = Path(sys.prefix)
    if environment != installation:
        found["venv"] = environment
    for root in _SOURCE_ROOTS:
        if (REPOSITORY / root).is_dir():
            found[f"source-{root}"] = REPOSITORY / root
    return found


def claim_name(source: str) -> str:
    return f"internvl-env-{source}"


def overlay() -> dict[str, Any]:
    """What a pod template needs to run this environment; the keys are those of the pod's and the container's spec.

    `volumes` go to the pod; `volumeMounts`, `env` and `image` to the container; `python` is the interpreter to call.
    A writable /tmp is included, so that the root file system can be read-only.
    """
    found = sources()
    volumes: list[dict[str, object]] = [
        {"name": claim_name(name), "persistentVolumeClaim": {"claimName": claim_name(name), "readOnly": True}}
        for name in found
    ]
    mounts: list[dict[str, object]] = [
        {"name": claim_name(name), "mountPath": str(path), "readOnly": True} for name, path in found.items()
    ]
    volumes.append({"name": "tmp", "emptyDir": {}})
    mounts.append({"name": "tmp", "mountPath": "/tmp"})
    environment = Path(sys.prefix)
    variables = {
        "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin:/busybox",
        "HOME": "/tmp",
        # torch asks for the user's name unless these are set, and a uid without a passwd entry has none.
        "USER": "nonroot",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",
        "TRITON_CACHE_DIR": "/tmp/triton",
        # Its home is read-only or missing, so that nothing tries to write beside the sources.
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": "/tmp/matplotlib",
    }
    return {
        "image": images.DEVELOPMENT,
        "python": str(environment / "bin" / "python"),
        "volumes": volumes,
        "volumeMounts": mounts,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
    }


def manifests(state: State, namespace: str) -> list[dict[str, Any]]:
    """A volume and a claim for each source, bound to each other and to nothing else."""
    documents: list[dict[str, Any]] = []
    for name in sources():
        volume = f"internvl-env-{namespace}-{name}"
        common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume, "labels": _LABEL},
                "spec": {
                    **common,
                    "capacity": {"storage": "1Gi"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": namespace, "name": claim_name(name)},
                    # The path inside the node, where it is mounted read-only (node.py).
                    "local": {"path": str(state.environment / name)},
                    "nodeAffinity": {
                        "required": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "internvl.dev/local", "operator": "Exists"}]}
                            ]
                        }
                    },
                },
            }
        )
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim_name(name), "namespace": namespace, "labels": _LABEL},
                "spec": {**common, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
            }
        )
    return documents


def mount(state: State, namespace: str) -> dict[str, Any]:
    """Makes the claims in a namespace (which it makes if missing), and returns `overlay()`.

    Safe to call again; also brings back volumes that were released with a deleted namespace of the same name.
    Raises ClusterError when the cluster refuses.
    """
    kubectl = Kubectl(state)
    for name in sources():
        volume = f"internvl-env-{namespace}-{name}"
        found = kubectl.run(
            "get", "persistentvolume", volume, "--ignore-not-found", "--output=jsonpath={.status.phase}"
        )
        if found == "Released":
            # It remembers the claim that is gone by its uid and would never bind again.
            kubectl.run("delete", "persistentvolume", volume, "--wait=true")
    documents = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}]
    kubectl.apply(yaml.safe_dump_all(documents + manifests(state, namespace)))
    claims = [f"persistentvolumeclaim/{claim_name(name)}" for name in sources()]
    kubectl.run("wait", *claims, f"--namespace={namespace}", "--for=jsonpath={.status.phase}=Bound", "--timeout=30s")
    return overlay()
