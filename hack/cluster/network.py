"""The bridge of each node, free ports, and what kube-proxy leaves behind."""

import contextlib
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.paths import State
from hack.cluster.settings import Node, Settings

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]


def create(state: State, settings: Settings, tools: Mapping[str, str]) -> None:
    """Makes each node's bridge and the route to the Services, and lets the kernel forward between bridges.

    Pods' own bridge plugin would make the bridge too, but only with the first pod: the API server listens on it.
    `tools` is the environment in which `ip` is found. Raises ClusterError when a command fails.
    """
    for node in settings.nodes:
        _ip(tools, "link", "add", node.bridge, "type", "bridge")
        # Names the owner: preflight of another clone of the project reads it.
        _ip(tools, "link", "set", node.bridge, "alias", str(state.cluster))
        _ip(tools, "address", "add", f"{node.address}/{node.pods.prefixlen}", "dev", node.bridge)
        _ip(tools, "link", "set", node.bridge, "up")
    # Without a default route the host could not reach a Service at all; with one, replies would go astray.
    _ip(tools, "route", "replace", str(settings.services), "dev", settings.nodes[0].bridge, "src", settings.address)
    before = _FORWARDING.read_text().strip()
    note = state.run / "ip_forward.before"
    if not note.exists():
        note.write_text(before)
    if before != "1":
        _FORWARDING.write_text("1")


def owner(bridge: str) -> str | None:
    """The alias of a bridge, which is the cluster folder that made it; None when there is no such interface."""
    alias = Path(f"/sys/class/net/{bridge}/ifalias")
    return alias.read_text().strip() if alias.exists() else None


def remove(state: State, nodes: Sequence[Node], tools: Mapping[str, str]) -> None:
    """Removes our bridges (their routes go along), kube-proxy's tables, and restores the forwarding switch."""
    for node in nodes:
        if owner(node.bridge) == str(state.cluster):
            _ip(tools, "link", "delete", node.bridge)
    proxied = state.run / "kube-proxy.tables"
    # A cluster whose folder was deleted has left no note.
    if proxied.exists() or not state.run.exists():
        for family in ("ip", "ip6"):
            # The table is missing when kube-proxy died before it made one.
            subprocess.run(
                ["nft", "delete", "table", family, "kube-proxy"],
                env=dict(tools),
                capture_output=True,
                check=False,
                timeout=20,
            )
        proxied.unlink(missing_ok=True)
    note = state.run / "ip_forward.before"
    if note.exists():
        # Docker wants forwarding too; where its bridge is, leave the switch on.
        if note.read_text() == "0" and not Path("/sys/class/net/docker0").exists():
            _FORWARDING.write_text("0")
        note.unlink()


def _ip(tools: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], env=dict(tools), capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise ClusterError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
