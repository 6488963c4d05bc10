"""Ending a cluster, whole or half, and leaving nothing of it behind but logs and caches."""

import shutil

import psutil

from hack.cluster import debian, network, node, object_store, processes
from hack.cluster.errors import ClusterError
from hack.cluster.paths import State
from hack.cluster.report import Report
from hack.cluster.settings import MAX_NODES, Settings

# Who ends before whom. Nodes first: their agents report to the API server, and nothing else needs them. The API
# server before etcd: without etcd it lingers and keeps its port.
_ORDER = (
    ("node-0", "node-1"),
    ("kube-proxy", "coredns", "kube-controller-manager", "kube-scheduler", "s3"),
    ("kube-apiserver",),
    ("etcd",),
)
_PATIENCE = {"node-0": 8.0, "kube-apiserver": 5.0, "kube-proxy": 3.0, "etcd": 3.0}


def exists(state: State) -> bool:
    """Whether anything of a cluster of this folder is left on the machine, alive or not."""
    every = Settings.from_environment(MAX_NODES).nodes
    return (
        bool(processes.marked(state))
        or any(network.owner(one.bridge) == str(state.cluster) for one in every)
        or (state.run.exists() and any(state.run.iterdir()))
    )


def down(state: State, report: Report, *, keep_logs: bool = True) -> None:
    """Ends every process of this cluster and takes away its mounts, namespaces, bridges, tables and data.

    Works whatever its predecessor had reached when it was killed. Raises ClusterError for what does not go away.
    """
    with report.step("ending the cluster's processes"):
        known = processes.recorded(state)
        for group in _ORDER:
            found = [process for name in group if (process := known.get(name)) is not None]
            processes.stop(found, patience=_PATIENCE.get(group[0], 3.0))
        # Whatever a killed predecessor did not live to record.
        processes.stop(processes.marked(state), patience=0)
    with report.step("removing bridges, tables, cgroups and data"):
        settings = Settings.from_environment(MAX_NODES)
        network.remove(state, settings.nodes, debian.environment(state))
        object_store.remove_sockets(object_store.of_cluster(settings))
        node.remove_fixed_folders(state)
        node.remove_cgroups(state)
        check_no_mounts(state)
        # `run` last: it holds the notes that this function works from.
        for folder in (state.nodes, state.environment, state.etcd, state.objects, state.pki, state.config,
                       state.images, state.run):  # fmt: skip
            if folder.exists():
                shutil.rmtree(folder)
        for path in (state.kubeconfig, state.s3_env):
            path.unlink(missing_ok=True)
        if not keep_logs and state.logs.exists():
            shutil.rmtree(state.logs)


def check_no_mounts(state: State) -> None:
    """Raises ClusterError when something below the cluster's folder is a mount of the machine.

    The nodes' mounts live in namespaces of their own and end with them. Looked at all the same, before anything is
    deleted: deleting must never reach through a mount.
    """
    below = [
        partition.mountpoint
        for partition in psutil.disk_partitions(all=True)
        if partition.mountpoint.startswith(f"{state.cluster}/")
    ]
    if below:
        raise ClusterError(f"mounts below {state.cluster}, which nothing of ours makes: umount {' '.join(below)}")
