"""Bringing the whole cluster up, step by step."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hack.cluster import (
    build,
    control_plane,
    debian,
    dns_and_services,
    images,
    network,
    node,
    object_store,
    preflight,
    processes,
    teardown,
    training_operator,
    waiting,
)
from hack.cluster.errors import ClusterError
from hack.cluster.kubectl import Kubectl
from hack.cluster.paths import MANIFESTS, State
from hack.cluster.processes import Started
from hack.cluster.report import Report
from hack.cluster.settings import NODE_PREFIX, Settings

# How long the controller manager waits for a silent node's report, e.g. "12s"; upstream's default is 50 s.
GRACE_VARIABLE = "INTERNVL_CLUSTER_NODE_GRACE"


@contextlib.contextmanager
def exclusive(state: State) -> Iterator[None]:
    """Holds the state folder's lock. Raises ClusterError when another command holds it."""
    state.prepare()
    with (state.cluster / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClusterError(
                f"another cluster command is at work in {state.cluster}: wait for it, or end it"
            ) from error
        yield


def endpoint(settings: Settings) -> control_plane.Endpoint:
    ports = settings.ports
    return control_plane.Endpoint(
        address=settings.address,
        advertise=settings.address,
        services=str(settings.services),
        api_service=settings.api_service,
        apiserver_port=ports.apiserver,
        etcd_port=ports.etcd,
        etcd_peer_port=ports.etcd_peer,
        controller_manager_port=ports.controller_manager,
        scheduler_port=ports.scheduler,
    )


def prepare(state: State, report: Report) -> None:
    """Brings what the cluster is made of: minutes for the first time, nothing after that."""
    build.build_all(state, report)
    debian.unpack(state, report)


def up(state: State, settings: Settings, report: Report) -> None:
    """Starts the cluster, unless one with at least as many nodes is up and well already.

    What a killed or half-dead predecessor left is taken away first. Raises ClusterError, and leaves what was started
    for a look (the next `up` or `down` takes it away), when something does not come up.
    """
    with exclusive(state):
        prepare(state, report)
        if is_well(state):
            have = node_count(state)
            if have < len(settings.nodes):
                raise ClusterError(
                    f"a cluster with {have} node is up, {len(settings.nodes)} were asked for: "
                    "run make cluster-down first (its data goes with it)"
                )
            report.say("the cluster is up already")
            return
        if teardown.exists(state):
            report.say("leftovers of an earlier cluster are here: taking them away first")
            teardown.down(state, report, keep_logs=False)
        for other in preflight.replaceable(state.cluster):
            report.say(f"the cluster in {other} is in the way: taking it away")
            teardown.down(State(other.parent), report)
        preflight.check_network(settings, state.cluster)
        state.prepare()
        _start(state, settings, report)
        (state.run / "nodes").write_text(str(len(settings.nodes)))


def _start(state: State, settings: Settings, report: Report) -> None:
    where = endpoint(settings)
    with report.step("certificates, bridge and images"), ThreadPoolExecutor() as pool:
        archive = pool.submit(images.write, state)
        control_plane.write_certificates(state, where, {one.name: one.address for one in settings.nodes})
        network.create(state, settings, debian.environment(state))
        archive_path = archive.result()
    with report.step("etcd, kube-apiserver and containerd"), ThreadPoolExecutor() as pool:
        api = control_plane.start_storage_and_api(state, where)
        store, credentials = object_store.start(state, object_store.of_cluster(settings))
        nodes = [node.start(state, settings, one) for one in settings.nodes]
        imports = [
            pool.submit(node.import_images, state, one, archive_path, started)
            for one, started in zip(settings.nodes, nodes, strict=True)
        ]
        control_plane.wait_for_api(state, where, api)
        for pending in imports:
            pending.result()
    grace = os.environ.get(GRACE_VARIABLE)
    extra = [f"--node-monitor-grace-period={grace}"] if grace else []
    controllers = control_plane.start_controllers(state, where, extra=extra)
    kubectl = Kubectl(state)
    with report.step("CoreDNS, kube-proxy, training-operator and S3"), ThreadPoolExecutor() as pool:
        kubectl.apply((MANIFESTS / "coredns.yaml").read_text())
        dns = dns_and_services.start_dns(state, settings)
        proxy = dns_and_services.start_proxy(state, settings)
        applied = pool.submit(training_operator.apply, state, kubectl)
        writable = pool.submit(object_store.wait, credentials, store)
        dns_and_services.wait_for_proxy(settings, proxy)
        writable.result()
        applied.result()
    with report.step("nodes and training-operator ready"):
        _wait_for_nodes(settings, kubectl, [*nodes, *api, *controllers, dns, proxy])
        training_operator.wait(state, kubectl)


def _wait_for_nodes(settings: Settings, kubectl: Kubectl, components: list[Started]) -> None:
    wanted = {one.name for one in settings.nodes}
    waiting.until(f"nodes {', '.join(sorted(wanted))} ready", lambda: ready_nodes(kubectl) >= wanted, 60, *components)


def ready_nodes(kubectl: Kubectl) -> set[str]:
    """The names of the nodes whose kubelet says that they are ready."""
    found = kubectl.get("nodes")["items"]
    return {
        one["metadata"]["name"]
        for one in found
        for condition in one["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def node_count(state: State) -> int:
    """With how many nodes the cluster came up; 0 when it did not come up."""
    count = state.run / "nodes"
    return int(count.read_text()) if count.exists() else 0


def is_well(state: State) -> bool:
    """Whether a cluster runs, with every component alive and every node ready."""
    known = processes.recorded(state)
    if not known or None in known.values() or not node_count(state):
        return False
    try:
        return len(ready_nodes(Kubectl(state))) >= node_count(state)
    except ClusterError:
        return False


def power_off(state: State, name: str) -> None:
    """Ends a node as a power cut would: everything on it is gone at once, and nobody was told.

    Raises ClusterError when no such node runs.
    """
    process = processes.recorded(state).get(name)
    if not name.startswith(NODE_PREFIX) or process is None:
        raise ClusterError(f"no node named {name!r} runs here: see make cluster-status")
    processes.stop([process], patience=0)


def power_on(state: State, name: str) -> None:
    """Starts a node that `power_off` ended, with its disk as it was. Raises ClusterError when it runs already."""
    settings = Settings.from_environment(node_count(state) or 1)
    found = [one for one in settings.nodes if one.name == name]
    if not found or processes.recorded(state).get(name) is not None:
        raise ClusterError(f"{name!r} is no node that is off: see make cluster-status")
    started = node.start(state, settings, found[0])
    # The API server may not have noticed yet that the node was gone: ask the kubelet first.
    url = f"http://127.0.0.1:{settings.ports.kubelet_health(found[0].index)}/healthz"
    waiting.until(f"kubelet of {name} healthy", lambda: waiting.answers(url), 60, started)
    kubectl = Kubectl(state)
    waiting.until(f"node {name} ready", lambda: name in ready_nodes(kubectl), 60, started)
