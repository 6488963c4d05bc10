"""How many processes load packs, and what that takes of shared memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.parallel import Place
from internvl_trainer.train.prefetch import (
    Prefetch,
    SharedMemoryError,
    choose_prefetch,
    default_workers,
    loaders_among,
)

pytestmark = pytest.mark.unit

MIB = 2**20


@pytest.mark.parametrize(
    ("cpus", "loaders", "workers"),
    [(96, 8, 8), (64, 8, 7), (16, 8, 1), (8, 8, 0), (4, 8, 0), (64, 1, 8), (4, 1, 3), (1, 1, 0)],
)
def test_each_loading_process_gets_its_share_of_the_cpus_less_one(cpus: int, loaders: int, workers: int) -> None:
    assert default_workers(cpus, loaders=loaders, accelerated=True) == workers
    assert default_workers(cpus, loaders=loaders, accelerated=False) == 0


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_the_ranks_that_load_are_those_that_need_tiles(tensor: int, pipeline: int, data: int) -> None:
    layout = ParallelLayout(tensor=tensor, pipeline=pipeline, data=data)
    # megatron.core's order of ranks: tensor fastest, then data, then pipeline.
    places = [
        Place(rank, layout.world, rank % tensor, rank // tensor % data, data, rank < tensor * data, False)
        for rank in range(layout.world)
    ]
    for first in range(layout.world):
        for last in range(first + 1, layout.world + 1):
            expected = sum(place.needs_tiles for place in places[first:last])
            assert loaders_among(layout, range(first, last)) == expected


def test_two_steps_ahead_where_shared_memory_allows_or_else_one() -> None:
    sizes = {"per_step": 16, "pack_bytes": 29 * MIB, "loaders": 8, "pinned": True}
    assert choose_prefetch(4, **sizes, free=64 * 1024 * MIB) == Prefetch(4, 2, 4)
    assert choose_prefetch(4, **sizes, free=16 * 29 * 8 * MIB + 4 * 29 * 8 * MIB) == Prefetch(4, 1, 1)
    with pytest.raises(SharedMemoryError, match=r"4.53 GiB.*resources.sharedMemory.*data.workers") as caught:
        choose_prefetch(4, **sizes, free=64 * MIB)
    assert caught.value.exit_code == ExitCode.INVALID_CONFIG


def test_a_thread_needs_no_shared_memory() -> None:
    chosen = choose_prefetch(0, per_step=16, pack_bytes=29 * MIB, loaders=8, pinned=True, free=0)
    assert chosen == Prefetch(0, 2)
    assert chosen.packs(16) == 32


@given(
    workers=st.integers(1, 16), per_step=st.integers(1, 300), loaders=st.integers(1, 8), pinned=st.booleans(),
    free=st.integers(0, 10**5),
)  # fmt: skip
def test_what_is_held_fits_and_is_at_most_so_many_steps_or_a_pack_for_each_worker(
    workers: int, per_step: int, loaders: int, pinned: bool, free: int
) -> None:
    try:
        chosen = choose_prefetch(workers, per_step=per_step, pack_bytes=1, loaders=loaders, pinned=pinned, free=free)
    except SharedMemoryError:
        return
    held = chosen.packs(per_step)
    assert (held + (0 if pinned else per_step)) * loaders <= free
    assert held <= max(chosen.steps * per_step, per_step + workers)
