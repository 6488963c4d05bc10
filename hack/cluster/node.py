"""A node: its containerd, its kubelet, and the one process that holds both."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import yaml

from hack.cluster import debian, images, processes, python_environment, waiting
from hack.cluster.errors import ClusterError
from hack.cluster.paths import SOURCES, State
from hack.cluster.processes import Started
from hack.cluster.settings import DOMAIN, Node, Settings

# Folders that containerd, CNI and the kubelet use whatever they are told: inside the node, each is the node's own.
_FIXED_FOLDERS = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")


def folder(state: State, node: Node) -> Path:
    return state.nodes / node.name


def socket(state: State, node: Node) -> Path:
    """containerd's socket. Unix sockets' paths end at 107 bytes, therefore so near to the top."""
    return state.run / f"{node.name}.sock"


def cgroup(state: State) -> str:
    """The parent of all our containers' cgroups, below the root of each hierarchy; no other cluster's."""
    return f"internvl-{hashlib.sha256(str(state.cluster).encode()).hexdigest()[:8]}"


def component(node: Node) -> str:
    """The name of the node's process in records and logs."""
    return node.name


def start(state: State, settings: Settings, node: Node) -> Started:
    """Writes the node's configuration and starts it; it becomes ready once the API server answers.

    Everything that it had on its disk (images, containers) is still there if it ran before.
    """
    root = folder(state, node)
    for volatile in (root / "containerd-state", root / "fixed" / "run-containerd"):
        # What a machine forgets without power; it is here only after `power_off`.
        shutil.rmtree(volatile, ignore_errors=True)
    for name in ("cni", "kubelet", "containerd", "fixed", "tmp", "pod-logs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    _make_cgroup(state, node)
    (root / "cni" / "10-bridge.conflist").write_text(json.dumps(cni_config(node, root), indent=2))
    (root / "containerd.toml").write_text(containerd_config(state, node))
    (root / "kubelet.yaml").write_text(yaml.safe_dump(kubelet_config(state, settings, node)))
    (root / "resolv.conf").write_text(f"nameserver {settings.address}\n")
    mounts = [_fixed_folder(state, root, target) for target in _FIXED_FOLDERS]
    for name, source in python_environment.sources().items():
        (state.environment / name).mkdir(parents=True, exist_ok=True)
        # Read-only for root too: a pod with an fsGroup would otherwise have the kubelet change the owner of /usr.
        mounts.append({"source": str(source), "target": str(state.environment / name), "readOnly": True})
    tools = debian.environment(state)
    config = {
        "agents": {
            "containerd": [str(debian.program(state, "containerd")), "--config", str(root / "containerd.toml")],
            "kubelet": kubelet_command(state, node),
        },
        "logs": {
            "containerd": str(state.log(f"{node.name}-containerd")),
            "kubelet": str(state.log(f"{node.name}-kubelet")),
        },
        "environment": {
            "PATH": tools["PATH"],
            "LD_LIBRARY_PATH": tools["LD_LIBRARY_PATH"],
            "TMPDIR": str(root / "tmp"),
            "HOME": str(root),
            processes.MARKER: processes.marker(state),
        },
        "mounts": mounts,
    }
    path = root / "node.json"
    path.write_text(json.dumps(config, indent=2))
    # -I: neither the current folder nor this one's modules can stand in for the standard library's.
    started = processes.start(state, component(node), [sys.executable, "-I", SOURCES / "node_init.py", path])
    processes.record(state, started)
    return started


def import_images(state: State, node: Node, archive: Path, started: Started) -> None:
    """Brings the images into the node's containerd, once that answers. Raises ClusterError when it cannot."""
    control = [str(debian.program(state, "ctr")), "--address", str(socket(state, node)), "--namespace", "k8s.io"]
    environment = debian.environment(state)

    def ctr(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*control, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    waiting.until(
        f"containerd of {node.name} answering",
        lambda: socket(state, node).exists() and ctr("version").returncode == 0,
        30,
        started,
    )
    done = ctr("images", "import", str(archive))
    if done.returncode:
        raise ClusterError(
            f"containerd of {node.name} refused the images: {done.stderr.strip()}",
            log=state.log(f"{node.name}-containerd"),
        )


def inside(started: psutil.Process) -> psutil.Process | None:
    """The first process inside the node, by the number that the host knows it by."""
    children = started.children()
    return children[0] if children else None


def cni_config(node: Node, root: Path) -> dict[str, object]:
    return {
        "cniVersion": "1.0.0",
        "name": f"internvl-{node.bridge}",
        "plugins": [
            {
                "type": "bridge",
                "bridge": node.bridge,
                "isGateway": True,
                # A pod reaches itself through a Service too.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(root / "cni-addresses"),
                    "ranges": [[{"subnet": str(node.pods), "gateway": node.address}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def containerd_config(state: State, node: Node) -> str:
    root, cri = folder(state, node), '[plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{root / "containerd"}"
state = "{root / "containerd-state"}"
# None of these works everywhere, and each says so at every start.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{socket(state, node)}"

{cri}]
sandbox_image = "{images.PAUSE}"
# Without CAP_SYS_RESOURCE, as in many virtual machines, runc cannot lower the score and dies without a word of it.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"

{cri}.containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

{cri}.containerd.runtimes.runc.options]
BinaryName = "{debian.program(state, "runc")}"

{cri}.cni]
bin_dir = "{state.debian / "usr/lib/cni"}"
conf_dir = "{root / "cni"}"

[plugins."io.containerd.internal.v1.opt"]
path = "{root / "containerd-opt"}"
"""


def kubelet_config(state: State, settings: Settings, node: Node) -> dict[str, object]:
    pki, root = state.pki, folder(state, node)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": settings.ports.kubelet,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": settings.ports.kubelet_health(node.index),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
        "containerRuntimeEndpoint": f"unix://{socket(state, node)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup(state)}/{node.name}",
        # 1.35 refuses the first version of cgroups unless told; the second one does not mind.
        "failCgroupV1": False,
        # A guest on this machine, not its owner: it makes no hierarchy of its own and reserves nothing.
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # There is no registry that a collected image could come from again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "clusterDNS": [settings.address],
        "clusterDomain": DOMAIN,
        "resolvConf": str(root / "resolv.conf"),
        "podLogsDir": str(root / "pod-logs"),
        "volumePluginDir": str(root / "volume-plugins"),
        "maxPods": 250,
        "serializeImagePulls": False,
        "registerWithTaints": [],
    }


def kubelet_command(state: State, node: Node) -> list[str]:
    root = folder(state, node)
    return [
        str(state.binary("cluster")),
        "kubelet",
        f"--config={root / 'kubelet.yaml'}",
        f"--kubeconfig={state.pki / f'{node.name}.kubeconfig'}",
        f"--root-dir={root / 'kubelet'}",
        f"--cert-dir={root / 'kubelet' / 'pki'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        "--node-labels=internvl.dev/local=true",
    ]


def _fixed_folder(state: State, root: Path, target: str) -> dict[str, object]:
    """The mount that puts a folder of the node's own over a fixed one; makes the latter if it is missing."""
    own = root / "fixed" / target.strip("/").replace("/", "-")
    own.mkdir(parents=True, exist_ok=True)
    made: list[str] = []
    path = Path(target)
    while not path.exists():
        made.append(str(path))
        path = path.parent
    if made:
        # Noted before it is made, so that `down` takes it away whatever happens in between.
        with (state.run / "made-folders").open("a") as note:
            note.writelines(f"{line}\n" for line in made)
        Path(target).mkdir(parents=True)
    return {"source": str(own), "target": target, "readOnly": False}


def remove_fixed_folders(state: State) -> None:
    """Takes away the folders that were made as mount points, where they are empty."""
    note = state.run / "made-folders"
    if not note.exists():
        return
    for line in sorted(set(note.read_text().splitlines()), key=len, reverse=True):
        path = Path(line)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    note.unlink()


def _make_cgroup(state: State, node: Node) -> None:
    """Makes the parent of the node's containers' cgroups in each hierarchy, as the kubelet expects to find it."""
    for hierarchy in _hierarchies():
        path = hierarchy / cgroup(state) / node.name
        path.mkdir(parents=True, exist_ok=True)
        for child in (path.parent, path):
            # The first version of cpusets starts empty, and a container in an empty one cannot start.
            for name in ("cpuset.cpus", "cpuset.mems"):
                file = child / name
                if (hierarchy / "cgroup.clone_children").exists() and file.exists() and not file.read_text().strip():
                    file.write_text((child.parent / name).read_text())


def _hierarchies() -> list[Path]:
    """The roots of all cgroup hierarchies: one of the second version, or many of the first, or both."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [path for path in sorted(top.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def remove_cgroups(state: State) -> None:
    """Takes away the cgroups that ended containers leave behind, in each hierarchy."""
    for hierarchy in _hierarchies():
        top = hierarchy / cgroup(state)
        if not top.is_dir():
            continue
        for found in sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
            found.rmdir()
        top.rmdir()
