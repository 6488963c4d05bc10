"""What is missing is said in one clear line with its remedy, before anything is changed."""

import os
import shutil
import socket
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from hack.cluster import preflight
from hack.cluster.paths import REPOSITORY, State
from hack.cluster.settings import PORTS_VARIABLE, TAKE_OVER_VARIABLE, Settings

pytestmark = pytest.mark.unit

Usage = namedtuple("Usage", "total used free")


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert preflight._root() == (
        "user id is 1000, but containers need root: run as root (sudo make cluster-up), "
        "or use a cluster that you have: set KUBECONFIG (kind, minikube, a real one)"
    )


def test_without_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert preflight._go() == "go not found: install Go 1.26 or newer and put its bin folder on PATH"


def test_with_an_old_go(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout="go1.19.8\n", stderr="")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/go")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert preflight._go() == (
        "Go is 1.19.8, but 1.26 is needed: install Go 1.26 or newer and put its bin folder on PATH"
    )


def test_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "apt-get" else f"/usr/bin/{name}")
    assert preflight._system() == (
        "apt-get not found: the container runtime comes from Debian 12 packages, so use Debian 12"
    )


@pytest.mark.parametrize(("free", "built", "enough"), [(24e9, False, False), (26e9, False, True), (6e9, True, True)])
def test_with_little_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, built: bool, enough: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100e9, 0, free))
    state = State(tmp_path)
    if built:
        for path in (state.binary("helm"), state.debian / ".stamp"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    line = preflight._disk(state)
    assert (
        line is None
        if enough
        else line == (f"24 GB free at {REPOSITORY}, but 25 GB are needed: free some, or move the repository")
    )


def test_in_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    assert preflight._path_length(State(Path("/srv/.state"))) is None
    line = preflight._path_length(State(Path("/" + "long" * 25)))
    assert line is not None
    assert "move the repository to a shorter path" in line


def test_with_a_port_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        port = holder.getsockname()[1]
        # Moves etcd onto the port that is taken.
        monkeypatch.setenv(PORTS_VARIABLE, str(port - 379))
        lines = preflight._ports(Settings.from_environment(), {tmp_path})
        assert any(
            line.startswith(f"port {port}, which etcd needs, is in use by ")
            and f"(process {os.getpid()}): end it, or set {PORTS_VARIABLE} to another base than {port - 379}" in line
            for line in lines
        )


def test_a_port_that_our_own_cluster_holds_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "_listening", lambda: {("127.0.0.1", 26379): "1"})
    monkeypatch.setattr(preflight, "_process", lambda _: (4711, "cluster"))
    monkeypatch.setattr(preflight, "_owner", lambda pid: tmp_path if pid == 4711 else None)
    assert preflight._ports(Settings.from_environment(), {tmp_path}) == []
    assert len(preflight._ports(Settings.from_environment(), set())) == 1


def test_another_clones_cluster_is_named_and_its_ports_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in (TAKE_OVER_VARIABLE, "CI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(preflight, "_owners", lambda: {"ivt0": tmp_path})
    mine = tmp_path / "mine"
    assert preflight.network_problems(Settings.from_environment(), mine) == [
        f"the cluster in {tmp_path} is up, and one machine holds one: run make cluster-down there, "
        f"or set {TAKE_OVER_VARIABLE}=1 to end it from here"
    ]
    monkeypatch.setenv(TAKE_OVER_VARIABLE, "1")
    assert preflight.replaceable(mine) == {tmp_path}


def test_a_cluster_whose_folder_is_gone_may_be_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "_owners", lambda: {"ivt0": tmp_path / "gone", "ivt1": tmp_path})
    assert preflight.replaceable(tmp_path) == {tmp_path / "gone"}


def test_with_no_python_that_starts(tmp_path: Path) -> None:
    # A shim as pyenv makes it: a name on PATH that fails.
    for name in ("python3", "python3.12"):
        shim = tmp_path / name
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
    tools = {"PATH": f"{tmp_path}:/nowhere", "HOME": str(tmp_path)}
    for name in ("dirname", "bash", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/usr/bin/bash", str(REPOSITORY / "hack/preflight.sh"), "venv"],
        env=tools,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "preflight: no Python 3.12 or newer that starts was found on PATH or in ~/.pyenv/versions: "
        "install one (with its venv module), or name one in INTERNVL_PYTHON\n"
    )
