"""Debian packages that hold data, unpacked into a folder: nothing is installed."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class PackageError(RuntimeError):
    """A Debian package could not be brought or unpacked; the message ends with what apt or dpkg said."""


def unpack(packages: Sequence[str], folder: Path) -> Path:
    """Bring packages with apt (which verifies them) and unpack them below `folder`, unless they are there already.

    Returns:
        `folder`, the root of the unpacked file trees.

    Raises:
        PackageError: apt does not know a package or could not bring it, or dpkg could not unpack it.
    """
    folder = folder.resolve()
    stamp = folder / ".packages"
    wanted = " ".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    draft = folder.with_name(f"{folder.name}.draft-{os.getpid()}")
    archives = draft / ".archives"
    archives.mkdir(parents=True)
    try:
        _download(packages, archives)
        for archive in sorted(archives.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(draft)], archives)
        shutil.rmtree(archives)
        (draft / ".packages").write_text(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _download(packages: Sequence[str], folder: Path) -> None:
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        _run(command, folder)
    except PackageError:
        # No package lists yet, or lists so old that they name files which are gone.
        _run(["apt-get", "-q", "update"], folder)
        _run(command, folder)


def _run(command: Sequence[str], folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env=environment
        )
    except subprocess.TimeoutExpired:
        raise PackageError(
            f"{' '.join(command)} gave no answer within 300 s; is the package archive reachable?"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PackageError(f"`{' '.join(command)}` failed: {said[-1] if said else done.returncode}")
