"""Whether this machine can hold the cluster: each thing that is missing is one clear line with its remedy.

Standard library alone, and nothing is changed: it runs before anything is made, with any Python from 3.12 on
(`python -m hack.cluster.preflight`).
"""

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.paths import REPOSITORY, State
from hack.cluster.settings import (
    MAX_NODES,
    PODS_VARIABLE,
    PORTS_VARIABLE,
    SERVICES_VARIABLE,
    TAKE_OVER_VARIABLE,
    Settings,
)

# Debian 12's python, torch and Go's caches together; a second run finds most of it there.
DISK_GB = 25
DISK_GB_WHEN_BUILT = 5
_GO = (1, 26)
# Bits of CapEff: what mounts, namespaces and bridges need.
_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12}
_ANOTHER_CLUSTER = "or use a cluster that you have: set KUBECONFIG (kind, minikube, a real one)"
# Linux' limit for the path of a Unix socket, and the longest that we make below the cluster's folder.
_SOCKET_LIMIT, _LONGEST_SOCKET = 107, "/run/node-0.sock.ttrpc"


def problems(settings: Settings, state: State) -> list[str]:
    """One line for each thing that keeps the cluster from starting on this machine."""
    lines = (_root(), _capabilities(), _kernel(), _path_length(state))
    return [
        *(line for line in lines if line),
        *build_problems(state),
        *network_problems(settings, state.cluster),
    ]


def build_problems(state: State) -> list[str]:
    """One line for each thing that keeps the cluster's parts from being brought and built; no root is needed."""
    return [line for line in (_system(), _go(), _disk(state)) if line]


def check_network(settings: Settings, cluster: Path) -> None:
    """Raises ClusterError with the first port, network or bridge that something else has."""
    found = network_problems(settings, cluster)
    if found:
        raise ClusterError(found[0])


def network_problems(settings: Settings, cluster: Path) -> list[str]:
    """Ports, address ranges and bridges that something else has; ours may be there."""
    yielding = replaceable(cluster)
    # Whoever has the bridges has most ports too: say it once.
    return _bridges(cluster, yielding) or [*_ranges(settings), *_ports(settings, {cluster, *yielding})]


def replaceable(cluster: Path) -> set[Path]:
    """The folders of other clusters of this project on this machine that `up` may end.

    Those whose folder is gone, so that nobody can take them down any more; and all of them where the user says so
    (the variable below), or in CI, where a predecessor that was cut off may have left one.
    """
    allowed = os.environ.get(TAKE_OVER_VARIABLE) == "1" or os.environ.get("CI") == "true"
    return {owner for owner in _owners().values() if owner != cluster and (allowed or not owner.is_dir())}


def _root() -> str | None:
    if os.geteuid() == 0:
        return None
    return (
        f"user id is {os.geteuid()}, but containers need root: run as root (sudo make cluster-up), {_ANOTHER_CLUSTER}"
    )


def _capabilities() -> str | None:
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if os.geteuid() or not missing:
        return None
    return f"root lacks {' and '.join(missing)} here: leave the unprivileged container, {_ANOTHER_CLUSTER}"


def _system() -> str | None:
    missing = [name for name in ("apt-get", "dpkg-deb", "setpriv", "nice") if not shutil.which(name)]
    if not missing:
        return None
    return f"{', '.join(missing)} not found: the container runtime comes from Debian 12 packages, so use Debian 12"


