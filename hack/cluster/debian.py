"""The container runtime and the network tools: Debian packages, unpacked into the state folder.

`apt-get download` and `dpkg-deb -x` run no maintainer script: nothing is installed and no service starts. apt verifies
the packages against Debian's signed lists. An installed containerd or Docker stays as it is, and unused.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from hack.cluster.errors import ClusterError
from hack.cluster.paths import State
from hack.cluster.report import Report

# With the libraries that a slim machine may lack. Version prefixes are what the cluster was tried with: Debian 12
# moves only the part behind them, for security.
PACKAGES = {
    "containerd": "1.6.",
    "runc": "1.1.",
    "containernetworking-plugins": "1.1.",
    "nftables": "1.0.",
    "iproute2": "6.1.",
    "busybox-static": "1:1.35.",
    "libseccomp2": "",
    "libnftables1": "",
    "libnftnl11": "",
    "libmnl0": "",
    "libjansson4": "",
    "libbpf1": "",
    "libelf1": "",
    "libxtables12": "",
    "libcap2": "",
    "libgmp10": "",
    "libedit2": "",
    "libbsd0": "",
}


def environment(state: State) -> dict[str, str]:
    """The environment in which the unpacked programs, and after them the machine's own, are found and start."""
    root = state.debian
    folders = [root / part for part in ("usr/sbin", "usr/bin", "sbin", "bin")]
    libraries = [str(folder) for part in ("usr/lib", "lib") for folder in root.glob(f"{part}/*-linux-gnu")]
    path = [*map(str, folders), os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    return {**os.environ, "PATH": ":".join(path), "LD_LIBRARY_PATH": ":".join(libraries)}


def program(state: State, name: str) -> Path:
    """The unpacked program of that name. Raises ClusterError when no package had it."""
    for folder in ("usr/sbin", "usr/bin", "sbin", "bin"):
        if (state.debian / folder / name).exists():
            return state.debian / folder / name
    raise ClusterError(f"{name} is not among the unpacked Debian packages; remove {state.debian} and start again")


def versions(state: State) -> dict[str, str]:
    """Package -> version of what was unpacked; empty before that."""
    path = state.debian / ".versions.json"
    return json.loads(path.read_text()) if path.exists() else {}


def unpack(state: State, report: Report) -> None:
    """Brings and unpacks the packages unless they are there already.

    Raises ClusterError when apt cannot bring one, or brings a version that the cluster was not tried with.
    """
    stamp = state.debian / ".stamp"
    wanted = " ".join(PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    with report.step(f"bringing {len(PACKAGES)} Debian packages (containerd, runc, CNI plugins, nftables ...)"):
        draft = state.debian.with_name("debian.draft")
        shutil.rmtree(draft, ignore_errors=True)
        archives = draft / ".archives"
        archives.mkdir(parents=True)
        _download(archives)
        versions = {}
        for archive in sorted(archives.glob("*.deb")):
            name, version = _checked_version(archive)
            versions[name] = version
            _run(["dpkg-deb", "-x", str(archive), str(draft)], draft)
        shutil.rmtree(archives)
        (draft / ".versions.json").write_text(json.dumps(versions, indent=2))
        (draft / ".stamp").write_text(wanted)
        shutil.rmtree(state.debian, ignore_errors=True)
        draft.rename(state.debian)


def _download(folder: Path) -> None:
    try:
        _apt_download(folder)
    except ClusterError:
        # No package lists yet, or lists so old that they name files which are gone. An update that fails for some
        # other source is no reason to give up: the download says whether it was enough.
        with contextlib.suppress(ClusterError):
            _run(["apt-get", "-q", "update"], folder)
        _apt_download(folder)


@retry(retry=retry_if_exception_type(ClusterError), stop=stop_after_attempt(2), wait=wait_fixed(2), reraise=True)
def _apt_download(folder: Path) -> None:
    _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES], folder)


def _checked_version(archive: Path) -> tuple[str, str]:
    done = _run(["dpkg-deb", "-f", str(archive), "Package", "Version"], archive.parent)
    fields = dict(line.split(": ", 1) for line in done.splitlines())
    name, version = fields["Package"], fields["Version"]
    prefix = PACKAGES.get(name, "")
    if not version.startswith(prefix):
        raise ClusterError(
            f"Debian package {name} is {version}, but the cluster needs {prefix}*: use a Debian 12 machine"
        )
    return name, version


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ClusterError(f"`{' '.join(command[:4])} ...` failed: {lines[-1] if lines else done.returncode}")
    return done.stdout
