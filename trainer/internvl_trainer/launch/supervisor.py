"""Watching over workers: passes their output on, passes signals on, and ends them together and in time.

One thread and one loop: it waits for output, for signals and for time. As PID 1 of a container it also reaps orphans.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from internvl_trainer.contract.exit_codes import explain
from internvl_trainer.launch.outcome import WorkerExit, exit_code
from internvl_trainer.launch.output import Output
from internvl_trainer.launch.workers import Worker

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 1.0
"""Longest wait of the loop: a signal wakes it at once, so this only bounds what a lost wake-up could cost."""


class Supervisor:
    """Runs workers to their end.

    When one fails, or when this process gets SIGTERM or SIGINT, all workers get SIGTERM, and `shutdown_seconds` later
    what is left gets SIGKILL, each with its whole process group.

    Args:
        output: where lines go.
        shutdown_seconds: from SIGTERM to SIGKILL.
    """

    def __init__(self, output: Output, shutdown_seconds: float) -> None:
        self._output = output
        self._shutdown_seconds = shutdown_seconds
        self._running: dict[int, Worker] = {}
        self._exits: list[WorkerExit] = []
        self._partial: dict[int, bytes] = {}
        self._deadline: float | None = None
        self._wanted_stop = False

    def run(self, start: Iterable[Callable[[], Worker]]) -> int:
        """Start workers, one after the other, and wait for all of them.

        Returns:
            the exit code that stands for the whole node, by `outcome.exit_code`.
        """
        with selectors.DefaultSelector() as selector, self._signals_wake(selector):
            for start_one in start:
                worker = start_one()
                self._running[worker.pid] = worker
                selector.register(worker.output, selectors.EVENT_READ, worker)
            while self._running:
                self._pump(selector, self._patience())
                self._reap()
                self._stop_where_needed()
            self._drain(selector)
        return exit_code(self._exits)

    @contextmanager
    def _signals_wake(self, selector: selectors.BaseSelector) -> Iterator[None]:
        """Inside, SIGCHLD wakes the loop and a stop signal is noted besides; afterwards all is as before."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        selector.register(reading, selectors.EVENT_READ, None)
        before = {number: signal.signal(number, self._note) for number in (*_STOP_SIGNALS, signal.SIGCHLD)}
        old_descriptor = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            selector.unregister(reading)
            os.close(reading)
            os.close(writing)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in _STOP_SIGNALS:
            self._wanted_stop = True

    def _patience(self) -> float:
        if self._deadline is None:
            return _POLL_SECONDS
        return min(_POLL_SECONDS, max(0.0, self._deadline - time.monotonic()))

    def _pump(self, selector: selectors.BaseSelector, seconds: float) -> None:
        for key, _ in selector.select(seconds):
            if key.data is None:
                os.read(key.fd, 512)
            elif not self._forward(key.data):
                selector.unregister(key.fd)
                os.close(key.fd)

    def _forward(self, worker: Worker) -> bool:
        """Pass on what a worker has written; False at the end of its output."""
        chunk = os.read(worker.output, 65536)
        *lines, rest = (self._partial.pop(worker.rank, b"") + chunk).split(b"\n")
        if not chunk and rest:
            lines, rest = [*lines, rest], b""
        if lines:
            self._output.show(f"rank {worker.rank}", lines)
        if rest:
            self._partial[worker.rank] = rest
        return bool(chunk)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            worker = self._running.pop(pid, None)
            if worker is not None:  # else an orphan that came to us as PID 1
                self._note_end(WorkerExit(worker.rank, os.waitstatus_to_exitcode(status), self._deadline is not None))

    def _note_end(self, ended: WorkerExit) -> None:
        self._exits.append(ended)
        if ended.code:
            self._output.show("launcher", [f"rank {ended.rank} ended: {explain(ended.code)}".encode()])

    def _stop_where_needed(self) -> None:
        failed = any(each.status for each in self._exits)
        if self._deadline is None and (self._wanted_stop or failed):
            self._deadline = time.monotonic() + self._shutdown_seconds
            self._signal_all(signal.SIGTERM)
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._running.values():
            try:
                # A worker's helpers die with it, but only the worker itself is asked to stop.
                os.killpg(worker.pid, number) if number is signal.SIGKILL else os.kill(worker.pid, number)
            except ProcessLookupError:
                continue  # it ended meanwhile and is about to be reaped

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """Read what the ended workers left in their pipes; a helper that outlives its worker is not waited for."""
        for key in [key for key in selector.get_map().values() if key.data is not None]:
            os.set_blocking(key.fd, False)
            try:
                while self._forward(key.data):
                    pass
            except BlockingIOError:
                pass
            selector.unregister(key.fd)
            os.close(key.fd)
