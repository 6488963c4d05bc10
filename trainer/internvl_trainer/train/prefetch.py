"""How packs are loaded ahead of the steps that need them: how many processes do it, and what memory that takes. Pure,
but for the questions to the operating system at the end.
"""

import os
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
    """How one process loads its packs.

    Attributes:
        workers: processes that load; 0 for a thread of this process.
        steps: steps whose packs are held ready at most.
        per_worker: packs that one worker loads ahead of the step being put together.
    """

    workers: int
    steps: int
    per_worker: int = 1

    def packs(self, per_step: int) -> int:
        """Packs at most that are ready or being loaded, where this process trains on `per_step` packs a step."""
        if not self.workers:
            return self.steps * per_step
        return per_step + self.workers * self.per_worker

    def __str__(self) -> str:
        processes = f"{self.workers} process{'es' * (self.workers > 1)}"
        return f"{processes if self.workers else 'a thread'}, up to {self.steps} steps ahead"


def choose_prefetch(workers: int, *, per_step: int, pack_bytes: int, loaders: int, pinned: bool, free: int) -> Prefetch:
    """Two steps ahead where that fits into shared memory, or else one.

    A worker always has a pack in hand, so with fewer packs a step than workers it is one pack for each worker.

    Args:
        workers: processes that load for this one; 0 for a thread, which needs no shared memory.
        per_step: packs that this process trains on in a step.
        pack_bytes: of the tiles of a full pack.
        loaders: processes of this node that load so.
        pinned: whether tiles are copied to pinned memory as soon as they arrive.
        free: bytes of shared memory.

    Raises:
        SharedMemoryError: one step ahead does not fit either; says what is needed and what to change.
    """
    if not workers:
        return Prefetch(0, 2)
    need = 0
    for steps in (2, 1):
        prefetch = Prefetch(workers, steps, max(1, (steps - 1) * per_step // workers))
        # The step that is being trained on holds its packs where they arrived.
        held = prefetch.packs(per_step) + (0 if pinned else per_step)
        need = held * pack_bytes * loaders
        if need <= free:
            return prefetch
    raise SharedMemoryError(
        f"{SHARED_MEMORY} has {free / _GIB:.2f} GiB free, but {loaders} x {workers} loader processes hold up to "
        f"{need / _GIB:.2f} GiB of tiles ready, one step of {per_step} packs of {pack_bytes / 2**20:.0f} MiB; give the "
        "pod more (resources.sharedMemory), use fewer data.workers, or 0 for a thread of the trainer, which needs none"
    )


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
