"""Whether `make demo CLUSTER=current` has what it needs: one line for each thing that is missing, with its remedy.

Standard library alone, and nothing is changed: it runs before anything is installed (`python -m hack.demo.preflight`).
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from hack.cluster.paths import State

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SESSION = "AWS_SESSION_TOKEN"
"""Set beside the two where the credentials are temporary."""

_MEANINGS = {
    "DEMO_STORAGE_URI": "an s3://bucket/prefix that this machine and the pods reach",
    "AWS_ACCESS_KEY_ID": "credentials for it",
    "AWS_SECRET_ACCESS_KEY": "credentials for it",
    "DEMO_OPERATOR_IMAGE": "the operator's image, built from the Dockerfile",
    "DEMO_TRAINER_IMAGE": "the trainer's image, built from the Dockerfile",
}
_IMAGES = ("DEMO_OPERATOR_IMAGE", "DEMO_TRAINER_IMAGE")


def problems(environment: Mapping[str, str], find: Callable[[str], str | None] = shutil.which) -> list[str]:
    """One line for each thing that keeps the demo from running on the current kubeconfig's cluster."""
    # Values of one's own may name the images.
    wanted = [name for name in _MEANINGS if name not in _IMAGES or not environment.get("DEMO_VALUES")]
    found = [
        f"{name} is not set, but CLUSTER=current needs it ({_MEANINGS[name]}): export it; docs/tasks/demo.md has all"
        for name in wanted
        if not environment.get(name)
    ]
    uri = environment.get("DEMO_STORAGE_URI", "")
    if uri and not uri.startswith("s3://"):
        found.append(f"DEMO_STORAGE_URI is {uri!r}, but it must begin with s3://: name a bucket and a prefix")
    values = environment.get("DEMO_VALUES")
    if values and not Path(values).is_file():
        found.append(f"DEMO_VALUES names {values}, which is no file: correct the path")
    if not find("helm") and not State().binary("helm").exists():
        found.append("helm not found: put helm 3.14 or newer on PATH, or run make cluster-build")
    return found


def main() -> int:
    """Print the problems; 1 where there are any."""
    found = problems(os.environ)
    for line in found:
        sys.stderr.write(f"preflight: {line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
