"""Folders in scratch that belong to one job alone, though several jobs may share the scratch of a machine."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Claim:
    """A folder of this node, claimed by one of its processes for all of them.

    Attributes:
        path: the folder.
        lock: held while the claiming process lives; None in the node's other processes.
    """

    path: Path
    lock: FileLock | None = None

    def release(self) -> None:
        """Remove the folder, if this process claimed it."""
        if self.lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.lock.release()
            _lock_of(self.path).unlink(missing_ok=True)


def claim(path: Path) -> Claim:
    """Make a folder whose name nobody else uses, and remove what jobs that have died left beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    lock = FileLock(_lock_of(path))
    lock.acquire(timeout=0)
    path.mkdir()
    return Claim(path, lock)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove_abandoned(scratch: Path) -> None:
    for path in scratch.glob(f"{PREFIX}*"):
        if not path.is_dir():
            continue
        lock = FileLock(_lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # its job lives
        logger.info("removing %s, which a job that has died left behind", path)
        shutil.rmtree(path, ignore_errors=True)
        lock.release()
        _lock_of(path).unlink(missing_ok=True)
