"""kubectl of the project's environment, pointed at this cluster and no other."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hack.cluster.errors import ClusterError
from hack.cluster.paths import State


class Kubectl:
    """Runs kubectl with the cluster's own kubeconfig, whatever KUBECONFIG says."""

    def __init__(self, state: State) -> None:
        program = Path(sys.executable).with_name("kubectl")
        if not program.exists():
            raise ClusterError(f"kubectl is missing at {program}: run `make venv`")
        self._command = [str(program), f"--kubeconfig={state.kubeconfig}"]

    def run(self, *arguments: str, text: str | None = None, seconds: float = 180) -> str:
        """Returns what kubectl printed. Raises ClusterError, with its complaint, when it fails."""
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` took longer than {seconds:g} s") from error
        if done.returncode:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout

    def apply(self, manifests: str) -> None:
        """Applies YAML documents on the server's side, the only way for a CRD of half a megabyte."""
        self.run("apply", "--server-side", "--force-conflicts", "--filename=-", text=manifests)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ... --output=json`, parsed."""
        found: dict[str, Any] = json.loads(self.run("get", *arguments, "--output=json"))
        return found
