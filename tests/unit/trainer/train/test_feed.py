"""Packs come in order, ahead of time but not too far, and faults come when their step does."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data.pack import Pack, blank
from internvl_trainer.data.walk import PackKey
from internvl_trainer.train.ahead import Ahead
from internvl_trainer.train.feed import feed
from internvl_trainer.train.prefetch import Prefetch

pytestmark = pytest.mark.unit

NOTHING = np.zeros(0, np.int32)


class CountingSource:
    """Blank packs by number, without end, and a memory of which were loaded."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.loaded: list[tuple[int, bool]] = []
        self.breaks_at = breaks_at

    @property
    def loader(self) -> "CountingSource":
        return self

    def batches(self, position: DataPosition, global_batch: int) -> Iterator[tuple[tuple[PackKey, ...], DataPosition]]:
        while True:
            numbers = range(position.packs, position.packs + global_batch)
            position = DataPosition(packs=position.packs + global_batch)
            yield tuple(PackKey(number, 0, NOTHING, NOTHING, NOTHING) for number in numbers), position

    def load(self, key: PackKey, *, with_tiles: bool = True) -> Pack:
        self.loaded.append((key.number, with_tiles))
        if key.number == self.breaks_at:
            raise ValueError(f"pack {key.number} is damaged")
        return blank(key.number, 8, ((), ()))


def fed(source: CountingSource, *, first: int = 0, rank: int = 0, ranks: int = 1, with_tiles: bool = True):  # type: ignore[no-untyped-def]
    """A thread's feed of four packs a step."""
    start = DataPosition(packs=first)
    return feed(source, start, global_batch=4, rank=rank, ranks=ranks, with_tiles=with_tiles, prefetch=Prefetch(0))


def test_each_step_has_this_ranks_packs_in_order_and_says_where_the_data_then_stands() -> None:
    with fed(CountingSource(), first=8, rank=1, ranks=2) as steps:
        taken = [next(steps) for _ in range(3)]
    assert [[pack.index for pack in packs] for packs, _ in taken] == [[9, 11], [13, 15], [17, 19]]
    assert [position.packs for _, position in taken] == [12, 16, 20]


@pytest.mark.parametrize("with_tiles", [True, False])
def test_pixels_are_asked_for_where_they_are_needed(with_tiles: bool) -> None:
    source = CountingSource()
    with fed(source, with_tiles=with_tiles) as steps:
        next(steps)
    assert {asked for _, asked in source.loaded} == {with_tiles}


def test_a_fault_is_raised_at_its_step_and_not_before() -> None:
    with fed(CountingSource(breaks_at=6)) as steps:
        assert [pack.index for pack in next(steps).packs] == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="pack 6 is damaged"):
            next(steps)


def test_leaving_it_early_ends_its_threads() -> None:
    with fed(CountingSource()) as steps:
        next(steps)
    assert not {"pack-feed", "pack-plans"} & {thread.name for thread in threading.enumerate()}


def test_it_prepares_so_many_items_ahead_and_then_waits() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    with Ahead(numbers(), depth=2, name="numbers") as ahead:
        assert next(iter(ahead)) == 0
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2]  # one taken, two waiting


def test_an_iterable_that_hangs_does_not_keep_a_failure_from_its_consumer() -> None:
    hanging = threading.Event()
    with Ahead(iter(hanging.wait, None), depth=1, name="hanging") as ahead:
        ahead.fail(ValueError("something broke elsewhere"))
        with pytest.raises(ValueError, match="elsewhere"):
            next(iter(ahead))
    hanging.set()


def test_a_generator_is_closed_when_nobody_wants_more_of_it() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with Ahead(endless(), depth=1, name="endless") as ahead:
        next(iter(ahead))
    assert closed.wait(5)


def test_an_iterable_that_ends_ends_its_consumer() -> None:
    with Ahead([1, 2, 3], depth=1, name="three") as ahead:
        assert list(ahead) == [1, 2, 3]