def _go() -> str | None:
    remedy = f"install Go {_GO[0]}.{_GO[1]} or newer and put its bin folder on PATH"
    if not shutil.which("go"):
        return f"go not found: {remedy}"
    done = subprocess.run(
        ["go", "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )
    version = done.stdout.strip().removeprefix("go")
    try:
        parts = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return f"`go env GOVERSION` says {version or done.stderr.strip()!r}: {remedy}"
    return None if parts >= _GO else f"Go is {version}, but {_GO[0]}.{_GO[1]} is needed: {remedy}"


def _kernel() -> str | None:
    if not Path("/sys/fs/cgroup").is_dir() or not any(Path("/sys/fs/cgroup").iterdir()):
        return f"/sys/fs/cgroup is empty, but containers need cgroups: mount them, {_ANOTHER_CLUSTER}"
    return None


def _disk(state: State) -> str | None:
    built = state.binary("helm").exists() and (state.debian / ".stamp").exists()
    needed = DISK_GB_WHEN_BUILT if built else DISK_GB
    free = shutil.disk_usage(REPOSITORY).free / 1e9
    if free >= needed:
        return None
    return f"{free:.0f} GB free at {REPOSITORY}, but {needed} GB are needed: free some, or move the repository"


def _path_length(state: State) -> str | None:
    longest = len(str(state.cluster)) + len(_LONGEST_SOCKET)
    if longest <= _SOCKET_LIMIT:
        return None
    return (
        f"the path {state.cluster} has {len(str(state.cluster))} characters, but sockets in it allow for "
        f"{_SOCKET_LIMIT - len(_LONGEST_SOCKET)}: move the repository to a shorter path"
    )


def _owners() -> dict[str, Path]:
    """Bridge -> folder of the cluster that made it, for those that exist and say so."""
    found = {}
    for node in Settings.from_environment(MAX_NODES).nodes:
        alias = Path(f"/sys/class/net/{node.bridge}/ifalias")
        if alias.exists() and (owner := alias.read_text().strip()):
            found[node.bridge] = Path(owner)
    return found


def _bridges(cluster: Path, yielding: set[Path]) -> list[str]:
    owners, found = _owners(), []
    for owner in sorted({*owners.values()} - {cluster, *yielding}):
        found.append(
            f"the cluster in {owner} is up, and one machine holds one: run make cluster-down there, "
            f"or set {TAKE_OVER_VARIABLE}=1 to end it from here"
        )
    for node in Settings.from_environment(MAX_NODES).nodes:
        if node.bridge not in owners and Path(f"/sys/class/net/{node.bridge}").exists():
            found.append(f"network interface {node.bridge} exists already: remove it (ip link delete {node.bridge})")
    return found


def _ranges(settings: Settings) -> list[str]:
    """Routes of the machine into the ranges for pods and Services, but for our own bridges'."""
    own = {node.bridge for node in Settings.from_environment(MAX_NODES).nodes}
    found = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        interface, destination, _, _, _, _, _, mask = line.split()[:8]
        network = ipaddress.IPv4Network((_address(destination), str(_address(mask))))
        if interface in own or network.prefixlen == 0:
            continue
        for variable, wanted in ((PODS_VARIABLE, settings.pods), (SERVICES_VARIABLE, settings.services)):
            if network.overlaps(wanted):
                found.append(
                    f"{interface} has the route {network}, which overlaps {wanted}: set {variable} to a free range"
                )
    return found


def _address(little_endian: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(bytes.fromhex(little_endian)[::-1])


def _ports(settings: Settings, ours: set[Path]) -> list[str]:
    """At most two lines: for port 53, which cannot move, and for the first of those that move together."""
    taken, found = _listening(), {}
    for component, address, port in settings.listeners():
        # A wildcard listener takes the port on every address.
        holder = next((taken[key] for key in ((address, port), ("0.0.0.0", port), ("::", port)) if key in taken), None)
        if holder is None:
            continue
        pid, name = _process(holder)
        if pid is None or _owner(pid) not in ours:
            who = f"{name} (process {pid})" if pid is not None else "a process that is not visible here"
            found[port] = f"port {port}, which {component} needs, is in use by {who}"
    lines = [f"{found.pop(53)}: end it"] if 53 in found else []
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        remedy = f"end it, or set {PORTS_VARIABLE} to another base than {settings.ports.base}"
        lines.append(f"{next(iter(found.values()))}{more}: {remedy}")
    return lines


def _listening() -> dict[tuple[str, int], str]:
    """(address, port) -> socket inode of every TCP listener of this network namespace."""
    found = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(file)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] != "0A":
                continue
            host, port = fields[1].split(":")
            packed = b"".join(bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8))
            found[(str(ipaddress.ip_address(packed)), int(port, 16))] = fields[9]
    return found


def _process(inode: str) -> tuple[int | None, str]:
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) == f"socket:[{inode}]":
                pid = int(descriptor.parts[2])
                return pid, Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            # It was closed meanwhile, or belongs to someone else.
            continue
    return None, ""


def _owner(pid: int) -> Path | None:
    """The folder of the cluster that started a process; None when none did."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = [entry.partition(b"=")[2] for entry in environment if entry.startswith(b"INTERNVL_CLUSTER_STATE=")]
    return Path(found[0].decode()) if found else None


def main(arguments: Sequence[str]) -> int:
    """Prints every problem on a line of its own; the exit code says whether there was one."""
    state = State()
    try:
        if list(arguments) == ["venv"]:
            found = [line for line in (_disk(state),) if line]
        elif list(arguments) == ["build"]:
            found = build_problems(state)
        else:
            found = problems(Settings.from_environment(int(os.environ.get("NODES", "1"))), state)
    except ValueError as error:
        found = [str(error)]
    for line in found:
        print(f"preflight: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
