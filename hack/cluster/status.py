"""What runs of the cluster, where it listens, and whether all of that is as it should be."""

import ipaddress
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from hack.cluster import cluster, debian, node, processes
from hack.cluster.build import PROGRAMS
from hack.cluster.errors import ClusterError
from hack.cluster.kubectl import Kubectl
from hack.cluster.paths import State
from hack.cluster.settings import MAX_NODES, Settings

# What is expected to run wherever a cluster was started.
_HOST_COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
    "s3",
)


@dataclass(frozen=True)
class Component:
    """One component: `memory` is resident bytes; `listens` are its addresses; `pid` is None when it is down."""

    name: str
    pid: int | None
    memory: int
    listens: list[str]
    log: str


@dataclass(frozen=True)
class Status:
    """Everything that `cluster-status` shows. `problems` is empty when all is well."""

    components: list[Component]
    nodes: dict[str, bool]
    versions: dict[str, str]
    problems: list[str] = field(default_factory=list)
    kubeconfig: str = ""
    s3_env: str = ""
    logs: str = ""

    @property
    def well(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {"well": self.well, **asdict(self)}


def collect(state: State) -> Status:
    """Looks at processes, listeners and the API server; changes nothing."""
    known = processes.recorded(state)
    count = sum(name.startswith("node-") for name in known) or 1
    settings = Settings.from_environment(count)
    listening = _listening()
    components, problems = [], []
    wanted = [*_HOST_COMPONENTS, *(one.name for one in settings.nodes)]
    for name in wanted:
        process = known.get(name)
        if process is None:
            components.append(Component(name, None, 0, [], str(state.log(name))))
            problems.append(f"{name} is not running: see {state.log(name)}, then make cluster-down cluster-up")
            continue
        components.append(_component(state, name, process, listening))
        if name.startswith("node-"):
            components += _agents(state, name, process, listening)
    problems += _foreign_listeners(state, listening)
    nodes: dict[str, bool] = {}
    if known.get("kube-apiserver"):
        try:
            ready = cluster.ready_nodes(Kubectl(state))
            nodes = {one.name: one.name in ready for one in settings.nodes}
            problems += [f"node {name} is not ready" for name, is_ready in nodes.items() if not is_ready]
        except ClusterError as error:
            problems.append(f"the API server does not answer: {error}")
    if not known:
        problems = ["no cluster is up: make cluster-up starts it"]
    return Status(
        components=components,
        nodes=nodes,
        versions={**{program.name: program.what for program in PROGRAMS}, **debian.versions(state)},
        problems=problems,
        kubeconfig=str(state.kubeconfig),
        s3_env=str(state.s3_env),
        logs=str(state.logs),
    )


def show(found: Status) -> None:
    """Prints the status for a person."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading, options in (("component", {}), ("pid", {"justify": "right"}), ("memory", {"justify": "right"})):
        table.add_column(heading, **options)  # type: ignore[arg-type]
    table.add_column("listens on")
    for one in found.components:
        state = f"{one.pid}" if one.pid else "[red]down[/red]"
        memory = f"{one.memory / 2**20:.0f} MB" if one.pid else ""
        table.add_row(one.name, state, memory, _shorten(one.listens))
    console.print(table)
    total = sum(one.memory for one in found.components) / 2**20
    console.print(f"\n{total:.0f} MB in all, pods not counted")
    for name, ready in found.nodes.items():
        console.print(f"{name} is {'[green]ready[/green]' if ready else '[red]not ready[/red]'}")
    if any(one.pid for one in found.components):
        console.print(f"\nexport KUBECONFIG={found.kubeconfig}", soft_wrap=True)
        console.print(f"S3 credentials: {found.s3_env}", soft_wrap=True)
    console.print(f"logs: {found.logs}", soft_wrap=True)
    for problem in found.problems:
        console.print(f"[red]{problem}[/red]", soft_wrap=True)


def is_private(address: str) -> bool:
    """Whether only this machine and its pods can reach a listener on `address`."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_loopback:
        return True
    return any(str(ip) == one.address for one in Settings.from_environment(MAX_NODES).nodes)


def _listening() -> dict[int, list[tuple[str, int]]]:
    """Process id -> addresses on which it listens (TCP) or receives (UDP), in the machine's network namespace."""
    found: dict[int, list[tuple[str, int]]] = {}
    for connection in psutil.net_connections(kind="inet"):
        if connection.pid is None or connection.raddr:
            continue
        if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
            found.setdefault(connection.pid, []).append((connection.laddr.ip, connection.laddr.port))
    return found


def _foreign_listeners(state: State, listening: dict[int, list[tuple[str, int]]]) -> list[str]:
    problems = []
    for process in processes.marked(state):
        for address, port in listening.get(process.pid, []):
            if not is_private(address):
                problems.append(
                    f"{process.name()} ({process.pid}) listens on {address}:{port}, beyond loopback and the bridges"
                )
    return problems


def _component(
    state: State, name: str, process: psutil.Process, listening: dict[int, list[tuple[str, int]]]
) -> Component:
    addresses = [f"{address}:{port}" for address, port in sorted(listening.get(process.pid, []))]
    try:
        memory = process.memory_info().rss
    except psutil.NoSuchProcess:
        memory = 0
    return Component(name, process.pid, memory, addresses, str(state.log(name)))


def _agents(
    state: State, name: str, process: psutil.Process, listening: dict[int, list[tuple[str, int]]]
) -> list[Component]:
    """containerd and the kubelet inside a node; pods are left out."""
    first = node.inside(process)
    if first is None:
        return []
    found = []
    for child in first.children():
        try:
            program = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if program and program[0].endswith("/containerd"):
            found.append(_component(state, f"{name}-containerd", child, listening))
        elif "kubelet" in program[:2]:
            found.append(_component(state, f"{name}-kubelet", child, listening))
    return found


def _shorten(addresses: list[str]) -> str:
    """`address:port,port ...`, an address only once."""
    ports: dict[str, list[str]] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        ports.setdefault(host, []).append(port)
    return "  ".join(f"{host}:{','.join(dict.fromkeys(found))}" for host, found in ports.items())
