"""Packs ahead of the step that needs them: a bounded queue filled by one thread."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

from internvl_trainer.data.stream import Pack


class PackSource(Protocol):
    """Where packs come from; PackStream is one."""

    def pack(self, index: int, *, with_tiles: bool = True) -> Pack: ...


class PackFeed:
    """The packs of one rank, step by step, prepared up to `ahead` steps before they are asked for.

    Decoding images and encoding text mostly happens outside the interpreter lock, so a thread overlaps with the
    engine's work. A context manager: leaving it ends the thread.

    Args:
        source: makes packs.
        steps: for each step to come, the numbers of this rank's packs.
        with_tiles: whether this rank needs pixels.
        ahead: steps of packs to hold at most.
    """

    def __init__(self, source: PackSource, steps: Iterable[list[int]], *, with_tiles: bool, ahead: int = 2) -> None:
        self._source = source
        self._steps = steps
        self._with_tiles = with_tiles
        self._ready: queue.Queue[list[Pack] | Exception | None] = queue.Queue(maxsize=ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="pack-feed", daemon=True)

    def __enter__(self) -> "PackFeed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(timeout=10)

    def __iter__(self) -> Iterator[list[Pack]]:
        """The packs of each step in turn.

        Raises:
            DataError, StoreError: what the source raised, when its step comes.
        """
        while (step := self._ready.get()) is not None:
            if isinstance(step, Exception):
                raise step
            yield step

    def _fill(self) -> None:
        try:
            for indices in self._steps:
                if not self._offer([self._source.pack(index, with_tiles=self._with_tiles) for index in indices]):
                    return
            self._offer(None)
        except Exception as error:  # noqa: BLE001  (handed to the consumer, which raises it)
            self._offer(error)

    def _offer(self, item: list[Pack] | Exception | None) -> bool:
        """Put an item into the queue; False where the feed is being closed."""
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
