"""The cluster's container images: small archives made here, for which no registry and no Docker is needed."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import debian
from hack.cluster.paths import State

DEVELOPMENT = "localhost/internvl-dev:latest"
PAUSE = "localhost/pause:1"
TRAINING_OPERATOR = "localhost/training-operator:v1.9.3"

# The user that the pods of examples and tests run as.
USER_ID = 65532


@dataclass(frozen=True)
class Image:
    """An image of one layer: files (path in the image -> content or file to copy), links and folders."""

    name: str
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)
    command: Sequence[str] = ()
    path: str = "/"


def development(state: State) -> Image:
    """A shell and nothing else, laid out as a Debian root folder.

    Busybox works by itself; with the machine's /usr mounted over /usr, all that is installed there works too,
    since /bin, /lib and /lib64 point into /usr as on the machine.
    """
    applets = ("sh", "nslookup", "wget", "cat", "ls", "sleep", "env", "id", "echo", "grep", "seq", "true", "false")
    return Image(
        name=DEVELOPMENT,
        files={
            "busybox/busybox": debian.program(state, "busybox"),
            "etc/passwd": (
                b"root:x:0:0:root:/root:/bin/sh\n" + f"nonroot:x:{USER_ID}:{USER_ID}::/tmp:/bin/sh\n".encode()
            ),
            "etc/group": b"root:x:0:\n" + f"nonroot:x:{USER_ID}:\n".encode(),
            "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
        },
        links={
            "bin": "usr/bin",
            "sbin": "usr/sbin",
            "lib": "usr/lib",
            "lib64": "usr/lib64",
            "usr/bin/sh": "/busybox/busybox",
            **{f"busybox/{applet}": "busybox" for applet in applets},
        },
        folders={"usr/bin": 0o755, "usr/sbin": 0o755, "usr/lib": 0o755, "usr/lib64": 0o755, "tmp": 0o1777},
        command=["/busybox/sh"],
        path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/busybox",
    )


def all_images(state: State) -> list[Image]:
    return [
        development(state),
        Image(PAUSE, files={"pause": state.binary("pause")}, command=["/pause"]),
        Image(
            TRAINING_OPERATOR,
            files={"manager": state.binary("training-operator")},
            folders={"tmp": 0o1777},
            command=["/manager"],
        ),
    ]


def write(state: State) -> Path:
    """Writes all images into one OCI archive, and returns its path."""
    target = state.images / "images.tar"
    with tarfile.open(target, "w") as archive:
        manifests = []
        blobs: set[str] = set()
        for image in all_images(state):
            manifests.append(_add_image(archive, blobs, image))
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    return target


def layer(image: Image) -> bytes:
    """The image's only layer as an uncompressed tar: the same bytes for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        parents = {
            str(parent)
            for path in (*image.files, *image.links, *image.folders)
            for parent in Path(path).parents
            if str(parent) != "."
        }
        folders = {**dict.fromkeys(parents, 0o755), **image.folders}
        for path in sorted(folders):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, folders[path]
            archive.addfile(entry)
        for path, content in sorted(image.files.items()):
            # Only what is copied from a file is a program.
            data, mode = (content.read_bytes(), 0o755) if isinstance(content, Path) else (content, 0o644)
            _add(archive, path, data, mode)
        for path, target in sorted(image.links.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _add_image(archive: tarfile.TarFile, blobs: set[str], image: Image) -> dict[str, object]:
    """Adds an image's blobs, and returns its entry in the index."""
    data = layer(image)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Cmd": list(image.command), "Env": [f"PATH={image.path}"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(data)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(archive, blobs, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [_blob(archive, blobs, data, "application/vnd.oci.image.layer.v1.tar")],
    }
    entry = _blob(archive, blobs, json.dumps(manifest).encode(), str(manifest["mediaType"]))
    return {**entry, "annotations": {"io.containerd.image.name": image.name}}


def _blob(archive: tarfile.TarFile, blobs: set[str], data: bytes, media_type: str) -> dict[str, object]:
    digest = _digest(data)
    if digest not in blobs:
        blobs.add(digest)
        _add(archive, "blobs/sha256/" + digest.removeprefix("sha256:"), data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _add(archive: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
