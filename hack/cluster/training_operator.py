"""Kubeflow training-operator v1, as a pod with its admission webhook."""

import base64

import yaml

from hack.cluster import build, certs
from hack.cluster.errors import ClusterError
from hack.cluster.kubectl import Kubectl
from hack.cluster.paths import MANIFESTS, State

NAMESPACE = "kubeflow"
_MODULE = "github.com/kubeflow/training-operator"


def apply(state: State, kubectl: Kubectl) -> None:
    """Applies the CRD, the role and the deployment; returns before the pod is up. Raises ClusterError."""
    sources = build.module_folder("training-operator", _MODULE) / "manifests" / "base"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl.apply(
        "---\n".join(
            [
                yaml.safe_dump(namespace),
                (sources / "crds" / "kubeflow.org_pytorchjobs.yaml").read_text(),
                (sources / "rbac" / "role.yaml").read_text(),
                yaml.safe_dump(webhook_secret()),
                (MANIFESTS / "training-operator.yaml").read_text(),
            ]
        )
    )


def wait(state: State, kubectl: Kubectl, seconds: int = 90) -> None:
    """Returns when PyTorchJobs are validated and reconciled. Raises ClusterError when they are not in time."""
    where = f"--namespace={NAMESPACE}"
    try:
        kubectl.run("wait", "deployment/training-operator", where, "--for=condition=Available", f"--timeout={seconds}s")
    except ClusterError as error:
        log = state.log("training-operator")
        described = kubectl.run("describe", "pods", where)
        log.write_text(described + kubectl.run("logs", "deployment/training-operator", where, "--tail=100"))
        raise ClusterError(f"training-operator is not available after {seconds} s", log=log) from error


def webhook_secret() -> dict[str, object]:
    """The webhook's certificates in the form in which training-operator would have made them.

    It takes valid ones as they are. Made by itself, they would reach its folder only with the kubelet's next look at
    Secrets, up to a minute later. The names are those that its certificate check asks for.
    """
    authority = certs.Authority("training-operator-ca", dns_names=["training-operator-ca"], use_rsa=True)
    service = f"training-operator.{NAMESPACE}.svc"
    pair = authority.issue(service, hosts=[service])
    data = {
        "ca.crt": authority.pair.certificate,
        "ca.key": authority.pair.key,
        "tls.crt": pair.certificate,
        "tls.key": pair.key,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "training-operator-webhook-cert", "namespace": NAMESPACE},
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }
