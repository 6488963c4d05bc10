"""Where everything of the local cluster lives: below the one state folder, which git ignores."""

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent
MANIFESTS = SOURCES / "manifests"


@dataclass(frozen=True)
class State:
    """The layout of one state folder. Nothing is made before `prepare()`."""

    root: Path = REPOSITORY / ".state"

    @property
    def binaries(self) -> Path:
        """Built programs; they survive `down`."""
        return self.root / "bin"

    @property
    def debian(self) -> Path:
        """The root folder of the unpacked Debian packages; it survives `down`."""
        return self.root / "debian"

    @property
    def cluster(self) -> Path:
        """Everything of the cluster itself, secrets included: mode 0700."""
        return self.root / "cluster"

    @property
    def logs(self) -> Path:
        """One log file for each component; kept until the next `up`."""
        return self.cluster / "logs"

    @property
    def run(self) -> Path:
        """Process records, sockets and notes about what was changed on the machine."""
        return self.cluster / "run"

    @property
    def pki(self) -> Path:
        return self.cluster / "pki"

    @property
    def config(self) -> Path:
        """Rendered configuration files of the components."""
        return self.cluster / "config"

    @property
    def etcd(self) -> Path:
        return self.cluster / "etcd"

    @property
    def objects(self) -> Path:
        """The object store's data."""
        return self.cluster / "s3"

    @property
    def nodes(self) -> Path:
        return self.cluster / "nodes"

    @property
    def environment(self) -> Path:
        """Empty here; inside each node, read-only views of what pods may mount."""
        return self.cluster / "environment"

    @property
    def images(self) -> Path:
        return self.cluster / "images"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, mode 0600."""
        return self.cluster / "kubeconfig"

    @property
    def s3_env(self) -> Path:
        """The object store's endpoint and credentials as shell assignments, mode 0600."""
        return self.cluster / "s3.env"

    def binary(self, name: str) -> Path:
        return self.binaries / name

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def prepare(self) -> None:
        """Makes the folders that every command needs."""
        self.cluster.mkdir(parents=True, exist_ok=True)
        self.cluster.chmod(0o700)
        for folder in (self.logs, self.run, self.pki, self.config, self.nodes, self.images):
            folder.mkdir(exist_ok=True)


def write_private(path: Path, content: str | bytes) -> None:
    """Writes a file that only its owner can read, and never shows a half-written one."""
    data = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    draft.replace(path)
