"""A feed with real loader processes, and packs that do to those what a test asks for."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.data.errors import TooManyBadSamplesError
from internvl_trainer.data.pack import Pack, blank
from internvl_trainer.data.stream import PackStream
from internvl_trainer.data.walk import PackKey
from internvl_trainer.storage import StoreUnavailableError, open_store
from internvl_trainer.train.batches import Batch, PackSource
from internvl_trainer.train.feed import feed
from internvl_trainer.train.prefetch import Prefetch

_NOTHING = np.zeros(0, np.int32)


def open_stream(job: JobConfig, cache: Path) -> PackStream:
    """The stream of a job's data."""
    storage = job.storage
    store = open_store(endpoint_url=storage.endpoint_url, region=storage.region, path_style=storage.path_style)
    return PackStream(
        job.data, model=job.model, loss_reweighting=job.optimization.loss_reweighting, store=store, cache=cache
    )


def fed(source: PackSource, workers: int, *, batch: int = 4, start: DataPosition | None = None) -> "Feed":
    """The whole global batch's packs of each step, on one rank."""
    return feed(
        source,
        start or DataPosition(),
        global_batch=batch,
        rank=0,
        ranks=1,
        with_tiles=True,
        prefetch=Prefetch(workers, 2),
    )


Feed = AbstractContextManager[Iterator[Batch]]


class UnpicklableError(Exception):
    """An error that holds what cannot travel."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.lock = threading.Lock()


class Misbehaving:
    """Blank packs, and one that misbehaves when it is loaded; its own loader, which goes to workers by pickle."""

    def __init__(self, number: int, misdeed: str) -> None:
        self._number = number
        self._misdeed = misdeed

    @property
    def loader(self) -> "Misbehaving":
        """Itself."""
        return self

    def batches(self, position: DataPosition, global_batch: int) -> Iterator[tuple[tuple[PackKey, ...], DataPosition]]:
        """Keys of numbers alone."""
        while True:
            numbers = range(position.packs, position.packs + global_batch)
            position = DataPosition(packs=position.packs + global_batch)
            yield tuple(PackKey(number, 0, _NOTHING, _NOTHING, _NOTHING) for number in numbers), position

    def load(self, key: PackKey, *, with_tiles: bool = True) -> Pack:
        """A blank pack named after the process that made it, or the misdeed."""
        if key.number == self._number:
            _do(self._misdeed)
        return replace(blank(key.number, 8, ((), ())), tokens_S=np.array([os.getpid()]))


def _do(misdeed: str) -> None:
    match misdeed:
        case "data error":
            raise TooManyBadSamplesError("9 of 10 samples are unusable")
        case "store error":
            raise StoreUnavailableError("get s3://bucket/key: SlowDown")
        case "unpicklable error":
            raise UnpicklableError("something with a lock")
        case "hang":
            time.sleep(600)
        case "exit":
            os._exit(3)


def hold_feed(workers: int, report: Path) -> None:
    """Tell the pids of this process's loader processes, and then wait to be killed while they have work."""
    with fed(Misbehaving(-1, ""), workers) as steps:
        pids = {int(pack.tokens_S[0]) for _ in range(6) for pack in next(steps).packs}
        report.write_text(" ".join(map(str, pids)))
        signal.pause()


if __name__ == "__main__":
    hold_feed(int(sys.argv[1]), Path(sys.argv[2]))
