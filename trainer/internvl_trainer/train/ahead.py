"""Items that a thread makes before they are asked for, and never more of them than agreed."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class _Raised:
    error: Exception


class _End:
    """No further item."""


class Ahead[T]:
    """The items of an iterable, made by one thread up to `depth` items ahead.

    A context manager: leaving it ends the thread, and closes the iterable where it is a generator.

    Args:
        items: asked from the thread alone, in order.
        depth: items at most that are made, or being made, and not yet taken.
        name: of the thread.
    """

    def __init__(self, items: Iterable[T], *, depth: int, name: str) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[T | _Raised | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._closing = threading.Event()
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._make, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._room.release()
        # Where `fail` was needed the thread may hang for good.
        if not self._failed.is_set():
            self._thread.join(timeout=10)

    def __iter__(self) -> Iterator[T]:
        """The items in turn.

        Raises:
            Exception: what the iterable raised, when its item is due; what `fail` was given, at once.
        """
        while not isinstance(item := self._ready.get(), _End):
            if isinstance(item, _Raised):
                raise item.error
            self._room.release()
            yield item

    def fail(self, error: Exception) -> None:
        """Raise an error at whoever waits for the next item, though the iterable may hang for ever."""
        self._failed.set()
        self._ready.put(_Raised(error))

    def _make(self) -> None:
        try:
            items = iter(self._items)
            while self._has_room():
                try:
                    self._ready.put(next(items))
                except StopIteration:
                    self._ready.put(_End())
                    return
        except Exception as error:  # noqa: BLE001  (handed to the consumer, which raises it)
            self._ready.put(_Raised(error))
        finally:
            if isinstance(self._items, Generator):
                self._items.close()

    def _has_room(self) -> bool:
        self._room.acquire()
        return not self._closing.is_set()
