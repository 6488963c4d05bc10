"""The local cluster comes up, heals, survives what kills it, and leaves nothing behind.

Takes a running cluster down. One that was up before is up again afterwards, but empty.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from hack.cluster import node, processes
from hack.cluster.paths import REPOSITORY, State
from hack.cluster.settings import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STATE = State()
COMMAND = [sys.executable, "-m", "hack.cluster"]
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "hello"},
    "spec": {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "hello",
                "image": "localhost/internvl-dev:latest",
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "nslookup kubernetes.default.svc.cluster.local && echo hello $(id -u)"],
                "securityContext": {"runAsUser": 65532},
            }
        ],
    },
}


def cluster(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def kubectl(*arguments: str, text: str | None = None) -> str:
    program = Path(sys.executable).with_name("kubectl")
    done = subprocess.run(
        [str(program), f"--kubeconfig={STATE.kubeconfig}", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_a_pod() -> str:
    """What a pod printed that resolved a name and ended well."""
    kubectl("apply", "--filename=-", text=json.dumps(POD))
    kubectl("wait", "pod/hello", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    said = kubectl("logs", "hello")
    kubectl("delete", "pod/hello", "--wait=true")
    return said


def leftovers() -> list[str]:
    """Everything of a cluster that is still on the machine, in words."""
    found = [f"process {process.pid} {process.name()}" for process in processes.marked(STATE)]
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(STATE.cluster) in line]
    found += [f"interface {one.bridge}" for one in Settings.from_environment(2).nodes if _exists(one.bridge)]
    found += [f"interface {path.name}" for path in Path("/sys/class/net").glob("veth*")]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/{node.cgroup(STATE)}")]
    found += [
        f"socket {path}"
        for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{Settings.from_environment().ports.base // 1000}*.sock")
    ]
    found += [f"data {path}" for path in (STATE.nodes, STATE.run, STATE.pki, STATE.kubeconfig) if path.exists()]
    return found


def _exists(interface: str) -> bool:
    return Path(f"/sys/class/net/{interface}").exists()


def network_namespaces(pids: Iterable[int]) -> set[str]:
    """The network namespaces of these processes, this one's own excepted."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
    return found - {str(Path("/proc/self/ns/net").readlink())}


def pods_namespaces() -> set[str]:
    """The network namespaces of everything that runs on the node."""
    first = processes.recorded(STATE)["node-0"]
    assert first is not None
    return network_namespaces(child.pid for child in first.children(recursive=True))


def eventually(test: object, what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if test():  # type: ignore[operator]
            return
        time.sleep(0.2)
    pytest.fail(f"not so after {seconds} s: {what}")


@pytest.fixture(scope="module", autouse=True)
def _a_machine_that_can() -> Iterator[None]:
    """Skips where no cluster can run; puts back a cluster that was up."""
    if os.geteuid() != 0:
        pytest.skip("the local cluster needs root")
    known = processes.recorded(STATE)
    nodes = sum(name.startswith("node-") for name in known)
    yield
    if nodes:
        cluster("up", "--nodes", str(nodes))


def test_comes_up_runs_a_pod_and_leaves_nothing() -> None:
    cluster("down")
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()

    cluster("up")
    status = json.loads(cluster("status", "--output", "json").stdout)
    assert status["problems"] == []
    assert status["nodes"] == {"node-0": True}
    assert oct(STATE.kubeconfig.stat().st_mode)[-3:] == oct(STATE.s3_env.stat().st_mode)[-3:] == "600"
    assert "hello 65532" in run_a_pod()
    assert "is up already" in cluster("up").stderr

    pods = pods_namespaces()
    assert pods, "training-operator's pod has one"
    cluster("down")
    assert leftovers() == []
    assert not pods & network_namespaces(psutil.pids())
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
    assert "no cluster is up" in cluster("down").stderr


def test_a_node_loses_power_and_comes_back() -> None:
    cluster("up")
    cluster("power-off", "node-0")
    assert "node-0 is not running" in cluster("status", check=False).stdout

    cluster("power-on", "node-0")
    assert "hello 65532" in run_a_pod()
    assert cluster("power-on", "node-0", check=False).stderr.startswith("error: 'node-0' is no node that is off")


def test_survives_a_predecessor_that_was_killed_half_way() -> None:
    cluster("down")
    with subprocess.Popen([*COMMAND, "up"], cwd=REPOSITORY, stderr=subprocess.DEVNULL) as half:
        eventually(lambda: (STATE.run / "node-0.pid").exists(), "the node was started")
        half.send_signal(signal.SIGKILL)
    assert processes.marked(STATE)

    assert "leftovers" in cluster("up").stderr
    assert json.loads(cluster("status", "--output", "json").stdout)["well"]


def test_heals_a_killed_kubelet_and_replaces_a_killed_node_and_control_plane() -> None:
    assert "run make cluster-down first" in cluster("up", "--nodes", "2", check=False).stderr
    cluster("down")
    cluster("up", "--nodes", "2")
    agents = {one["name"]: one for one in json.loads(cluster("status", "--output", "json").stdout)["components"]}
    os.kill(agents["node-1-kubelet"]["pid"], signal.SIGKILL)

    def healed() -> bool:
        found = json.loads(cluster("status", "--output", "json", check=False).stdout)
        kubelets = [one["pid"] for one in found["components"] if one["name"] == "node-1-kubelet"]
        return found["well"] and kubelets not in ([], [agents["node-1-kubelet"]["pid"]])

    eventually(healed, "the kubelet came back")
    # A pod is running when all power goes: the node with its pods, the API server and etcd.
    kubectl("apply", "--filename=-", text=json.dumps(POD).replace("nslookup kubernetes.default", "sleep 600; true"))
    kubectl("wait", "pod/hello", "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
    for name in ("node-0", "node-1", "kube-apiserver", "etcd"):
        os.kill(agents[name]["pid"], signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(agents["node-0-kubelet"]["pid"]), "the node took its kubelet along")
    status = cluster("status", "--output", "json", check=False)
    assert status.returncode == 1
    assert any("etcd is not running" in problem for problem in json.loads(status.stdout)["problems"])

    cluster("up")
    assert "hello 65532" in run_a_pod()
    cluster("down")
    assert leftovers() == []
