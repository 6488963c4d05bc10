"""etcd, the API server, the controller manager and the scheduler: how they are started, alone or in a cluster."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import build, certs, network, processes, waiting
from hack.cluster.errors import ClusterError
from hack.cluster.paths import State, write_private
from hack.cluster.processes import Started

# Host names that pods and the host reach the API server by.
_SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True)
class Endpoint:
    """Where the control plane listens.

    `advertise` is what the `kubernetes` Service points at; None leaves that Service without endpoints, which is
    right without a node.
    """

    address: str
    advertise: str | None
    services: str
    api_service: str
    apiserver_port: int
    etcd_port: int
    etcd_peer_port: int
    controller_manager_port: int
    scheduler_port: int

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.apiserver_port}"

    @property
    def etcd_url(self) -> str:
        return f"https://127.0.0.1:{self.etcd_port}"


def write_certificates(state: State, endpoint: Endpoint, nodes: dict[str, str] | None = None) -> None:
    """Makes two authorities (etcd trusts none of the cluster's users) and a certificate for each component.

    `nodes` maps node names to addresses. Kubeconfigs go to `<pki>/<component>.kubeconfig` and `state.kubeconfig`.
    """
    etcd = certs.Authority("internvl-local-etcd")
    etcd.pair.write(state.pki, "etcd-ca")
    etcd.issue("etcd", hosts=["localhost", "127.0.0.1"]).write(state.pki, "etcd")

    authority = certs.Authority("internvl-local")
    authority.pair.write(state.pki, "ca")
    write_private(state.pki / "service-accounts.key", certs.new_signing_key())
    hosts = [*_SERVICE_NAMES, "localhost", "127.0.0.1", endpoint.address, endpoint.api_service]
    authority.issue("kube-apiserver", hosts=list(dict.fromkeys(hosts))).write(state.pki, "apiserver")
    authority.issue("kube-apiserver-kubelet-client", ["system:masters"]).write(state.pki, "kubelet-client")

    users: dict[str, tuple[str, list[str]]] = {
        "kube-controller-manager": ("system:kube-controller-manager", []),
        "kube-scheduler": ("system:kube-scheduler", []),
        "kube-proxy": ("system:kube-proxy", []),
        "coredns": ("system:coredns", []),
    }
    for component, (user, groups) in users.items():
        _write_kubeconfig(state.pki / f"{component}.kubeconfig", endpoint, authority, authority.issue(user, groups))
    for name, address in (nodes or {}).items():
        pair = authority.issue(f"system:node:{name}", ["system:nodes"], hosts=[name, address])
        pair.write(state.pki, name)
        _write_kubeconfig(state.pki / f"{name}.kubeconfig", endpoint, authority, pair)
    administrator = authority.issue("internvl-local-admin", ["system:masters"])
    administrator.write(state.pki, "admin")
    _write_kubeconfig(state.kubeconfig, endpoint, authority, administrator)


def _write_kubeconfig(path: Path, endpoint: Endpoint, authority: certs.Authority, user: certs.Pair) -> None:
    write_private(path, certs.kubeconfig(endpoint.url, authority.pair.certificate, user))


def etcd_command(state: State, endpoint: Endpoint) -> list[str]:
    """etcd speaks on loopback alone, and only to holders of a certificate of its own authority."""
    pki = state.pki
    peer = f"https://127.0.0.1:{endpoint.etcd_peer_port}"
    trust = [
        f"--{side}{flag}={pki / file}"
        for side in ("", "peer-")
        for flag, file in (
            ("cert-file", "etcd.crt"),
            ("key-file", "etcd.key"),
            ("trusted-ca-file", "etcd-ca.crt"),
        )
    ]
    return [
        str(state.binary("cluster")),
        "etcd",
        f"--data-dir={state.etcd}",
        f"--listen-client-urls={endpoint.etcd_url}",
        f"--advertise-client-urls={endpoint.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        *trust,
        "--client-cert-auth",
        "--peer-client-cert-auth",
        # The data is as throw-away as the cluster: no reason to wait for the disk.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_command(state: State, endpoint: Endpoint) -> list[str]:
    pki = state.pki
    reconciler = (
        ["--endpoint-reconciler-type=none"]
        if endpoint.advertise is None
        else [f"--advertise-address={endpoint.advertise}"]
    )
    return [
        str(state.binary("cluster")),
        "kube-apiserver",
        f"--etcd-servers={endpoint.etcd_url}",
        f"--etcd-cafile={pki / 'etcd-ca.crt'}",
        f"--etcd-certfile={pki / 'etcd.crt'}",
        f"--etcd-keyfile={pki / 'etcd.key'}",
        f"--bind-address={endpoint.address}",
        f"--secure-port={endpoint.apiserver_port}",
        *reconciler,
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        # Nothing resolves a node's name on the host.
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-account-key-file={pki / 'service-accounts.key'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={endpoint.services}",
        "--profiling=false",
    ]


def controller_manager_command(state: State, endpoint: Endpoint, extra: Sequence[str] = ()) -> list[str]:
    pki = state.pki
    kubeconfig = pki / "kube-controller-manager.kubeconfig"
    return [
        str(state.binary("cluster")),
        "kube-controller-manager",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={endpoint.controller_manager_port}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--service-account-private-key-file={pki / 'service-accounts.key'}",
        "--use-service-account-credentials=true",
        # Some forty controllers fetch a token each when they start: 5 s at the default of 20 requests a second.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        # A claim that is seen before its volume waits for the next round: 15 s by default.
        "--pvclaimbinder-sync-period=1s",
        "--leader-elect=false",
        "--profiling=false",
        *extra,
    ]


def scheduler_command(state: State, endpoint: Endpoint) -> list[str]:
    kubeconfig = state.pki / "kube-scheduler.kubeconfig"
    return [
        str(state.binary("cluster")),
        "kube-scheduler",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={endpoint.scheduler_port}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def start_storage_and_api(state: State, endpoint: Endpoint, *, dies_with_parent: bool = False) -> list[Started]:
    """Starts etcd and the API server together: the latter waits for the former by itself."""
    commands = {"etcd": etcd_command(state, endpoint), "kube-apiserver": apiserver_command(state, endpoint)}
    return [_start(state, name, command, dies_with_parent=dies_with_parent) for name, command in commands.items()]


def wait_for_api(state: State, endpoint: Endpoint, components: Sequence[Started], seconds: float = 60) -> None:
    """Returns when the API server says that it is ready. Raises ClusterError when it is not in time."""
    client = (state.pki / "admin.crt", state.pki / "admin.key")
    apiserver = components[-1]
    waiting.until(
        f"kube-apiserver at {endpoint.url} ready",
        lambda: waiting.answers(f"{endpoint.url}/readyz", state.pki / "ca.crt", client),
        seconds,
        apiserver,
        *components[:-1],
    )


def start_controllers(
    state: State,
    endpoint: Endpoint,
    *,
    scheduler: bool = True,
    extra: Sequence[str] = (),
    dies_with_parent: bool = False,
) -> list[Started]:
    """Starts the controller manager and, unless told otherwise, the scheduler."""
    commands = {"kube-controller-manager": controller_manager_command(state, endpoint, extra)}
    if scheduler:
        commands["kube-scheduler"] = scheduler_command(state, endpoint)
    return [_start(state, name, command, dies_with_parent=dies_with_parent) for name, command in commands.items()]


def _start(state: State, name: str, command: list[str], *, dies_with_parent: bool) -> Started:
    started = processes.start(state, name, command, dies_with_parent=dies_with_parent)
    processes.record(state, started)
    return started


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane without a node, for integration tests."""

    kubeconfig: Path
    url: str
    state: State


@contextlib.contextmanager
def running(folder: Path | None = None, *, controllers: bool = False) -> Iterator[ControlPlane]:
    """A real API server on loopback and free ports, for the time of a `with` block; no root and no node needed.

    `folder` keeps its state (default: a temporary folder); `controllers` also runs the controller manager, without
    which there are no garbage collection, no default service accounts and no deletion of namespaces.
    The processes are ended at the block's end, and by the kernel if this process is killed.

    Raises ClusterError when the control plane was not built yet (`make cluster-build`) or does not start.
    """
    program = State().binary("cluster")
    if not program.exists():
        build.build_all(State(), only=("cluster",))
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="internvl-api-")))
        state = State(folder)
        state.prepare()
        state.binaries.mkdir(exist_ok=True)
        if not state.binary("cluster").exists():
            state.binary("cluster").symlink_to(program)
        ports = network.free_ports(5)
        endpoint = Endpoint("127.0.0.1", None, "10.96.0.0/16", "10.96.0.1", *ports)
        write_certificates(state, endpoint)
        started = start_storage_and_api(state, endpoint, dies_with_parent=True)
        stack.callback(lambda: _end(started))
        wait_for_api(state, endpoint, started)
        if controllers:
            started += start_controllers(state, endpoint, scheduler=False, dies_with_parent=True)
        yield ControlPlane(state.kubeconfig, endpoint.url, state)


def _end(started: list[Started]) -> None:
    # Clients of the API server first, then it, then etcd: the API server lingers when etcd goes first. The data
    # is thrown away with the test, so that there is nothing to be gentle about.
    for component in reversed(started):
        with contextlib.suppress(ClusterError):
            processes.stop([component.process], patience=0)
