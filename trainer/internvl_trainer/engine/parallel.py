"""Process groups: from torchrun's environment and a layout to this process's place in the grid."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch

from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine import cpu_shim
from internvl_trainer.engine.errors import WorldSizeError, lost_peers_named

TIMEOUT = timedelta(minutes=10)
"""How long a collective may wait for a peer. A dead peer closes its connections and is noticed at once."""


@dataclass(frozen=True)
class Place:
    """Where this process stands in the tensor x pipeline x data grid."""

    rank: int
    world: int
    tensor_rank: int
    data_rank: int
    data_size: int
    first_stage: bool
    last_stage: bool

    @property
    def needs_tiles(self) -> bool:
        """Whether this process decodes image tiles: one per data-parallel rank does, and sends them to its peers."""
        return self.first_stage and self.tensor_rank == 0

    @property
    def reports(self) -> bool:
        """Whether this is the one process that reports progress: the last pipeline stage's first."""
        return self.last_stage and self.tensor_rank == 0 and self.data_rank == 0

    def pack_indices(self, step: int, global_batch: int) -> list[int]:
        """Numbers of the packs that this rank trains on in a step (0-based), in micro-batch order."""
        first = step * global_batch + self.data_rank
        return list(range(first, (step + 1) * global_batch, self.data_size))


def start(layout: ParallelLayout) -> Place:
    """Join the job's process groups: NCCL on CUDA, gloo on CPU. Reads RANK, WORLD_SIZE, LOCAL_RANK and MASTER_*.

    Raises:
        WorldSizeError: the layout needs another number of processes.
        PeerLostError: not all of them came.
    """
    world = int(os.environ["WORLD_SIZE"])
    if world != layout.world:
        shape = f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}"
        raise WorldSizeError(world, shape, layout.world)
    if not cpu_shim.install():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with lost_peers_named("rendezvous"):
        torch.distributed.init_process_group(_backend(), timeout=TIMEOUT)
        return _join_grid(layout)


@contextmanager
def alone() -> Iterator[Place]:
    """A grid of this one process, without network and environment: for evaluation and tools."""
    cpu_shim.install()
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group(_backend(), store=store, rank=0, world_size=1)
    try:
        yield _join_grid(ParallelLayout())
    finally:
        stop()


def _backend() -> str:
    return "gloo" if cpu_shim.is_needed() else "nccl"


def _join_grid(layout: ParallelLayout) -> Place:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    # Under sequence parallelism megatron draws from random states per rank, which this tracker says there are none of:
    # nothing here draws from them. Drop path has draws of its own, and there is no dropout.
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        create_gloo_process_groups=False,
    )
    return Place(
        rank=torch.distributed.get_rank(),
        world=torch.distributed.get_world_size(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        first_stage=parallel_state.is_pipeline_first_stage(),
        last_stage=parallel_state.is_pipeline_last_stage(),
    )


def stop() -> None:
    """Leave the process groups. Only for an orderly end: with a dead peer this would wait for it."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank of the job. Collective."""
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    votes = torch.tensor(float(flag), device=device)
    with lost_peers_named("a vote"):
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        return bool(votes.item())
