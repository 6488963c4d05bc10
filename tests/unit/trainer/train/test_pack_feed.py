"""Packs come in order, ahead of time but not too far, and faults come when their step does."""

import threading
import time

import numpy as np
import pytest

from internvl_trainer.data.stream import Pack
from internvl_trainer.train.feed import PackFeed

pytestmark = pytest.mark.unit


class CountingSource:
    """Empty packs, and a memory of which were asked for."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.breaks_at = breaks_at

    def pack(self, index: int, *, with_tiles: bool = True) -> Pack:
        self.asked.append(index)
        if index == self.breaks_at:
            raise ValueError(f"pack {index} is damaged")
        nothing = np.zeros(0, np.int64)
        tiles = np.zeros((0, 8, 8, 3), np.uint8) if with_tiles else None
        return Pack(index, (), nothing, nothing, nothing.astype(np.float32), np.zeros(1, np.int32), tiles, 0)


def test_each_step_gets_its_packs_in_order() -> None:
    with PackFeed(CountingSource(), [[0, 1], [2, 3], [4, 5]], with_tiles=False) as feed:
        assert [[pack.index for pack in packs] for packs in feed] == [[0, 1], [2, 3], [4, 5]]


def test_it_prepares_a_few_steps_ahead_and_then_waits() -> None:
    source = CountingSource()
    with PackFeed(source, ([step] for step in range(1000)), with_tiles=True, ahead=2) as feed:
        next(iter(feed))
        deadline = time.monotonic() + 5
        while len(source.asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(source.asked) == 4  # one taken, two waiting, one in hand


def test_a_fault_is_raised_at_its_step_and_not_before() -> None:
    with PackFeed(CountingSource(breaks_at=1), [[0], [1], [2]], with_tiles=False) as feed:
        steps = iter(feed)
        assert [pack.index for pack in next(steps)] == [0]
        with pytest.raises(ValueError, match="pack 1 is damaged"):
            next(steps)


def test_leaving_it_early_ends_its_thread() -> None:
    with PackFeed(CountingSource(), ([step] for step in range(1000)), with_tiles=False) as feed:
        next(iter(feed))
    assert "pack-feed" not in {thread.name for thread in threading.enumerate()}
