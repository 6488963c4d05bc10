"""Worker processes that leave Ctrl-C to their parent from their first moment on, and never outlive it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from types import TracebackType
from typing import Literal


class WorkerPool(ProcessPoolExecutor):
    """A pool of processes; a context manager. Where its block ends by an error, work under way is not waited for.

    Args:
        workers: how many processes; they start when there is work.
        start: never a fork, which copies locks that other threads hold.
        begin: called once in every process, with `given`.
    """

    def __init__(
        self,
        workers: int,
        *,
        start: Literal["spawn", "forkserver"] = "spawn",
        begin: Callable[..., None] | None = None,
        given: tuple[object, ...] = (),
    ) -> None:
        self._others = set(multiprocessing.active_children())
        super().__init__(workers, multiprocessing.get_context(start), initializer=_begin, initargs=(begin, given))

    def submit[**P, Result](self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> "Future[Result]":
        """See `Executor.submit`."""
        # Processes start here and inherit the mask: a terminal's Ctrl-C must not meet one that still imports.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        self.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[..., None] | None, given: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its pool, whose processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in processes that multiprocessing started"
    connection.wait([parent.sentinel])
    os._exit(1)
