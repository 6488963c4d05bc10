"""kubectl, called the way a user calls it, with objects in and objects out."""

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KubernetesObject = dict[str, Any]


class KubectlError(RuntimeError):
    """kubectl ended with an error; the message is its own."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl against one cluster.

    Attributes:
        binary: the kubectl to run.
        kubeconfig: None for the user's own (KUBECONFIG or ~/.kube/config and its current context).
        namespace: default namespace of every call.
    """

    binary: Path
    kubeconfig: Path | None
    namespace: str

    def run(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 60.0) -> str:
        """Standard output of `kubectl <arguments>`.

        Raises:
            KubectlError: exit status other than 0, or no answer in time.
        """
        command = [str(self.binary), "--namespace", self.namespace]
        if self.kubeconfig is not None:
            command += ["--kubeconfig", str(self.kubeconfig)]
        try:
            done = subprocess.run(
                [*command, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise KubectlError(f"kubectl {arguments[0]} gave no answer within {timeout_seconds:.0f} s") from None
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> str:
        """`kubectl apply` of objects; server-side, since some CRDs are larger than an annotation may be."""
        documents = yaml.safe_dump_all(list(objects), sort_keys=False)
        return self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=documents)

    def get(self, *arguments: str) -> KubernetesObject:
        """The parsed answer of `kubectl get <arguments> -o json`."""
        answer: KubernetesObject = json.loads(self.run("get", *arguments, "-o", "json"))
        return answer

    def items(self, *arguments: str) -> list[KubernetesObject]:
        """The items of a list."""
        return list(self.get(*arguments)["items"])

    def exists(self, kind: str, name: str) -> bool:
        """Whether an object is there."""
        return bool(self.run("get", kind, name, "--ignore-not-found", "-o", "name").strip())

    def delete(self, kind: str, *names: str, timeout_seconds: float = 180.0) -> None:
        """Delete objects and wait until they are gone; those that do not exist are fine."""
        self.run(
            "delete", kind, *names, "--ignore-not-found", f"--timeout={timeout_seconds:.0f}s",
            timeout_seconds=timeout_seconds + 10,
        )  # fmt: skip
