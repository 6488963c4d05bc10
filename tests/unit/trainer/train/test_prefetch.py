"""How many processes load packs, and what that takes of shared memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.parallel import Place
from internvl_trainer.train.prefetch import (
    Demand,
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


def demand(per_step: int = 16, *, loaders: int = 8, pinned: bool = True, pack_bytes: int = 29 * MIB) -> Demand:
    return Demand(per_step, pack_bytes, loaders, pinned)


def test_each_worker_is_a_share_of_a_step_ahead_where_shared_memory_allows_or_else_less() -> None:
    packs = 29 * 8 * MIB  # one for each of the node's loading processes
    assert choose_prefetch(4, allowed=0, demand=demand(), free=64 * packs) == Prefetch(4, 4)
    assert choose_prefetch(4, allowed=0, demand=demand(), free=11 * packs) == Prefetch(4, 2)
    assert choose_prefetch(4, allowed=0, demand=demand(), free=4 * packs) == Prefetch(4, 1)
    assert choose_prefetch(8, allowed=0, demand=demand(1), free=64 * packs) == Prefetch(8, 1)


def test_workers_that_are_asked_for_and_do_not_fit_are_refused() -> None:
    with pytest.raises(SharedMemoryError, match=r"0.06 GiB free.*0.91 GiB.*resources.sharedMemory.*workers") as caught:
        choose_prefetch(4, allowed=8, demand=demand(), free=64 * MIB)
    assert caught.value.exit_code == ExitCode.INVALID_CONFIG


def test_without_a_wish_there_are_as_many_workers_as_fit_or_a_thread() -> None:
    # The operator's default, 1 GiB, with 8 GPUs a pod.
    assert choose_prefetch(None, allowed=8, demand=demand(), free=1024 * MIB) == Prefetch(4, 1)
    assert choose_prefetch(None, allowed=2, demand=demand(), free=1024 * MIB) == Prefetch(2, 2)
    assert choose_prefetch(None, allowed=8, demand=demand(), free=64 * MIB) == Prefetch(0)
    assert choose_prefetch(None, allowed=0, demand=demand(), free=1024 * MIB) == Prefetch(0)


def test_a_thread_needs_no_shared_memory() -> None:
    assert choose_prefetch(0, allowed=8, demand=demand(), free=0) == Prefetch(0)


@given(
    wanted=st.one_of(st.none(), st.integers(1, 16)), per_step=st.integers(1, 300), loaders=st.integers(1, 8),
    pinned=st.booleans(), free=st.integers(0, 10**4),
)  # fmt: skip
def test_what_is_held_fits_and_is_at_most_a_step_or_a_pack_for_each_worker(
    wanted: int | None, per_step: int, loaders: int, pinned: bool, free: int
) -> None:
    asked = demand(per_step, loaders=loaders, pinned=pinned, pack_bytes=1)
    try:
        chosen = choose_prefetch(wanted, allowed=8, demand=asked, free=free)
    except SharedMemoryError:
        assert wanted is not None
        assert asked.bytes(Prefetch(wanted)) > free
        return
    if chosen.workers:
        assert asked.bytes(chosen) <= free
        assert chosen.workers * chosen.per_worker <= max(per_step, chosen.workers)


def test_the_log_says_who_loads() -> None:
    said = [str(Prefetch(*each)) for each in [(0,), (1, 4), (3, 1)]]
    assert said == ["a thread", "1 process, up to 4 packs ahead", "3 processes, up to 1 pack ahead each"]
