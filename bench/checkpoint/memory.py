"""The most memory of a process, and of those that help it, during a block. Needs Linux's /proc."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL = 0.05
"""Seconds between two looks at helpers; the process's own peak is the kernel's."""


@dataclass(frozen=True)
class Peak:
    """Bytes of resident memory."""

    before: int
    """Of this process when the block began."""
    here: int
    """The most of this process."""
    helpers: int
    """The most of any one other process that works for it, shared memory included; 0 without such."""
    helpers_private: int
    """The same without files and shared memory."""

    @property
    def more(self) -> int:
        """The most that this process had above what it began with."""
        return max(0, self.here - self.before)


class Watch:
    """Measures as long as a `with` block lasts."""

    def __init__(self, helpers: Callable[[], Sequence[int]]) -> None:
        self._helpers = helpers
        self._before = self._rss = self._private = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak = Peak(0, 0, 0, 0)

    def __enter__(self) -> "Watch":
        # Sets the kernel's peak back to what is there now: getrusage keeps one for the process's whole life.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = resident("VmRSS")
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = Peak(self._before, resident("VmHWM"), self._rss, self._private)

    def _look(self) -> None:
        while not self._ended.wait(INTERVAL):
            for pid in self._helpers():
                self._rss = max(self._rss, resident("VmRSS", pid))
                self._private = max(self._private, resident("RssAnon", pid))


def resident(field: str, pid: int | None = None) -> int:
    """Bytes, by a field of /proc/<pid>/status; 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
