"""Builds the cluster's Go programs from pinned modules, once, and says how long each took."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.paths import SOURCES, State
from hack.cluster.report import Report
from hack.cluster.settings import KUBERNETES_VERSION


@dataclass(frozen=True)
class Program:
    """One Go program: the folder of the module that pins it, its package, and what to expect of a first build."""

    name: str
    module: Path
    package: str
    minutes: float
    what: str
    linker: str = ""


PROGRAMS = (
    Program(
        "cluster",
        SOURCES,
        "./cmd/cluster",
        8,
        f"etcd and Kubernetes {KUBERNETES_VERSION}",
        # Clients, and charts by their kubeVersion, look at what the API server says that it is.
        linker=f"-X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
    ),
    Program("pause", SOURCES, "./cmd/pause", 0.1, "the pod sandbox's first process"),
    Program(
        "training-operator",
        SOURCES / "tools" / "training-operator",
        "github.com/kubeflow/training-operator/cmd/training-operator.v1",
        1.5,
        "Kubeflow training-operator",
    ),
    Program("coredns", SOURCES / "tools" / "coredns", "github.com/coredns/coredns", 2, "CoreDNS"),
    Program("helm", SOURCES / "tools" / "helm", "helm.sh/helm/v4/cmd/helm", 2, "Helm"),
)


def environment() -> dict[str, str]:
    """The environment of every `go` command: never another toolchain, never another module's settings."""
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        # Static programs run in an image that holds nothing else.
        "CGO_ENABLED": "0",
    }


def build_all(state: State, report: Report | None = None, only: Collection[str] = ()) -> None:
    """Builds each program (or `only` those named) that is missing or whose sources changed.

    Raises ClusterError, with the compiler's last lines, when one does not build.
    """
    report = report or Report()
    state.binaries.mkdir(parents=True, exist_ok=True)
    state.prepare()
    for program in PROGRAMS:
        if only and program.name not in only:
            continue
        digest = _digest(program)
        stamp = state.binaries / f".{program.name}.stamp"
        output = state.binary(program.name)
        if output.exists() and stamp.exists() and stamp.read_text() == digest:
            continue
        minutes = f"about {program.minutes:g} min on 2 cores without a cache"
        with report.step(f"building {program.what} ({minutes})"):
            _build(state, program, output)
        stamp.write_text(digest)


def module_folder(program: str, module: str) -> Path:
    """Where the sources of `module`, one that `program` is built from, lie in Go's module cache."""
    folder = next(candidate.module for candidate in PROGRAMS if candidate.name == program)
    done = subprocess.run(
        ["go", "list", "-m", "-json", module],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = json.loads(done.stdout).get("Dir") if done.returncode == 0 else None
    if not found:
        raise ClusterError(f"Go module {module} is not in the module cache: {done.stderr.strip()}")
    return Path(found)


def _build(state: State, program: Program, output: Path) -> None:
    log = state.log(f"build-{program.name}")
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    command = ["go", "build", f"-ldflags=-s -w {program.linker}".strip(), "-o", str(draft), program.package]
    started = time.monotonic()
    with log.open("wb") as sink:
        done = subprocess.run(
            # A long build must not starve what else runs on a small machine.
            ["nice", "-n", "5", *command],
            cwd=program.module,
            env=environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=3600,
        )
    if done.returncode:
        draft.unlink(missing_ok=True)
        raise ClusterError(
            f"{program.what} did not build (exit code {done.returncode} after {time.monotonic() - started:.0f} s)",
            log=log,
        )
    # Replaced, never rewritten: a running cluster keeps the file that it was started from.
    draft.replace(output)


def _digest(program: Program) -> str:
    version = subprocess.run(
        ["go", "version"], env=environment(), capture_output=True, text=True, check=False, timeout=60
    ).stdout
    digest = hashlib.sha256(f"{version}{program.package}{program.linker}".encode())
    own = sorted(program.module.glob("cmd/**/*.go")) if program.package.startswith("./") else []
    for source in [program.module / "go.mod", program.module / "go.sum", *own]:
        digest.update(source.read_bytes())
    return digest.hexdigest()
