"""`helm install` of the operator into a namespace that enforces Pod Security `restricted`."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.paths import REPOSITORY, State
from hack.demo.errors import DemoError
from hack.demo.target import CHART, Target

RELEASE = "internvl-operator"
SECRET = "object-store"


def namespace_objects(target: Target) -> list[dict[str, Any]]:
    """The namespace, and the Secret by which operator and trainers reach the object store."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": target.namespace,
                "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/enforce-version": "latest",
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": target.namespace},
            "type": "Opaque",
            "stringData": dict(target.storage.environment),
        },
    ]


def install(target: Target, *, timeout_seconds: float = 240.0) -> None:
    """`helm upgrade --install`, then wait until the operator is ready. Safe to run again.

    The CRD is applied beside it, since helm installs a chart's crds/ once and never updates them.

    Raises:
        DemoError: helm's own complaint.
    """
    kubectl = target.kubectl
    kubectl.apply(namespace_objects(target))
    for path in sorted((REPOSITORY / "crds").glob("*.yaml")):
        kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(path))
    kubectl.run(
        "wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinition",
        "internvltrainings.training.internvl.dev", timeout_seconds=70,
    )  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(target.values), file)
        file.flush()
        helm(
            target, "upgrade", "--install", RELEASE, str(CHART), "--skip-crds", "--values", file.name,
            "--wait", f"--timeout={timeout_seconds:.0f}s", timeout_seconds=timeout_seconds + 30,
        )  # fmt: skip


def helm(target: Target, *arguments: str, timeout_seconds: float = 60.0) -> str:
    """Standard output of helm on this target.

    Raises:
        DemoError: helm failed; the message is its own.
    """
    binary = State().binary("helm")
    command: list[str] = [str(binary if binary.exists() else Path("helm")), "--namespace", target.namespace]
    if target.kubeconfig is not None:
        command += ["--kubeconfig", str(target.kubeconfig)]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except FileNotFoundError:
        raise DemoError("helm was not found: put helm 3.14 or newer on PATH, or run make cluster-build") from None
    except subprocess.TimeoutExpired:
        raise DemoError(f"helm {arguments[0]} gave no answer within {timeout_seconds:.0f} s") from None
    if done.returncode:
        raise DemoError(f"helm {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
