"""How packs are loaded ahead of the steps that need them: how many processes do it, and what memory that takes. Pure,
but for the questions to the operating system at the end.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import ParallelLayout

MOST_WORKERS = 8
"""Loader processes for one trainer process, unless data.workers says more."""

SHARED_MEMORY = Path("/dev/shm")
"""Where tiles travel from a loader process to the trainer."""

_GIB = 2**30


class SharedMemoryError(RuntimeError):
    """The packs that loader processes hold ready would not fit into the shared memory of the pod."""

    exit_code: ClassVar[ExitCode] = ExitCode.INVALID_CONFIG


class Prefetch(NamedTuple):
    """How one process loads its packs ahead of the step that needs them.

    While a step is trained on, the next one is put together; loader processes work for the one after that.

    Attributes:
        workers: processes that load; 0 for a thread of this process.
        per_worker: packs that each of them loads ahead of the step that is being put together.
    """

    workers: int
    per_worker: int = 1

    def __str__(self) -> str:
        if not self.workers:
            return "a thread"
        many, packs = self.workers > 1, self.per_worker > 1
        return f"{self.workers} process{'es' * many}, up to {self.per_worker} pack{'s' * packs} ahead{' each' * many}"


@dataclass(frozen=True)
class Demand:
    """What loading takes of a node's shared memory.

    Attributes:
        per_step: packs that a process trains on in a step.
        pack_bytes: of the tiles of a full pack.
        loaders: processes of the node that load with others' help.
        pinned: whether tiles are copied to pinned memory as soon as they arrive, and leave shared memory so. Else the
            step that is trained on and the one that is being put together stay there.
    """

    per_step: int
    pack_bytes: int
    loaders: int
    pinned: bool

    def bytes(self, prefetch: Prefetch) -> int:
        """Of all loading processes of the node at most."""
        staying = 0 if self.pinned else 2 * self.per_step
        return (staying + prefetch.workers * prefetch.per_worker) * self.pack_bytes * self.loaders

    def largest(self, workers: int, free: int) -> Prefetch | None:
        """A step ahead, less where that does not fit into `free` bytes, or None where not one pack a worker does."""
        for per_worker in range(max(1, self.per_step // workers), 0, -1):
            if self.bytes(found := Prefetch(workers, per_worker)) <= free:
                return found
        return None


def choose_prefetch(wanted: int | None, *, allowed: int, demand: Demand, free: int) -> Prefetch:
    """As many workers as wanted, or else as many as the CPUs allow and shared memory has room for.

    Args:
        wanted: `data.workers`.
        allowed: by `default_workers`.
        free: bytes of shared memory.

    Raises:
        SharedMemoryError: what is wanted does not fit; says what is needed and what to change.
    """
    if wanted is None:
        choices = (demand.largest(workers, free) for workers in range(allowed, 0, -1))
        return next((choice for choice in choices if choice is not None), Prefetch(0))
    if not wanted:
        return Prefetch(0)
    chosen = demand.largest(wanted, free)
    if chosen is None:
        need = demand.bytes(Prefetch(wanted))
        raise SharedMemoryError(
            f"{SHARED_MEMORY} has {free / _GIB:.2f} GiB free, but {demand.loaders} x {wanted} loader processes hold up "
            f"to {need / _GIB:.2f} GiB of tiles there, at {demand.pack_bytes / 2**20:.0f} MiB a pack; give the pod "
            "more (resources.sharedMemory), use fewer data.workers, or 0 for a thread of the trainer, which needs none"
        )
    return chosen


def default_workers(cpus: int, *, loaders: int, accelerated: bool) -> int:
    """Loader processes for each process that needs tiles: its share of the CPUs, less one for the trainer, at most 8.

    Without an accelerator the CPUs are busy with training, and a thread does it: 0.
    """
    return max(0, min(MOST_WORKERS, cpus // loaders - 1)) if accelerated else 0


def loaders_among(layout: ParallelLayout, ranks: range) -> int:
    """How many of these ranks need tiles: the first of each tensor-parallel group of the first pipeline stage."""
    return sum(rank % layout.tensor == 0 and rank < layout.tensor * layout.data for rank in ranks)


def free_shared_memory() -> int:
    """Bytes of shared memory that are free now."""
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bavail * found.f_frsize
